"""The events of a run on standard output: the lines of `events.jsonl`, as they come."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from egolive.assistant.cli.printing import json_text
from egolive.assistant.live.sinks import Shown, answer_event
from egolive.streaming.errors import SinkError

__all__ = ["EventStream"]


class EventStream:
    """Writes events as JSON lines to standard output, each at once."""

    only_new = True

    def emit(self, shown: Shown) -> None:
        """Write one line for each new answer, and for those that came too late."""
        for answer in (*shown.new, *shown.late):
            self.note(answer_event(answer, shown.now))

    def note(self, event: Mapping[str, object]) -> None:
        """Write one line.

        Raises:
            BrokenPipeError: Nobody reads standard output any more.
            SinkError: Its disk is full.
        """
        try:
            sys.stdout.write(json_text(event) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SinkError(f"cannot write to standard output: {error.strerror or error}") from error

    def close(self) -> None:
        """Standard output stays open."""
