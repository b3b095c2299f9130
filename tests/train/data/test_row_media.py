"""What rows show: pictures, stretches, single frames, chunked videos; and the turns made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tuning import FPS, video

from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO
from egolive.streaming.frames import Interval
from egolive.train.data.row_media import FrameSampling, messages_of, show
from egolive.train.data.rows import RowError, row_from_dict


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    video(folder / "long.mp4", 20)
    for chunk in range(2):
        video(folder / "ego4d" / f"{chunk:04d}.mp4", 15, offset=100 * chunk)
    PIL.Image.fromarray(np.full((120, 160, 3), 200, np.uint8)).save(folder / "one.png")
    (folder / "damaged.mp4").write_bytes(b"not a video")
    return folder


def brightness(vision: Vision) -> list[int]:
    return [round(float(frame.mean())) for frame in vision.frames]


def row(**values: Any) -> Any:
    return row_from_dict(values, where="rows:1")


def said(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": "A mug."}]


def test_a_stretch_is_shown_with_frames_spread_over_it(media: Path) -> None:
    shown = show(row(video="long.mp4", question="go", start=6, end=8, clip=[5, 13]), media, NANO)
    (vision,) = shown.visions
    found = brightness(vision)
    assert vision.kind == "video"
    # One a second, from the first picture of the stretch to its last.
    assert len(found) == 8
    assert found[0] == pytest.approx(5 * FPS, abs=2)
    assert found[-1] == pytest.approx(13 * FPS, abs=2)
    assert np.diff(found) == pytest.approx(np.full(7, 8 * FPS / 7), abs=2.5)
    assert shown.window == Interval(0, 8)
    assert (vision.height, vision.width) == NANO.picture


def test_short_stretches_get_four_frames_and_long_videos_no_more_than_asked_for(media: Path) -> None:
    short = show(row(conversations=said("<video>What?"), video="long.mp4", start=2, end=3), media, NANO)
    assert len(short.visions[0].frames) == 4
    few = show(
        row(conversations=said("<video>What?"), video="long.mp4"), media, NANO, FrameSampling(max_frames=6)
    )
    assert len(few.visions[0].frames) == 6
    assert few.window is not None
    assert few.window.end == pytest.approx(20, abs=0.3)


def test_one_frame_of_a_video_is_a_picture(media: Path) -> None:
    values = {"path": "long.mp4", "time": 7.25, "object": "cup", "box": [1, 1, 9, 9], "size": [64, 48]}
    shown = show(row(**values), media, NANO)
    assert shown.visions[0].kind == "image"
    assert brightness(shown.visions[0]) == [pytest.approx(29, abs=1)]
    assert shown.window is None
    assert shown.size == (64, 48)


def test_a_chunked_video_is_read_across_its_chunks(media: Path) -> None:
    values = {"conversations": said("<video>What?"), "video": "ego4d", "start": 13, "end": 17}
    shown = show(row(**values, chunked=True), media, NANO)
    # 13.5 and 14.5 s of the first chunk, 0.5 and 1.5 s of the second.
    assert brightness(shown.visions[0]) == pytest.approx([54, 58, 102, 106], abs=2)
    assert shown.window == Interval(0, 4)
    # 14.9 s is behind the last picture of its chunk, which began at 14.75.
    values |= {"start": 13.4, "end": 17.4}
    shown = show(row(**values, chunked=True), media, NANO)
    assert brightness(shown.visions[0]) == pytest.approx([56, 59, 104, 108], abs=2)


@pytest.mark.parametrize(
    "values",
    [
        {"conversations": said("<image>What?"), "image": "missing.png"},
        {"conversations": said("<video>What?"), "video": "damaged.mp4"},
        {"conversations": said("<video>What?"), "video": "long.mp4", "start": 50, "end": 60},
        {"conversations": said("<video>What?"), "video": "ego4d", "start": 40, "end": 44, "chunked": True},
    ],
)
def test_media_that_cannot_be_read_is_told_with_the_row(media: Path, values: dict[str, Any]) -> None:
    with pytest.raises(RowError, match="rows:1: its picture or video cannot be read"):
        show(row(**values), media, NANO)


def test_a_chunked_video_without_a_stretch_is_read_to_the_end_of_its_shorter_last_chunk(
    tmp_path: Path,
) -> None:
    video(tmp_path / "talk" / "0000.mp4", 15)
    video(tmp_path / "talk" / "0001.mp4", 4, offset=100)
    shown = show(row(conversations=said("<video>What?"), video="talk", chunked=True), tmp_path, NANO)
    assert shown.visions[0].frames[-1].mean() > 100
    # Four frames a second: the last one begins a quarter before the end.
    assert shown.window is None or shown.window.end == pytest.approx(18.75, abs=0.6)


def test_what_a_player_of_videos_refuses_is_told_with_the_row(media: Path) -> None:
    empty = row_from_dict({"video": "long.mp4", "question": "go", "start": 1, "end": 2}, where="rows:1")
    with pytest.raises(RowError, match="rows:1: its picture or video cannot be read"):
        show(replace(empty, stretch=Interval(3, 3)), media, NANO)


def test_pictures_stand_where_the_conversation_marks_them(media: Path) -> None:
    both = row(
        conversations=said("Before <image> and after <video>\nwhat?"), image="one.png", video="long.mp4"
    )
    shown = show(both, media, NANO)
    user, answer = messages_of(both, shown, NANO)
    assert user.parts == ("Before ", shown.visions[0], " and after ", shown.visions[1], "\nwhat?")
    assert answer.parts == ("A mug.",)
    unmarked = row(conversations=said("What?"), image="one.png")
    user, _ = messages_of(unmarked, show(unmarked, media, NANO), NANO)
    assert [type(part) for part in user.parts] == [Vision, str]
    alone = row(conversations=said("Hello."))
    assert messages_of(alone, show(alone, media, NANO), NANO)[0].parts == ("Hello.",)


def test_a_box_is_asked_for_and_answered_in_the_words_of_the_profile(media: Path) -> None:
    there = row(path="one.png", object="left hand", box=[16, 12, 80, 60])
    shown = show(there, media, NANO)
    user, answer = messages_of(there, shown, NANO)
    assert user.parts == (shown.visions[0], "Find the left hand.")
    assert answer.parts == ("<|box_start|>(100,100),(500,500)<|box_end|>",)
    absent = row(path="one.png", object="left hand", box=None)
    assert messages_of(absent, shown, NANO)[1].parts == ("none",)
    published = row_from_dict(
        {"path": "one.png", "object": "left hand", "gt": [0.1, 0.1, 0.5, 0.5]}, where="x", unit="norm1"
    )
    answers = messages_of(published, show(published, media, EGOTHINKER_V1), EGOTHINKER_V1)
    assert answers[1].parts == ("[100, 100, 500, 500]",)


def test_an_interval_and_an_intent_are_asked_of_the_clip(media: Path) -> None:
    when = row(video="long.mp4", question="open the door", start=6, end=8.5, clip=[5, 13])
    shown = show(when, media, EGOTHINKER_V1)
    user, answer = messages_of(when, shown, EGOTHINKER_V1)
    assert "8.0 seconds" in str(user.parts[-1])
    assert answer.parts == ("(1.00,3.50)",)
    intent = row(video="long.mp4", clip=[5, 13], task="intent", text="make tea")
    assert messages_of(intent, shown, NANO)[1].parts == ("make tea",)
    with pytest.raises(RowError, match="no video"):
        messages_of(when, show(row(path="one.png", object="x", box=None), media, NANO), NANO)
