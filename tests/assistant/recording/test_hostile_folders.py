"""Recordings and bundles of others: only the files that are listed are read or copied, and none elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.cli import main as cli
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.recording.evidence import EvidenceWriter, read_bundle, reproduce
from egolive.assistant.recording.run_replay import RunSettings, record_into, replay_run, settings_of
from egolive.assistant.schema.answers import Question
from egolive.streaming.errors import DataError, EgoliveError
from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.recording.recording import Recording
from egolive.streaming.sources.source import Source

QUESTION = Question("ground", "right hand")
SECRET = "a secret of the user"


class Camera(Source):
    """Grey pictures, each of another grey."""

    live, name, fps, broken, size = False, "camera", 2.0, 0, (56, 56)

    def __iter__(self) -> Any:
        for index in range(3):
            yield Frame(np.full((56, 56, 3), index, np.uint8), index / 2, index)

    def close(self) -> None: ...


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    engine = FakeEngine()
    keeper = EvidenceWriter(
        tmp_path / "evidence", model="nano", info=engine.info, sha256="abc", profile=engine.profile
    )
    with Assistant(engine, observer=keeper) as assistant:
        list(assistant.answer([QUESTION], picture=next(iter(Camera()))))
    return keeper.bundles[0]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    settings = RunSettings(model="nano", questions=(QUESTION,), fps=2.0, slices=2)
    recorder = record_into(tmp_path / "recording", settings, FakeEngine())
    list(recorder.source(Camera()))
    recorder.close(Report(captured=3))
    return tmp_path / "recording"


def changed(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "bundle.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refused(bundle: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_bundle(bundle)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_only_listed_files_of_a_bundle_are_copied(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text(SECRET)
    (bundle / "pics").symlink_to(tmp_path / "home")
    (bundle / "frame-777.png").symlink_to(tmp_path / "home" / "key")
    (bundle / "more").mkdir()
    (bundle / "more" / "file").write_text("not listed")
    reproduce(read_bundle(bundle), FakeEngine(), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert names == {"bundle.json", "answer.json", "frame-000.png"}


@pytest.mark.parametrize("name", ["bundle.json", "answer.json", "frame-000.png"])
def test_a_link_in_a_bundle_is_not_followed_even_to_the_right_bytes(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    shutil.move(bundle / name, tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    assert "a symbolic link" in refused(bundle)


@pytest.mark.parametrize("name", ["recording.json", "recording.jsonl", "pictures-000.mkv"])
def test_a_link_in_a_recording_is_not_followed(recording: Path, tmp_path: Path, name: str) -> None:
    shutil.move(recording / name, tmp_path / name)
    (recording / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match=r"symbolic link|no plain file"):
        list(Recording(recording).frames())


@pytest.mark.parametrize("name", ["../frame-000.png", "/frame-000.png", "a/frame-000.png", "frame-000.png\n"])
def test_a_picture_elsewhere_is_no_part_of_a_bundle(bundle: Path, name: str) -> None:
    def change(values: dict[str, Any]) -> None:
        values["frames"] = {name: values["frames"]["frame-000.png"]}
        values["prompt"][1]["frames"] = [name]

    changed(bundle, change)
    refused(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(frames={}),
        lambda values: values.update(frames={}, prompt=["<|im_start|>user\nWhat?<|im_end|>\n"]),
        lambda values: values.update(prompt=["<|im_start|>user\nWhat?<|im_end|>\n"]),
        lambda values: values.update(frames={"frame-000.png": ""}),
        lambda values: values["frames"].update({"frame-001.png": "0" * 64}),
        lambda values: values["prompt"].append("x" * 200_000),
        lambda values: values["question"].update(phrase="x" * 200_000),
        lambda values: values["prompt"][1].update(height=28 * 10**6, width=28 * 10**6),
        lambda values: values["engine"].update(sha256=""),
    ],
)
def test_a_bundle_without_hashed_pictures_or_of_absurd_size_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    assert read_bundle(bundle)
    changed(bundle, change)
    assert "bundle.json: no bundle that can be read" in refused(bundle)


def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    (bundle / "frame-000.png").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    changed(bundle, lambda values: values.update(frames={"frame-000.png": digest}))
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(EgoliveError, match="has 30000x30000 pixels") as caught:
        read_bundle(bundle)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_png_is_not_decoded_as_something_else(bundle: Path) -> None:
    data = b"P6 1 1 255\n\0\0\0"
    (bundle / "frame-000.png").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    changed(bundle, lambda values: values.update(frames={"frame-000.png": digest}))
    assert "no picture" in refused(bundle)


def test_a_new_answer_is_not_written_through_a_link(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(SECRET)
    (tmp_path / "out").mkdir()
    for name in ("answer.json", "bundle.json", "frame-000.png", ".answer.json.part"):
        (tmp_path / "out" / name).symlink_to(outside)
    checked = read_bundle(bundle)
    said = reproduce(checked, FakeEngine(), tmp_path / "out")
    assert outside.read_text() == SECRET
    assert (tmp_path / "out" / "answer.json").read_bytes() == said
    # Into the bundle's own folder as well, where a link has been put since it was read.
    (bundle / "answer.json").unlink()
    (bundle / "answer.json").symlink_to(outside)
    reproduce(checked, FakeEngine(), bundle)
    assert outside.read_text() == SECRET


@pytest.mark.parametrize("name", ["events.jsonl", "overlay.mp4"])
def test_events_and_overlay_are_not_written_through_a_link(
    recording: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.write_text(SECRET)
    (recording / name).symlink_to(outside)
    assert cli.call(["replay", str(recording), "--out", str(recording)]) == 1
    assert "symbolic link" in capsys.readouterr().err
    assert outside.read_text() == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'other.mkv'\n",
        "#EXTM3U\n#EXTINF:1,\nother.mkv\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_pictures_that_name_other_files_or_streams_are_refused(recording: Path, text: str) -> None:
    shutil.move(recording / "pictures-000.mkv", recording / "other.mkv")
    (recording / "pictures-000.mkv").write_text(text)
    with pytest.raises(DataError, match=r"pictures-000\.mkv"):
        list(Recording(recording).frames())


def test_a_recorded_question_of_megabytes_is_refused_before_it_is_asked(recording: Path) -> None:
    path = recording / "recording.json"
    head = json.loads(path.read_text())
    head["settings"]["questions"][0]["phrase"] = "x" * 1_000_000
    path.write_text(json.dumps(head))
    with pytest.raises(DataError, match="a question of more than 131072 characters"):
        settings_of(Recording(recording))
    head["settings"]["questions"][0]["phrase"] = "x"
    path.write_text(json.dumps(head))
    work = {"work": 0, "t": 0.0, "slices": 0, "outcomes": []}
    work["tasks"] = [{"task": "ground", "phrase": "x" * 1_000_000, "think": False}]
    with (recording / "recording.jsonl").open("a") as log:
        log.write(json.dumps(work) + "\n")
    with pytest.raises(EgoliveError, match="a question of more than 131072 characters"):
        replay_run(Recording(recording), FakeEngine(), [])
