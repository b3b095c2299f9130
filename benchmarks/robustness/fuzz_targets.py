"""What is fuzzed beside the parser: files that people hand on and edit, and names of sources.

Each target makes one bad input of a good one and feeds it to the code that meets it. An `EgoliveError` is the
right answer to bad input; any other exception is a find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import resources
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from PIL import Image as PillowImage

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.model.engine_folder import (
    EngineCard,
    Shapes,
    describe_files,
    read_engine_card,
    verify_files,
    write_engine_card,
)
from egolive.assistant.recording.evidence import EvidenceWriter, read_bundle
from egolive.assistant.recording.run_replay import RunSettings, record_into, replay_run
from egolive.assistant.schema.answers import Question
from egolive.benchmarks.robustness.fuzz_mutate import mutate_bytes, mutate_json, mutate_text
from egolive.benchmarks.robustness.scripted_engine import ScriptedEngine, scene
from egolive.streaming.recording.recording import Recording
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.picture_folder import Folder
from egolive.streaming.video_writer import VideoWriter
from egolive.train.common.recipe import load_recipe
from egolive.train.common.trainer_recipe import CheckpointRecipe, GrpoRecipe, load_trainer_recipe

__all__ = ["Target", "arrange"]

Target = Callable[[Random], object]
"""Makes one bad input and feeds it in."""


def arrange(folder: Path) -> dict[str, Target]:
    """Write good files of every kind, and return what spoils them, by name.

    Args:
        folder: An empty one, which is the targets' own.
    """
    for name in ("engine", "bundle", "recording", "spoilt", "pictures"):
        (folder / name).mkdir()
    _write_pictures(folder)
    _write_run(folder)
    return {
        "engine.json": _engine(folder / "engine"),
        "recipe": _recipe(folder),
        "source": _source(folder),
        "recording": _recording(folder / "recording", folder / "spoilt"),
        "evidence": _bundle(next((folder / "bundle").glob("*/bundle.json")).parent),
    }


def _engine(folder: Path) -> Target:
    for name in ("tower.onnx", "decoder.onnx"):
        (folder / name).write_bytes(name.encode())
    shapes = Shapes(
        height=140, width=224, hidden=256, layers=4, kv_heads=2, head_width=64, vocabulary=4096, context=8192
    )
    write_engine_card(
        folder,
        EngineCard(
            name="nano int4",
            backend="onnx",
            precision={"tower": "fp32", "decoder": "int4", "head": "fp32", "embeddings": "fp32"},
            shapes=shapes,
            image_token=5,
            video_token=6,
            profile="nano",
            source={"name": "nano", "sha256": "y"},
            versions={"torch": "2.11"},
            files=describe_files(folder),
        ),
    )
    card = folder / "engine.json"
    good = card.read_text(encoding="utf-8")

    def feed(random: Random) -> None:
        _spoil(card, good, random)
        verify_files(folder, read_engine_card(folder))

    return feed


def _recipe(folder: Path) -> Target:
    bundled = Path(str(resources.files("egolive.train"))) / "recipes"
    good = [path.read_text(encoding="utf-8") for path in sorted(bundled.glob("*-*.yaml"))]
    recipe = folder / "recipe.yaml"
    kinds: list[Callable[[str], object]] = [load_recipe, partial(load_trainer_recipe, kind=GrpoRecipe)]
    kinds.append(partial(load_trainer_recipe, kind=CheckpointRecipe))

    def feed(random: Random) -> None:
        recipe.write_bytes(mutate_text(random.choice(good), random, good).encode(errors="surrogatepass"))
        random.choice(kinds)(str(recipe))

    return feed


def _source(folder: Path) -> Target:
    clip, pictures = folder / "clip.mp4", folder / "pictures"
    good = [
        *(
            "0",
            "57",
            "/dev/video57",
            "test:",
            "test:64x36@30",
            str(clip),
            str(pictures),
            "clip.mp4",
            "~/clip.mp4",
        ),
        *("rtsp://wearer:secret@192.168.1.20:554/stream?x=1", "http://[::1]:8080/a.mp4", "file:///tmp/x.mp4"),
        *("gst:nvarguscamerasrc sensor-id=0 ! nvvidconv", "gst:videotestsrc ! 'video/x-raw'", "udp://@:5000"),
    ]

    def feed(random: Random) -> None:
        text = mutate_text(random.choice(good), random, good)
        options: dict[str, Any] = {
            "realtime": random.random() < 0.2,
            "loop": random.random() < 0.2,
            "fps": random.choice([None, None, None, 2.0, 0.0, -1.0, 1e9, float("nan")]),
            "size": random.choice([None, None, None, (64, 36), (0, 0)]),
        }
        with _no_devices(), open_source(text, timeout=0.1, **options) as source:
            for _ in islice(source, 2):
                pass

    return feed


def _recording(good: Path, spoilt: Path) -> Target:
    texts = {
        name: (good / name).read_text(encoding="utf-8") for name in ("recording.json", "recording.jsonl")
    }
    pictures = next(good.glob("*.mkv"))
    film = pictures.read_bytes()

    def feed(random: Random) -> None:
        for name, text in texts.items():
            (spoilt / name).write_text(text, encoding="utf-8")
        (spoilt / pictures.name).write_bytes(film)
        kind = random.random()
        if kind < 0.4:
            _spoil(spoilt / "recording.json", texts["recording.json"], random)
        elif kind < 0.9:
            _spoil_lines(spoilt / "recording.jsonl", texts["recording.jsonl"], random)
        else:
            (spoilt / pictures.name).write_bytes(mutate_bytes(film, random))
        replay_run(Recording(spoilt), ScriptedEngine(None), [])

    return feed


def _bundle(folder: Path) -> Target:
    about = folder / "bundle.json"
    good = about.read_text(encoding="utf-8")

    def feed(random: Random) -> None:
        _spoil(about, good, random)
        read_bundle(folder)

    return feed


def _spoil(path: Path, good: str, random: Random) -> None:
    """Write a JSON file with something wrong in it: its text, or what it says."""
    if random.random() < 0.3:
        path.write_bytes(mutate_text(good, random).encode(errors="surrogatepass"))
    else:
        path.write_text(json.dumps(mutate_json(json.loads(good), random)), encoding="utf-8")


def _spoil_lines(path: Path, good: str, random: Random) -> None:
    """The same for one of the lines of a file of JSON lines, or for their order."""
    lines = good.splitlines()
    place = random.randrange(len(lines))
    kind = random.random()
    if kind < 0.6:
        lines[place] = json.dumps(mutate_json(json.loads(lines[place]), random))
    elif kind < 0.8:
        lines[place] = mutate_text(lines[place], random)
    elif kind < 0.9:
        del lines[place]
    else:
        lines.insert(random.randrange(len(lines)), lines[place])
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))


def _write_pictures(folder: Path) -> None:
    for number in range(12):
        PillowImage.fromarray(scene(number / 2)).resize((64, 48)).save(folder / "pictures" / f"{number}.png")
    with VideoWriter(folder / "clip.mp4") as writer:
        for number in range(4):
            writer.write(np.zeros((36, 64, 3), np.uint8), number / 2)


def _write_run(folder: Path) -> None:
    """A recording of a short run, and a bundle of evidence of each of its answers."""
    engine = ScriptedEngine(None)
    questions = (Question("intent"), Question("ground", "right hand"))
    settings = RunSettings(model="nano", questions=questions, fps=2.0, slices=2)
    keeper = EvidenceWriter(
        folder / "bundle", model="nano", info=engine.info, sha256="x", profile=engine.profile
    )
    with Assistant(engine, questions=questions, keeper=keeper) as assistant:
        source = Folder(folder / "pictures")
        recorder = record_into(folder / "recording", settings, engine)
        run_stream(source, assistant, [], fps=2.0, slices=2, recorder=recorder)


@contextmanager
def _no_devices() -> Iterator[None]:
    """Let nothing that a spoilt name may name be opened but files: no camera, program or address."""
    open_file = av.open

    def refuse(address: str, *arguments: Any, **options: Any) -> Any:
        large = any(len(part) > 3 for part in address.partition("size=")[2].partition(":")[0].split("x"))
        if "://" in address or (options.get("format") == "lavfi" and large):
            raise av.error.ConnectionRefusedError(111, "Connection refused")
        return open_file(address, *arguments, **options)

    def start(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory")

    closed = SimpleNamespace(isOpened=lambda: False, release=lambda: None)
    with ExitStack() as stack:
        stack.enter_context(patch("egolive.streaming.sources.video.av.open", refuse))
        stack.enter_context(
            patch("egolive.streaming.sources.gstreamer.shutil.which", lambda _: "gst-launch-1.0")
        )
        stack.enter_context(patch("egolive.streaming.sources.gstreamer.subprocess.Popen", start))
        stack.enter_context(patch("cv2.VideoCapture", lambda *_: closed))
        yield
