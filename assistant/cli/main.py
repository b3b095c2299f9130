"""The `egolive` command: subcommands, exit codes, logs. The work is imported when its command is called.

Exit codes: 0 done, 1 something the user can mend, 2 wrong usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError
from cyclopts.completion.detect import ShellDetectionError, detect_shell
from rich.console import Console
from rich.logging import RichHandler

from egolive.assistant.cli.printing import note
from egolive.streaming.errors import EgoliveError, UsageError

__all__ = ["app", "call", "main"]

Level = Literal["debug", "info", "warning", "error"]
_Shell = Literal["zsh", "bash", "fish", "powershell"]
_SHELL_HELP = "Shell type for completion. If not specified, attempts to auto-detect current shell."
_OUTPUT_HELP = "Output path for the completion script. If not specified, uses shell-specific default."

_EXTRAS = dict.fromkeys(("onnx", "onnxruntime", "modelopt", "bitsandbytes"), "quantize") | {"gradio": "demo"}
"""Where a missing package is one of another extra than `train`."""
_LONGEST_MESSAGE = 500
"""Characters of an error."""

_LIVE = Group("Watch and ask", sort_key=1)
_MODELS = Group("Models and data", sort_key=2)
_MACHINE = Group("This machine", sort_key=3)

app = App(
    name="egolive",
    help="EgoThinker, live: intent and hand-object grounding from a first-person camera stream.",
    version=lambda: metadata.version("egolive"),
    help_format="plaintext",
    # `call` tells an interruption, and which one it was.
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
train = App(name="train", help="Train a model from a recipe.", group=_MODELS)
models = App(name="models", help="List and remove the engines that were built here.", group=_MODELS)
bench = App(name="bench", help="Measure speed and quality; prints a table and one JSON line.", group=_MACHINE)


def _add(parent: App, name: str, target: str, text: str, *examples: str, group: Group | None = None) -> None:
    """A command whose module is imported when it is called; `examples` end its help."""
    more: dict[str, Any] = {} if group is None else {"group": group}
    if examples:
        lines = "\n".join(f"  egolive {example}" for example in examples)
        more["help_epilogue"] = f"Examples:\n{lines}"
    parent.command(f"egolive.{target}", name=name, help=text, **more)


_add(
    app,
    "run",
    "assistant.cli.run_command:run",
    "Run the assistant on a camera, an address or a file.",
    "run",
    "run 0 --model hyf015/EgoThinker-v1",
    "run rtsp://camera/stream --out out",
    "run kitchen.mp4 --json > events.jsonl",
    group=_LIVE,
)
_add(
    app,
    "ask",
    "assistant.cli.ask_command:ask_command",
    "Ask one question of pictures or a video.",
    'ask kitchen.jpg "What is on the table?"',
    "ask clip.mp4 --task intent",
    'ask kitchen.jpg "red mug" --task ground --json',
    group=_LIVE,
)
_add(
    app,
    "demo",
    "demo.app:demo",
    "Show it all on a web page.",
    "demo",
    "demo --source rtsp://camera/stream",
    "demo --host 0.0.0.0 --https --auth me:secret",
    group=_LIVE,
)
_add(
    app,
    "recall",
    "assistant.cli.recall_command:recall_command",
    "Find where something was put.",
    "run 0 --memory mine",
    'recall mine "where did I put the cup?" --thumbnail cup.jpg',
    group=_LIVE,
)
_add(
    app,
    "forget",
    "assistant.cli.recall_command:forget_command",
    "Forget the last minutes.",
    "forget mine 10",
    group=_LIVE,
)
_add(
    app,
    "replay",
    "assistant.cli.replay_command:replay_command",
    "Run a recording, or give an answer, once more.",
    "run 0 --record session",
    "replay session --out again",
    "replay session --model engines/onnx-int4",
    group=_LIVE,
)
_add(
    app,
    "service",
    "assistant.cli.service_command:service",
    "Print or install a systemd unit that starts a run with the machine.",
    "service 0 --out /srv/egolive --segment 10 --keep 20GB",
    "service --user --install 0 --out out --segment 10 --keep 20GB",
    group=_LIVE,
)
_add(
    app,
    "doctor",
    "assistant.diagnostics.doctor:doctor",
    "Tell what fits this machine and what is missing.",
    "doctor",
    "doctor --latency --model nano",
    "doctor --prove hyf015/EgoThinker-v1 --out proof",
    group=_MACHINE,
)
_add(
    app,
    "simulate",
    "train.simulator.write:simulate",
    "Write simulated first-person episodes.",
    "simulate data/sim-train --episodes 2300 --fps 2",
    "train sft nano-sft --data data/sim-train",
    group=_MODELS,
)
_add(
    app,
    "rows",
    "train.data.rows_command:write_rows",
    "Turn a data set's annotations into rows.",
    "rows visor GroundTruth-SparseAnnotations/annotations/train visor.jsonl --errata correct.json",
    "rows epic EPIC_100_train.csv epic.jsonl --lengths EPIC_100_video_info.csv",
    "rows simulator data/sim-train sim.jsonl",
    group=_MODELS,
)
_add(
    app,
    "evaluate",
    "train.evaluate.evaluate:evaluate",
    "Measure a model on simulated or real data.",
    "evaluate --episodes 50",
    "evaluate --data test.jsonl --media videos --samples answers.jsonl",
    "evaluate --compare before.jsonl after.jsonl",
    group=_MODELS,
)
_add(
    app,
    "calibrate",
    "train.evaluate.calibrate_command:calibrate",
    "Measure what a model's scores mean, and keep it in its profile.",
    "calibrate nano --plot calibration.png",
    "calibrate my-model --data held-out.jsonl --test test.jsonl",
    group=_MODELS,
)
_add(
    train,
    "sft",
    "train.train_commands:sft",
    "Train by supervised fine-tuning.",
    "train sft nano-sft",
    "train sft my-sft.yaml --out runs/mine --push-to-hub me/my-model",
)
_add(
    train,
    "grpo",
    "train.train_commands:grpo",
    "Train grounding by GRPO with IoU rewards.",
    "train grpo nano-grpo",
    "train grpo nano-grpo --data data/sim-train",
)
_add(
    train,
    "ablation",
    "train.train_commands:ablation",
    "Compare grounding by SFT with grounding by GRPO.",
    "train ablation nano-ablation",
)
_add(
    train,
    "familiarity",
    "train.train_commands:familiarity",
    "Write the table by which a model knows pictures of the simulator's world.",
    "train familiarity runs/nano-sft/model --real photos",
)
app.command(train)
_add(
    app,
    "export",
    "quantize.quantize_commands:export",
    "Write a model as an engine folder.",
    "export nano --out engines/onnx-fp32",
    "export nano --to tensorrt --out engines/tensorrt",
    group=_MODELS,
)
_add(
    app,
    "quantize",
    "quantize.quantize_commands:quantize",
    "Write an engine folder with fewer bits, or compare engines.",
    "quantize nano --to int4 --out engines/onnx-int4",
    "quantize --compare nano engines/onnx-int4 --episodes 100",
    group=_MODELS,
)


@models.default
def _list_models(*, json_file: Annotated[Path | None, Parameter(name="--json")] = None) -> None:
    """List and remove the engines that were built here.

    Args:
        json_file: Also write the list here, as one JSON object.
    """
    from egolive.assistant.cli.models_command import list_models

    list_models(json_file=json_file)


_add(
    models,
    "remove",
    "assistant.cli.models_command:remove_models",
    "Remove engines that were built here.",
    "models remove EgoThinker-v1-1a2b3c4d5e6f-int4",
    "models remove --all",
)
app.command(models)
_add(
    bench,
    "stream",
    "benchmarks.commands:stream",
    "What reuse saves over the naive loop, and that it is exact.",
    "bench stream",
    "bench stream --model 7b --device cuda --json stream.json --plot stream.png",
)
_add(
    bench,
    "tracking",
    "benchmarks.quality.tracking_accuracy:tracking",
    "How well late boxes are carried to now.",
    "bench tracking --episodes 20",
)
_add(
    bench,
    "recall",
    "benchmarks.commands:recall_bench",
    "How often a memory knows when and where something was put.",
    "bench recall --sessions 5",
)
_add(
    bench,
    "real",
    "benchmarks.commands:real",
    "Hands and held things on real pictures and videos.",
    "bench real photos --boxes hand_object_boxes.json --json real.json",
)
_add(
    bench,
    "latency",
    "benchmarks.commands:latency",
    "Glass to overlay and the age of answers, stage by stage.",
    "bench latency nano engines/onnx-int4 --size 1280x720 --fps 30",
)
_add(
    bench,
    "governor",
    "benchmarks.commands:governor",
    "What the governor of live runs reaches under load, beside fixed settings.",
    "bench governor --json governor.json --plot governor.png",
)
_add(
    bench,
    "contact",
    "benchmarks.commands:contact",
    "Questions that are asked when a hand has done something, beside a fixed cadence.",
    "bench contact --json contact.json --plot contact.png",
)
_add(
    bench,
    "engines",
    "benchmarks.commands:engines",
    "What engines cost, against what the machine could do.",
    "bench engines nano engines/onnx-int4 --slices 1 8",
)
_add(
    bench,
    "estimates",
    "benchmarks.commands:estimates",
    "What doctor estimates of engines, beside what they take.",
    "bench estimates qwen2-vl-2b engines/2b-int4 --rounds 3",
)
_add(
    bench,
    "peers",
    "benchmarks.commands:peers",
    "The same questions, asked of what one would use instead.",
    "bench peers --json peers.json",
)
_add(
    bench,
    "scaling",
    "benchmarks.commands:scaling",
    "What an answer costs as windows, pictures, questions or hours grow.",
    "bench scaling --plot scaling.png",
)
_add(
    bench,
    "quality",
    "benchmarks.commands:quality",
    "How well engines answer, beside chance.",
    "bench quality nano engines/onnx-int4 --episodes 110",
)
_add(
    bench,
    "all",
    "benchmarks.report.everything:all_benchmarks",
    "All of them, into one report.",
    "bench all --quick --out report",
)
_add(
    bench,
    "soak",
    "benchmarks.robustness.soak:soak",
    "Hours of stream, and all that goes wrong in a day.",
    "bench soak --quick",
)
_add(
    bench,
    "fuzz",
    "benchmarks.robustness.fuzz:fuzz",
    "Removed; see `make robustness` in a source tree.",
)
_add(
    bench,
    "overhead",
    "benchmarks.cost.overhead:overhead",
    "What the loop costs beside the engine.",
    "bench overhead --seconds 10",
)
app.command(bench)


@app.command(
    name="--install-completion",
    help="Install completion of commands and options for this shell (bash, zsh or fish).",
    group=_MACHINE,
)
def _install_completion(
    *,
    shell: Annotated[_Shell | None, Parameter(help=_SHELL_HELP)] = None,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"], help=_OUTPUT_HELP)] = None,
) -> None:
    from cyclopts.completion.install import create_install_completion_command

    # Where the shell cannot be told, the library's own command prints its error and exits by itself.
    create_install_completion_command(_write_completion, True)(shell=shell or detect_shell(), output=output)


def _write_completion(shell: _Shell, output: Path | None, add_to_startup: bool) -> Path:
    """Write the script that completes commands and options, and return its path."""
    script = app.install_completion(shell=shell, output=output, add_to_startup=add_to_startup)
    if shell == "bash":
        # Names of files, where bash finds nothing else to complete.
        text = script.read_text().replace("\ncomplete -F ", "\ncomplete -o default -F ")
        script.write_text(text)
    return script


def main() -> None:
    """Entry point of the `egolive` console script."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, TextIOWrapper):
        # What a terminal's encoding lacks is printed as an escape instead of ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = call(sys.argv[1:])
    if any(thread.name.startswith("egolive-") for thread in threading.enumerate()):
        # A thread that hangs was left behind; the interpreter's own end could hang with it.
        sys.stdout.flush()
        os._exit(code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter's own flush at the end would tell the same as an ignored exception.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def call(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is told in one line on standard error.

    An error that nobody foresaw is told in one line too; `--log-level debug` logs its traceback.
    """
    try:
        result = app.meta(list(tokens), result_action="return_value", exit_on_error=False, print_error=False)
    except KeyboardInterrupt as error:
        code = int(error.args[0]) if error.args else 130
        _tell("terminated" if code == 143 else "interrupted")
        return code
    except Exception as error:
        message, code = _explained(error, tokens)
        if message:
            _tell(message)
        return code
    return result if isinstance(result, int) else 0


def _explained(error: Exception, tokens: Sequence[str]) -> tuple[str, int]:
    """What is told of an error, and the exit code."""
    match error:
        case UnknownCommandError():
            # Its own message imports every command, to suggest a name.
            name = " ".join(error.unused_tokens or tokens)
            close = get_close_matches(name.split(" ")[0], _names(tokens), n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            return f"there is no command {name!r}; {meant}See egolive --help", 2
        case CycloptsError():
            return f"{' '.join(str(error).split())} (see egolive --help)", 2
        case UsageError():
            return str(error), 2
        case EgoliveError():
            return str(error), 1
        case BrokenPipeError():
            return "", 1
        case MemoryError():
            return "memory ran out; use a smaller model or fewer --slices, or close other programs", 1
        case ShellDetectionError():
            return "which shell this is cannot be told; give --shell bash, zsh or fish", 1
        case ImportError() if missing := _missing_package(error):
            extra = _EXTRAS.get(missing, "train")
            return (
                f"this command needs the package {missing}, which is not installed: "
                f"pip install 'egolive[{extra}]'"
            ), 1
    logging.getLogger("egolive").debug("unexpected error", exc_info=error)
    [*_, last] = traceback.extract_tb(error.__traceback__)
    return (
        f"unexpected {type(error).__name__} in {os.path.basename(last.filename)}, line {last.lineno} "  # noqa: PTH119
        f"({error}); this is a bug in egolive: please report it to its maintainers, with what the same "
        "command tells with --log-level debug"
    ), 1


def _names(tokens: Sequence[str]) -> list[str]:
    """Names of the commands among which one was looked for."""
    parent = {"train": train, "bench": bench, "models": models}.get(tokens[0] if tokens else "", app)
    return [name for name in parent if not name.startswith("-")]


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
    # An argument that is repeated in a message may be base64 of any length.
    line = re.sub(r"\S{200,}", lambda word: f"{word[0][:60]}...", " ".join(message.split()))
    note(f"egolive: {line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + ' ...'}")
