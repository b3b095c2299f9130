"""The `egolive` command: subcommands, exit codes, logs. The work is imported when its command is called.

Exit codes: 0 done, 1 something the user can mend, 2 wrong usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from types import FrameType
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError
from rich.console import Console
from rich.logging import RichHandler

from egolive.streaming.errors import EgoliveError, UsageError

__all__ = ["app", "call", "main"]

Level = Literal["debug", "info", "warning", "error"]

_EXTRAS = dict.fromkeys(("onnx", "onnxruntime", "modelopt", "bitsandbytes"), "quantize") | {"gradio": "demo"}
"""Where a missing package is one of another extra than `train`."""

app = App(
    name="egolive",
    help="EgoThinker, live: intent and hand-object grounding from a first-person camera stream.",
    version=lambda: metadata.version("egolive"),
    help_format="plaintext",
    # `call` tells an interruption, and which one it was.
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
app.command(
    "egolive.assistant.cli.run_command:run",
    name="run",
    help="Run the assistant on a camera, an address or a file.",
)
app.command(
    "egolive.assistant.cli.replay_command:replay_command",
    name="replay",
    help="Run a recording, or give an answer, once more.",
)
app.command(
    "egolive.assistant.cli.recall_command:recall_command", name="recall", help="Find where something was put."
)
app.command(
    "egolive.assistant.cli.recall_command:forget_command", name="forget", help="Forget the last minutes."
)
app.command(
    "egolive.assistant.cli.ask_command:ask_command",
    name="ask",
    help="Ask one question of pictures or a video.",
)
app.command(
    "egolive.assistant.diagnostics.doctor:doctor",
    name="doctor",
    help="Tell what fits this machine and what is missing.",
)
app.command("egolive.demo.app:demo", name="demo", help="Show it all on a web page.")
app.command(
    "egolive.train.simulator.write:simulate", name="simulate", help="Write simulated first-person episodes."
)
app.command(
    "egolive.train.data.rows_command:write_rows", name="rows", help="Turn a data set's annotations into rows."
)
app.command(
    "egolive.train.evaluate.evaluate:evaluate",
    name="evaluate",
    help="Measure a model on simulated or real data.",
)
train = App(name="train", help="Train a model from a recipe.")
train.command("egolive.train.train_commands:sft", name="sft", help="Train by supervised fine-tuning.")
train.command(
    "egolive.train.train_commands:grpo", name="grpo", help="Train grounding by GRPO with IoU rewards."
)
train.command(
    "egolive.train.train_commands:ablation",
    name="ablation",
    help="Compare grounding by SFT with grounding by GRPO.",
)
app.command(train)
app.command(
    "egolive.quantize.quantize_commands:export", name="export", help="Write a model as an engine folder."
)
app.command(
    "egolive.quantize.quantize_commands:quantize",
    name="quantize",
    help="Write an engine folder with fewer bits, or compare engines.",
)
bench = App(name="bench", help="Measure speed and quality; prints a table and one JSON line.")
bench.command(
    "egolive.benchmarks.stream.stream_bench:stream",
    name="stream",
    help="What reuse saves over the naive loop, and that it is exact.",
)
bench.command(
    "egolive.benchmarks.quality.tracking_accuracy:tracking",
    name="tracking",
    help="How well late boxes are carried to now.",
)
bench.command(
    "egolive.benchmarks.quality.recall_accuracy:recall_bench",
    name="recall",
    help="How often a memory knows when and where something was put.",
)
bench.command(
    "egolive.benchmarks.cost.latency:latency",
    name="latency",
    help="Glass to overlay and the age of answers, stage by stage.",
)
bench.command(
    "egolive.benchmarks.cost.engines:engines",
    name="engines",
    help="What engines cost, against what the machine could do.",
)
bench.command(
    "egolive.benchmarks.stream.peers:peers",
    name="peers",
    help="The same questions, asked of what one would use instead.",
)
bench.command(
    "egolive.benchmarks.stream.scaling:scaling",
    name="scaling",
    help="What an answer costs as windows, pictures, questions or hours grow.",
)
bench.command(
    "egolive.benchmarks.quality.quality_bench:quality",
    name="quality",
    help="How well engines answer, beside chance.",
)
bench.command(
    "egolive.benchmarks.report.everything:all_benchmarks", name="all", help="All of them, into one report."
)
bench.command(
    "egolive.benchmarks.robustness.soak:soak",
    name="soak",
    help="Hours of stream, and all that goes wrong in a day.",
)
bench.command(
    "egolive.benchmarks.robustness.fuzz:fuzz",
    name="fuzz",
    help="Removed; see `make robustness` in a source tree.",
)
bench.command(
    "egolive.benchmarks.cost.overhead:overhead",
    name="overhead",
    help="What the loop costs beside the engine.",
)
app.command(bench)


def main() -> None:
    """Entry point of the `egolive` console script."""
    signal.signal(signal.SIGTERM, _terminate)
    code = call(sys.argv[1:])
    if any(thread.name.startswith("egolive-") for thread in threading.enumerate()):
        # A thread that hangs was left behind; the interpreter's own end could hang with it.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def call(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is told in one line on standard error."""
    try:
        result = app.meta(list(tokens), result_action="return_value", exit_on_error=False, print_error=False)
    except UnknownCommandError as error:
        # Its own message imports every command, to suggest a name.
        _tell(f"there is no command {' '.join(error.unused_tokens or tokens)!r}; see egolive --help")
        return 2
    except CycloptsError as error:
        _tell(f"{' '.join(str(error).split())} (see egolive --help)")
        return 2
    except UsageError as error:
        _tell(str(error))
        return 2
    except EgoliveError as error:
        _tell(str(error))
        return 1
    except ImportError as error:
        missing = _missing_package(error)
        if not missing:
            raise
        extra = _EXTRAS.get(missing, "train")
        _tell(
            f"this command needs the package {missing}, which is not installed: "
            f"pip install 'egolive[{extra}]'"
        )
        return 1
    except BrokenPipeError:
        return 1
    except MemoryError:
        _tell("memory ran out; use a smaller model or fewer --slices, or close other programs")
        return 1
    except KeyboardInterrupt as error:
        code = error.args[0] if error.args else 130
        _tell("terminated" if code == 143 else "interrupted")
        return int(code)
    return result if isinstance(result, int) else 0


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    log_level: Annotated[Level, Parameter(help="What is logged to standard error.")] = "warning",
) -> object:
    _configure_logs(log_level)
    return app(tokens, result_action="return_value", exit_on_error=False, print_error=False)


def _configure_logs(level: Level) -> None:
    """Log to standard error: for people on a terminal, one JSON object a line otherwise."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="[%X]"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonFormatter())
    logger = logging.getLogger("egolive")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    # That a kernel which would come from the hub is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _terminate(number: int, _: FrameType | None) -> None:
    """End any command as Ctrl-C does, with an exit code of its own."""
    raise KeyboardInterrupt(128 + number)


def _missing_package(error: BaseException | None) -> str:
    """The package of someone else that an import did not find; empty where the error is our own."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("egolive"):
            return error.name.partition(".")[0]
        error = error.__cause__
    return ""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _tell(message: str) -> None:
    sys.stderr.write(f"egolive: {' '.join(message.split())}\n")
