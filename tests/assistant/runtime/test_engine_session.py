"""A session: what is encoded and read once, what each request gets, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.load_local import load_engine
from egolive.assistant.runtime.backend import ForwardInput
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.runtime.token_sampling import TokenSampler
from egolive.assistant.runtime.vision_cache import VisionCache
from egolive.assistant.schema.engine import Delta, EngineSession, Prompt, Request, Vision
from egolive.streaming.errors import ConfigError, EngineError
from egolive.streaming.frames import Image


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(tiny_checkpoint), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


@pytest.fixture
def session(engine: TorchEngine) -> Iterator[Session]:
    with engine.session() as session:
        yield session


def pictures(count: int, seed: int = 0) -> tuple[Image, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(count))


PICTURES = pictures(20)


def window(first: int, slices: int) -> Vision:
    """Some slices of one stream, by their keys."""
    numbers = range(first, first + slices)
    return Vision(PICTURES[2 * first : 2 * (first + slices)], 56, 84, "video", tuple(numbers))


def newest() -> Vision:
    return Vision(PICTURES[:1], 84, 112, keys=("frame 0",))


def ask(vision: Vision | None, question: str, **settings: float) -> Request:
    seen = () if vision is None else ("<|vision_start|>", vision, "<|vision_end|>")
    prompt = Prompt(("<|im_start|>user\n", *seen, question + "<|im_end|>\n<|im_start|>assistant\n"))
    return replace(Request(prompt, max_tokens=12), **settings)  # type: ignore[arg-type]


def answers(session: EngineSession, requests: Sequence[Request]) -> list[list[Delta]]:
    found: list[list[Delta]] = [[] for _ in requests]
    for delta in session.ask(requests):
        found[delta.request].append(delta)
    return found


def tokens(session: EngineSession, request: Request) -> list[int]:
    return [delta.token for delta in answers(session, [request])[0]]


def test_the_same_question_gets_the_same_answer_again_without_encoding_again(session: Session) -> None:
    request = ask(window(0, 4), "What comes next?")
    (first,) = answers(session, [request])
    assert session.usage()["slices_encoded"] == 4
    (again,) = answers(session, [request])
    assert [delta.token for delta in again] == [delta.token for delta in first]
    for one, other in zip(first, again, strict=True):
        assert (other.text, other.finished) == (one.text, one.finished)
        # The second time the window is not read again: passes of other lengths add up otherwise.
        assert other.logprob == pytest.approx(one.logprob, abs=1e-5)
        assert other.margin == pytest.approx(one.margin, abs=1e-5)
    assert session.usage()["slices_encoded"] == 0
    assert session.usage()["slices_used"] == 4


def test_requests_asked_together_are_answered_as_each_alone(engine: TorchEngine) -> None:
    unnamed = replace(window(2, 3), keys=())
    requests = [
        ask(window(0, 5), "What is the wearer doing?"),
        ask(newest(), "Find the left hand."),
        ask(window(0, 5), "What comes next?"),
        ask(None, "You are a helpful assistant."),
        ask(window(0, 3), "What comes next?"),
        ask(newest(), "Find the right hand."),
        ask(unnamed, "What comes next?", temperature=1.0, seed=5),
        ask(window(0, 5), "What comes next?"),
    ]
    alone = []
    for request in requests:
        with engine.session() as session:
            alone.append(tokens(session, request))
    with engine.session() as session:
        together = [[delta.token for delta in answer] for answer in answers(session, requests)]
        usage = session.usage()
    assert together == alone
    assert together[2] == together[7]
    assert len({tuple(answer) for answer in together}) == 7
    # Five slices of the stream, one picture, three slices that have no name.
    assert usage["slices_encoded"] == 5 + 1 + 3
    assert usage["slices_used"] == 5 + 1 + 5 + 3 + 1 + 3 + 5
    assert usage["prompt_tokens_reused"] > 2 * 5 * 6


def test_deltas_of_requests_come_interleaved(session: Session) -> None:
    order = [delta.request for delta in session.ask([ask(None, "What?"), ask(None, "Where is the mug?")])]
    assert order == [0, 1] * 12


def test_a_window_that_moves_on_encodes_only_its_new_slice(session: Session) -> None:
    for first, encoded in [(0, 4), (1, 1), (2, 1), (1, 0)]:
        tokens(session, ask(window(first, 4), "What comes next?"))
        assert session.usage()["slices_encoded"] == encoded


def test_what_was_seen_ahead_is_not_encoded_again(session: Session) -> None:
    session.see(window(0, 3))
    tokens(session, ask(window(0, 4), "What comes next?"))
    assert session.usage()["slices_encoded"] == 1


def test_an_image_and_a_slice_under_one_key_are_kept_apart(session: Session, engine: TorchEngine) -> None:
    image = Vision(PICTURES[:1], 56, 84, "image", (0,))
    tokens(session, ask(window(0, 1), "What?"))
    after = tokens(session, ask(image, "What?"))
    with engine.session() as fresh:
        assert after == tokens(fresh, ask(image, "What?"))


def test_forgetting_drops_what_was_seen_and_changes_no_answer(session: Session) -> None:
    request = ask(window(0, 4), "What comes next?")
    before = tokens(session, request)
    session.forget()
    assert tokens(session, request) == before
    assert session.usage()["slices_encoded"] == 4


def test_a_closed_session_says_so(engine: TorchEngine) -> None:
    with engine.session() as session:
        pass
    with pytest.raises(ValueError, match="session is closed"):
        session.ask([ask(None, "What?")])
    with pytest.raises(ValueError, match="session is closed"):
        session.see(window(0, 1))


def test_closing_the_iterator_stops_the_work(session: Session) -> None:
    deltas = session.ask([ask(None, "What comes next?")])
    next(deltas)
    deltas.close()  # type: ignore[attr-defined]
    assert session.usage()["completion_tokens"] == 1
    assert len(tokens(session, ask(None, "What comes next?"))) == 12


def test_nothing_asked_is_nothing_answered(session: Session) -> None:
    assert list(session.ask([])) == []


def test_usage_counts_prompts_pictures_and_answers(session: Session, engine: TorchEngine) -> None:
    request = ask(window(0, 4), "What comes next?", max_tokens=5)
    answers(session, [request, ask(None, "What?", max_tokens=3)])
    texts = [part for part in request.prompt.parts if isinstance(part, str)]
    alone = len(engine.tokenizer.encode("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"))
    assert session.usage() == {
        "prompt_tokens": sum(len(engine.tokenizer.encode(text)) for text in texts) + 24 + alone,
        "prompt_tokens_reused": 0,
        "vision_tokens": 24,
        "completion_tokens": 8,
        "slices_encoded": 4,
        "slices_used": 4,
        "draft_proposed": 0,
        "draft_accepted": 0,
        "prompt_tokens_ahead": 0,
        "slices_ahead": 0,
    }


def test_an_answer_ends_at_its_length_or_at_an_end_token(session: Session, engine: TorchEngine) -> None:
    request = ask(None, "What comes next?")
    whole = answers(session, [request])[0]
    assert [delta.finished for delta in whole] == [""] * 11 + ["length"]
    end = whole[4].token
    engine.tokenizer.eos, usual = frozenset({end}), engine.tokenizer.eos
    try:
        ended = answers(session, [request])[0]
    finally:
        engine.tokenizer.eos = usual
    stop = [delta.token for delta in whole].index(end)
    assert [delta.token for delta in ended] == [delta.token for delta in whole[: stop + 1]]
    assert ended[-1].finished == "stop"


def test_the_text_of_the_deltas_is_the_decoded_answer(session: Session, engine: TorchEngine) -> None:
    for seed in range(20):
        answer = answers(session, [ask(None, "What?", temperature=3.0, seed=seed, max_tokens=40)])[0]
        if answer[-1].finished == "stop":
            answer = answer[:-1]
        text = "".join(delta.text for delta in answer)
        assert text.rstrip("\ufffd") == engine.tokenizer.decode([d.token for d in answer]).rstrip("\ufffd")


def test_logprobs_are_those_of_the_model_over_all_tokens_it_may_say(
    session: Session, engine: TorchEngine
) -> None:
    cold = answers(session, [ask(None, "What?")])[0][0]
    hot = answers(session, [ask(None, "What?", temperature=0.01, seed=3)])[0][0]
    assert hot.token == cold.token
    assert hot.logprob == pytest.approx(cold.logprob, abs=1e-5)
    _, decoder = engine.backend()
    ids = engine.tokenizer.encode("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n")
    positions = np.tile(np.arange(len(ids)), (3, 1))
    (logits,) = decoder.forward([ForwardInput(decoder.new_cache(), decoder.embed(ids), positions)])[0]
    allowed = [token for token in range(len(engine.tokenizer)) if token not in engine.tokenizer.vision_tokens]
    expected = float(logits[cold.token] - logits[allowed].logsumexp(0))
    assert cold.logprob == pytest.approx(expected, abs=1e-4)


def test_tokens_of_pictures_and_outputs_without_text_are_never_said(engine: TorchEngine) -> None:
    _, decoder = engine.backend()
    never = engine.tokenizer.vision_tokens | set(range(len(engine.tokenizer), decoder.head.shape[0]))
    assert len(never) >= 6
    with engine.session() as session:
        for seed in range(8):
            said = tokens(session, ask(None, "What?", temperature=100.0, seed=seed, max_tokens=100))
            assert not never & set(said)


def test_sampling_is_reproducible_by_its_seed(session: Session) -> None:
    def drawn(seed: int) -> list[int]:
        return tokens(session, ask(window(0, 2), "What comes next?", temperature=1.0, top_p=0.95, seed=seed))

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(5)}) >= 4


def draw(logits: torch.Tensor, **settings: float) -> set[int]:
    banned = torch.tensor([0])
    found = set()
    for seed in range(60):
        found.add(TokenSampler(ask(None, "?", seed=seed, **settings), banned).choose(logits).token)
    return found


def test_top_k_top_p_and_temperature_bound_what_is_drawn() -> None:
    logits = torch.tensor([9.0, 2.0, 1.9, 1.8, -2.0])
    assert draw(logits, temperature=1.0, top_k=2) == {1, 2}
    assert draw(logits, temperature=1.0, top_p=0.3) == {1}
    assert draw(logits, temperature=1.0, top_p=0.5) == {1, 2}
    assert draw(logits, temperature=50.0) == {1, 2, 3, 4}
    assert draw(logits, temperature=1e-3) == {1}
    assert draw(logits, temperature=1e-40) == {1}


class Only:
    """Allows these tokens and no others; a `GrammarMatcher`."""

    finished = False

    def __init__(self, *tokens: int) -> None:
        self._tokens = list(tokens)

    def mask(self, logits: torch.Tensor) -> None:
        kept = logits[self._tokens]
        logits.fill_(-torch.inf)
        logits[self._tokens] = kept

    def accept(self, token: int) -> None: ...

    def rollback(self, n: int) -> None: ...


def test_a_token_that_the_grammar_forces_has_no_probability() -> None:
    logits = torch.tensor([9.0, 2.0, 1.9, 1.8, -2.0])
    free = TokenSampler(replace(ask(None, "?"), matcher=Only(2, 3)), torch.tensor([0])).choose(logits)
    assert free.logprob == pytest.approx(float(logits[2:4].log_softmax(0)[0]))
    assert not free.forced
    # Token 0 is allowed by the grammar and never chosen: one is left.
    for allowed in ((3,), (0, 3)):
        request = replace(ask(None, "?"), matcher=Only(*allowed))
        only = TokenSampler(request, torch.tensor([0])).choose(logits)
        assert (only.token, only.logprob, only.forced) == (3, None, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_settings_out_of_range_are_one_line(
    session: Session, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        session.ask([ask(None, "What?", **settings)])


def test_a_prompt_that_is_too_long_is_one_line(session: Session) -> None:
    with pytest.raises(EngineError, match=r"the model holds 4096: use fewer") as caught:
        session.ask([ask(None, "What? " * 3000)])
    assert "\n" not in str(caught.value)


def test_text_that_pretends_to_be_a_picture_is_refused(session: Session) -> None:
    with pytest.raises(EngineError, match="pictures are passed as pictures"):
        session.ask([ask(None, "Look: <|image_pad|>")])


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        (Vision(PICTURES[:3], 56, 84, "video"), "even number, got 3"),
        (Vision(PICTURES[:2], 56, 84, "image"), "got 2 for the image"),
        (Vision((), 56, 84, "video"), "got 0"),
        (Vision(PICTURES[:1], 50, 84), "multiples of 28"),
        (Vision(PICTURES[:4], 56, 84, "video", (1,)), "2 slices need as many keys"),
    ],
    ids=["odd", "two images", "none", "size", "keys"],
)
def test_pictures_that_cannot_be_are_refused(session: Session, vision: Vision, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        session.ask([ask(vision, "What?")])


def test_damaged_weights_are_told_not_answered(session: Session, engine: TorchEngine) -> None:
    _, decoder = engine.backend()
    whole = decoder.head
    decoder.head = torch.full_like(whole, float("nan"))
    try:
        with pytest.raises(EngineError, match="not a number"):
            tokens(session, ask(None, "What?"))
    finally:
        decoder.head = whole


def test_the_slice_cache_keeps_to_its_limit_and_drops_what_was_not_used_longest() -> None:
    cache = VisionCache(3 * 400)
    for name in "abc":
        cache.put(name, torch.zeros(100))
    assert cache.get("a") is not None
    cache.put("d", torch.zeros(100))
    assert cache.get("b") is None
    assert all(cache.get(name) is not None for name in "acd")
    assert (len(cache), cache.nbytes) == (3, 1200)
    cache.put("too large", torch.zeros(1000))
    assert (len(cache), cache.nbytes) == (0, 0)


def test_a_slice_that_is_put_again_counts_once() -> None:
    cache = VisionCache(1200)
    cache.put("a", torch.zeros(100))
    cache.put("b", torch.zeros(100))
    cache.put("a", torch.ones(200))
    assert (len(cache), cache.nbytes) == (2, 1200)
    kept = cache.get("a")
    assert kept is not None
    assert kept.sum() == 200
    for _ in range(5):
        cache.put("b", torch.zeros(100))
    assert cache.nbytes == 1200
    # The one that was put last is the most recently used.
    cache.put("c", torch.zeros(100))
    assert cache.get("a") is None
    assert cache.nbytes == 800


def test_the_slice_cache_keeps_no_more_than_windows_can_hold() -> None:
    cache = VisionCache(10**9)
    for name in range(2000):
        cache.put(name, torch.zeros(1))
    assert len(cache) == 512
    assert cache.get(1999) is not None
    assert cache.nbytes == 512 * 4


def test_a_session_in_which_another_thread_hangs_is_left_to_it(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine.session()
    begun, go_on = threading.Event(), threading.Event()
    read = session._prefill.run

    def hangs(*arguments: Any, **settings: Any) -> Any:
        begun.set()
        go_on.wait(10)
        return read(*arguments, **settings)

    monkeypatch.setattr(session._prefill, "run", hangs)
    said: list[Delta] = []
    thread = threading.Thread(target=lambda: said.extend(session.ask([ask(window(0, 2), "What?")])))
    thread.start()
    assert begun.wait(10)
    session.close()
    go_on.set()
    thread.join(10)
    assert said
    with pytest.raises(ValueError, match="closed"):
        session.ask([ask(None, "What?")])
