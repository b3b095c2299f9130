"""Who is asked about hands, and which sources show the simulator's world."""

from __future__ import annotations

from pathlib import Path

import pytest

from egolive.assistant.hands import hand_choice as choosing
from egolive.assistant.hands.hand_choice import choose_hands, draws_guesses
from egolive.assistant.live.assistant import LIVE_QUESTIONS
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, SIMULATED_NANO
from egolive.streaming.errors import ConfigError

LEFT, RIGHT = Question("ground", "left hand"), Question("ground", "right hand")
HELD = Question("ground", "object in the left hand")
INTENT = Question("intent")
MUG = Question("ground", "red mug")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "hand_landmarker.task"
    file.write_bytes(b"")
    monkeypatch.setattr(choosing, "has_runtime", lambda: True)
    monkeypatch.setattr(choosing, "find_model", lambda given=None: Path(given) if given else file)
    return file


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "has_runtime", lambda: True)
    monkeypatch.setattr(choosing, "find_model", lambda given=None: None)


def test_auto_looks_beside_the_model(installed: Path) -> None:
    found = choose_hands("auto", LIVE_QUESTIONS)
    assert found.questions == LIVE_QUESTIONS
    assert found.answered == (LEFT, RIGHT)
    assert (found.file, found.missing) == (installed, "")


@pytest.mark.usefixtures("installed")
def test_auto_does_not_look_into_the_simulators_world_nor_where_no_hand_is_asked_for() -> None:
    assert choose_hands("auto", LIVE_QUESTIONS, simulated=True).file is None
    assert choose_hands("auto", [INTENT, MUG]).file is None
    assert choose_hands("detector", LIVE_QUESTIONS, simulated=True).file is not None
    # What a hand holds needs the hand, too.
    found = choose_hands("auto", [HELD])
    assert found.file is not None
    assert (found.questions, found.answered) == ((HELD,), ())


@pytest.mark.usefixtures("installed")
def test_the_detector_alone_leaves_the_rest_to_the_model() -> None:
    found = choose_hands("detector", [INTENT, LEFT, HELD, RIGHT])
    assert found.questions == (INTENT, HELD)
    assert found.answered == (LEFT, RIGHT)


@pytest.mark.usefixtures("installed")
def test_model_and_off_do_without_it() -> None:
    assert choose_hands("model", LIVE_QUESTIONS).questions == LIVE_QUESTIONS
    assert choose_hands("model", LIVE_QUESTIONS).file is None
    assert choose_hands("off", [INTENT, LEFT, HELD, MUG]).questions == (INTENT, MUG)
    with pytest.raises(ConfigError, match="nothing is asked"):
        choose_hands("off", [LEFT, HELD])
    for hands in ("model", "off"):
        with pytest.raises(ConfigError, match="has no effect"):
            choose_hands(hands, LIVE_QUESTIONS, model_file="x.task")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hands is auto"):
        choose_hands("both", LIVE_QUESTIONS)  # type: ignore[arg-type]


@pytest.mark.usefixtures("missing")
def test_without_the_model_file_auto_goes_on_and_says_so() -> None:
    found = choose_hands("auto", LIVE_QUESTIONS)
    assert found.questions == LIVE_QUESTIONS
    assert found.detector() is None
    assert "--hands-model download" in found.missing
    with pytest.raises(ConfigError, match="--hands-model download"):
        choose_hands("detector", LIVE_QUESTIONS)


def test_without_the_runtime_auto_goes_on_and_says_so(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "has_runtime", lambda: False)
    assert "ai-edge-litert" in choose_hands("auto", LIVE_QUESTIONS).missing
    for hands, file in (("detector", None), ("auto", installed)):
        with pytest.raises(ConfigError, match="ai-edge-litert"):
            choose_hands(hands, LIVE_QUESTIONS, model_file=file)  # type: ignore[arg-type]


def test_guesses_of_the_bundled_model_are_not_worth_a_box() -> None:
    assert not draws_guesses(SIMULATED_NANO)
    assert draws_guesses(NANO)
    assert draws_guesses(EGOTHINKER_V1)
