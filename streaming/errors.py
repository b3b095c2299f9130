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
]


class EgoliveError(Exception):
    """Anything that the user can mend; the message is the whole story, in one line."""


class ConfigError(EgoliveError, ValueError):
    """A setting has a value that cannot work."""


class UsageError(ConfigError):
    """A command was called without something that it needs, or with something that it cannot take."""


class SourceError(EgoliveError):
    """A source cannot be opened or read."""


class SourceLost(SourceError):  # noqa: N818
    """A live source was there and stopped answering."""


class EngineError(EgoliveError):
    """A model cannot be loaded, or failed while answering."""


class SinkError(EgoliveError):
    """An output cannot be written."""


class DataError(EgoliveError):
    """A data set, recipe or recording cannot be used."""
