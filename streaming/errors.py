"""The errors a user can meet, each one line: what happened, where, and what to do.

    EgoliveError
    ├── ConfigError      a setting is wrong (also a ValueError)
    │   └── UsageError   the command was called the wrong way
    ├── SourceError      a camera, address or file cannot be opened or read
    │   └── SourceLost   a live source stopped answering
    ├── EngineError      a model cannot be loaded or failed while answering
    ├── SinkError        an output cannot be written
    └── DataError        a data set, recipe or recording cannot be used

The command line prints these without a traceback and exits with 1, for UsageError with 2; any other exception
is a bug and traces.
"""

__all__ = [
    "ConfigError",
    "DataError",
    "EgoliveError",
    "EngineError",
    "SinkError",
    "SourceError",
    "SourceLost",
    "UsageError",
    "one_line",
]


class EgoliveError(Exception):
    """Anything that the user can mend; the message is the whole story, in one line.

    Example:
        >>> import egolive
        >>> try:
        ...     egolive.open_source("missing.mp4")
        ... except egolive.EgoliveError as error:
        ...     print(error)
        missing.mp4: there is no such file or folder; check the path
    """


class ConfigError(EgoliveError, ValueError):
    """A setting has a value that cannot work.

    Example:
        >>> import egolive
        >>> egolive.open_source("test:", fps=-1)
        Traceback (most recent call last):
        egolive.ConfigError: fps: -1 frames a second cannot work; give more than 0 and at most 1000
    """


class UsageError(ConfigError):
    """A command was called without something that it needs, or with something that it cannot take.

    Example:
        >>> import egolive
        >>> import numpy as np
        >>> with egolive.load_model("nano") as model:
        ...     model.ask(np.zeros((28, 28, 3), np.uint8), task="intent")
        Traceback (most recent call last):
        egolive.UsageError: the task intent needs a video; give a video file or a folder of frames
    """


class SourceError(EgoliveError):
    """A source cannot be opened or read.

    Example:
        >>> import egolive
        >>> egolive.open_source("missing.mp4")
        Traceback (most recent call last):
        egolive.SourceError: missing.mp4: there is no such file or folder; check the path
    """


class SourceLost(SourceError):  # noqa: N818
    """A live source was there and stopped answering.

    Example:
        >>> import egolive
        >>> issubclass(egolive.SourceLost, egolive.SourceError)
        True
    """


class EngineError(EgoliveError):
    """A model cannot be loaded, or failed while answering.

    Example:
        >>> import egolive
        >>> egolive.load_model("missing-folder")
        Traceback (most recent call last):
        egolive.EngineError: there is no folder 'missing-folder'; give a checkpoint folder, a hub id ...
    """


class SinkError(EgoliveError):
    """An output cannot be written.

    Example:
        >>> import egolive
        >>> issubclass(egolive.SinkError, egolive.EgoliveError)
        True
    """


class DataError(EgoliveError):
    """A data set, recipe or recording cannot be used.

    Example:
        >>> import egolive
        >>> issubclass(egolive.DataError, egolive.EgoliveError)
        True
    """


def one_line(told: object, most: int = 300) -> str:
    r"""What somebody else's error or answer says, as part of a line: at most so many characters.

    Args:
        told: An exception, or anything with a text; an exception without words is told by its type.
        most: Characters that are kept.

    Example:
        >>> one_line(ValueError("first line\nsecond line")), one_line(TimeoutError())
        ('first line second line', 'TimeoutError')
    """
    return " ".join(str(told).split())[:most] or type(told).__name__
