"""`egolive bench real`: hands and held things on real pictures and videos, by source of boxes.

    egolive bench real photos --boxes hand_object_boxes.json
    egolive bench real photos --hand-free streets --model nano engines/onnx-int4

Each model is measured with the hand detector beside it, as `egolive run` shows it, and alone; the detector's
plain first look stands beside them. Labelled pictures are asked about one by one. Videos, which have no
labels, are played as a camera would and shown as `egolive run` shows them: what is measured is how often a
hand box is there, how old it is, and how often it jumps. A source is anything that finds boxes in a picture
and can be watched over a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.table import Table

from egolive.assistant.cli.options import HandOptions, open_model
from egolive.assistant.hands.detector import MediaPipeHands
from egolive.assistant.hands.hand_choice import HandChoice
from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.hand_fusion import HandFusion, HandsBeside
from egolive.assistant.live.hands_beside import open_hands
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import Shown as ShownPicture
from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.engine import Engine
from egolive.benchmarks.bench_output import print_figures
from egolive.benchmarks.quality.real_scores import (
    Label,
    Labelled,
    Shown,
    difference_of,
    figures_of,
    video_figures,
)
from egolive.streaming.errors import DataError, SourceError
from egolive.streaming.frames import Box, Frame
from egolive.streaming.hands import Look
from egolive.streaming.json_files import read_json_value
from egolive.streaming.sources.files.media_kind import kind_of
from egolive.streaming.sources.files.picture_files import read_picture
from egolive.streaming.sources.opening import open_source

__all__ = [
    "LABELS_FILE",
    "BoxSource",
    "DetectorLook",
    "FusedBoxes",
    "ModelBoxes",
    "labelled_pictures",
    "look_at",
    "measure_source",
    "run_real",
]

LABELS_FILE = "hand_object_boxes.json"
"""Looked for in the folder itself."""
_MOST_BYTES = 64 * 1024**2
_BOXES = tuple(question for question in LIVE_QUESTIONS if question.task == "ground")
_HANDS = ("left hand", "right hand")
_SHOWN = ("hand_iou30", "hand_iou50", "hand_precision", "side_acc", "object_iou30", "object_iou50")


class BoxSource(Protocol):
    """Something that finds hands and what they hold."""

    name: str
    """In tables."""

    def find(self, frame: Frame) -> tuple[Box, ...]:
        """The boxes of one picture, labelled "left hand", "object in the left hand" and so on."""
        ...

    def watch(self, video: Path, seconds: float) -> list[Shown]:
        """The hand boxes that are shown with each picture of a video that is played as a camera would."""
        ...


class ModelBoxes:
    """A language model as a source of boxes, asked for each hand and what it holds."""

    def __init__(self, engine: Engine, name: str) -> None:
        """Take an engine, which stays the caller's to close."""
        self.name = name
        self._engine = engine
        self.looks = self.guesses = 0
        """Pictures that were asked about alone, and those of which the model says that it only guesses."""

    def find(self, frame: Frame) -> tuple[Box, ...]:
        """The boxes of one picture; a picture has nothing to do with the one before."""
        return tuple(box for answer in self.answers(frame) for box in answer.boxes[:1])

    def answers(self, frame: Frame) -> list[Answer]:
        """What the model says about one picture."""
        with Assistant(self._engine) as assistant:
            answers = list(assistant.answer(_BOXES, picture=frame))
        self.looks += 1
        self.guesses += any(answer.guess for answer in answers)
        return answers

    def watch(self, video: Path, seconds: float) -> list[Shown]:
        """Run the assistant on a video in real time, boxes carried between answers."""
        collected = _Collector()
        hands = tuple(question for question in _BOXES if question.phrase in _HANDS)
        profile = self._engine.profile
        with Assistant(self._engine, questions=hands) as assistant:
            run_stream(
                open_source(video, realtime=True),
                assistant,
                [collected],
                fps=profile.fps,
                slices=profile.window_slices,
                seconds=seconds,
                hands=self.beside(),
            )
        return collected.shown

    def beside(self) -> HandsBeside | None:
        """What looks for hands beside a run; nothing."""
        return None


class FusedBoxes(ModelBoxes):
    """A model with the hand detector beside it: what people see of both, without guesses."""

    def __init__(self, engine: Engine, name: str, choice: HandChoice) -> None:
        """Take an engine, which stays the caller's to close, and a choice with a detector."""
        super().__init__(engine, name)
        self._choice = choice
        detector = choice.detector(stream=False)
        assert detector is not None
        self._detector = detector

    def find(self, frame: Frame) -> tuple[Box, ...]:
        """The boxes of one picture."""
        answers = self.answers(frame)
        look = Look(frame.time, frame.index, tuple(self._detector.detect(frame.image)))
        fusion = HandFusion(questions=self._choice.answered, guesses=False)
        fusion.see(look)
        fusion.hear(answers)
        shown = fusion.settle(fusion.merge(answers, frame.time))
        return tuple(
            replace(box, label=answer.question.phrase) for answer in shown for box in answer.boxes[:1]
        )

    def beside(self) -> HandsBeside | None:
        """The detector beside a run."""
        return open_hands(self._choice, self._engine.profile, live=True)

    def close(self) -> None:
        """Free the detector."""
        self._detector.close()


class DetectorLook:
    """The detector's first look at a whole picture, without a second one at parts of it: plain MediaPipe."""

    name = "detector, one look"

    def __init__(self, file: Path) -> None:
        """Load the networks."""
        self._detector = MediaPipeHands(file, again=False)

    def find(self, frame: Frame) -> tuple[Box, ...]:
        """The hands of one picture."""
        found = self._detector.detect(frame.image)
        return tuple(replace(hand.box, label=f"{hand.side} hand") for hand in found)

    def watch(self, video: Path, seconds: float) -> list[Shown]:
        """Not for videos."""
        return []

    def close(self) -> None:
        """Free the networks."""
        self._detector.close()


class _Collector:
    """A sink that keeps the hand boxes of each picture that is shown."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []

    def emit(self, shown: ShownPicture) -> None:
        hands = tuple(
            (box, shown.now - answer.time)
            for answer in shown.answers
            if answer.question.phrase in _HANDS
            for box in answer.boxes
        )
        self.shown.append(Shown(shown.frame.time, hands))

    def note(self, event: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def run_real(
    folder: Path,
    *,
    boxes: Path | None,
    hand_free: Path | None,
    model: tuple[str, ...],
    hands: Literal["auto", "model"],
    hands_model: str | None,
    seconds: float,
    device: str,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.real`."""
    pictures = labelled_pictures(folder, boxes, hand_free)
    videos = [path for path in _files(folder) if kind_of(path) in ("video", "animation")]
    free_videos = [] if hand_free is None else [path for path in _files(hand_free) if _moves(path)]
    if not pictures and not videos and not free_videos:
        raise DataError(f"{folder}: no labelled picture and no video is there; name the labels with --boxes")
    choice = HandOptions(hands=hands, hands_model=hands_model).choose(_BOXES, folder)
    found = []
    with ExitStack() as stack:
        plain: list[Labelled] = []
        if choice.file is not None:
            one_look = stack.enter_context(closing(DetectorLook(choice.file)))
            plain = look_at(one_look, pictures)
        for name in model or ("nano",):
            engine = stack.enter_context(closing(open_model(name, device=device, threads=threads)))
            sources = [ModelBoxes(engine, name)]
            if choice.file is not None:
                fused = FusedBoxes(engine, f"{name} + detector", choice)
                sources.insert(0, stack.enter_context(closing(fused)))
            for source in sources:
                looked = look_at(source, pictures)
                entry = measure_source(source, looked, [*videos, *free_videos], seconds)
                entry["guesses_told"] = round(source.guesses / source.looks, 4) if source.looks else None
                if plain:
                    entry["ahead_of_one_look"] = difference_of(looked, plain)
                found.append(entry)
        if plain:
            found.append(measure_source(one_look, plain, [], seconds))
    main = {key: value for key, value in found[0].items() if key not in ("source", "shuffled", "videos")}
    figures = {"folder": str(folder), **main, "sources": found}
    print_figures(figures, _table(found), json_file)


def measure_source(
    source: BoxSource, looked: Sequence[Labelled], videos: Sequence[Path], seconds: float
) -> dict[str, Any]:
    """All figures of one source: those of `figures_of`, and `videos`, those of `video_figures` by file."""
    entry: dict[str, Any] = {"source": source.name, **figures_of(looked)}
    entry["videos"] = {video.name: video_figures(source.watch(video, seconds)) for video in videos}
    return entry


def look_at(source: BoxSource, pictures: Sequence[tuple[Frame, tuple[Label, ...]]]) -> list[Labelled]:
    """What a source finds in pictures whose hands are known."""
    return [Labelled((frame.width, frame.height), labels, source.find(frame)) for frame, labels in pictures]


def labelled_pictures(
    folder: Path, boxes: Path | None = None, hand_free: Path | None = None
) -> list[tuple[Frame, tuple[Label, ...]]]:
    """The pictures of a folder whose hands are known.

    Args:
        folder: Holds the pictures, and their labels unless `boxes` names them.
        boxes: The labels: a JSON list of objects with `image`, `width`, `height` and `boxes`, each of these
            with `label` ("hand", or what is held), `side` (left, right, both) and `xyxy`, pixels. An empty
            list of boxes means that there is no hand.
        hand_free: A folder of pictures without hands.

    Raises:
        DataError: The labels cannot be understood, or a picture is missing.
    """
    path = boxes or folder / LABELS_FILE
    found = []
    if path.is_file():
        where, remedy = f"{path}: not JSON", "write a list of pictures"
        told = read_json_value(path, where=where, remedy=remedy, most=_MOST_BYTES)
        if not isinstance(told, list):
            raise DataError(f"{path}: holds no list of pictures")
        found = [_labelled(entry, folder, f"{path}, entry {at}") for at, entry in enumerate(told, start=1)]
    elif boxes is not None:
        raise DataError(f"{boxes}: there is no such file; check --boxes")
    for picture in [] if hand_free is None else _files(hand_free):
        if kind_of(picture) == "photo":
            found.append((_frame(picture, len(found)), ()))
    return [(Frame(frame.image, 0.0, number), labels) for number, (frame, labels) in enumerate(found)]


def _labelled(entry: object, folder: Path, where: str) -> tuple[Frame, tuple[Label, ...]]:
    try:
        assert isinstance(entry, dict)
        name, size = entry["image"], (float(entry["width"]), float(entry["height"]))
        given = [(box["label"], box["side"], [float(x) for x in box["xyxy"]]) for box in entry["boxes"]]
        fine = all(side in ("left", "right", "both") and len(box) == 4 for _, side, box in given)
        if not isinstance(name, str) or not min(size) > 0 or not fine:
            raise ValueError
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: no labelled picture; one has image, width, height and boxes with label, side, xyxy"
        ) from error
    path = folder / name
    if not path.is_file():
        raise DataError(f"{where}: {path} is not there; the pictures lie in the folder that is given")
    frame = _frame(path, 0)
    across, down = frame.width / size[0], frame.height / size[1]
    labels = []
    for label, side, (x1, y1, x2, y2) in given:
        sides = ("left", "right") if side == "both" else (side,)
        box = Box(x1 * across, y1 * down, x2 * across, y2 * down, str(label))
        labels.append(Label(box, label == "hand", sides))
    return frame, tuple(labels)


def _frame(path: Path, number: int) -> Frame:
    try:
        return Frame(read_picture(path, name=str(path)), 0.0, number)
    except SourceError as error:
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_file())


def _moves(path: Path) -> bool:
    return kind_of(path) in ("video", "animation")


def _table(found: Sequence[dict[str, Any]]) -> Any:
    table = Table(title="Real pictures, with 95 % intervals", title_justify="left")
    table.add_column("")
    for entry in found:
        table.add_column(entry["source"], justify="right")
        table.add_column("boxes of others", justify="right")
    for name in _SHOWN:
        cells = []
        for entry in found:
            value, edges, count = entry[name], entry[f"{name}_ci"], entry[f"{name}_n"]
            told = f"{value:.2f} ({edges[0]:.2f} to {edges[1]:.2f}) of {count}" if value is not None else ""
            control = entry["shuffled"].get(name)
            cells += [told, "" if control is None else f"{control:.2f}"]
        table.add_row(name, *cells)
    if found[0]["hand_free_n"]:
        counts = [(f"{entry['false_hand_boxes']} in {entry['hand_free_n']} pictures", "") for entry in found]
        table.add_row("false_hand_boxes", *(cell for pair in counts for cell in pair))
    for video in found[0]["videos"]:
        for name in ("hand_share", "fresh_share", "flicker", "age_p95"):
            cells = []
            for entry in found:
                value = entry["videos"].get(video, {}).get(name)
                cells += ["" if value is None else f"{value:.2f}", ""]
            table.add_row(f"{video[:24]}: {name}", *cells)
    return table
