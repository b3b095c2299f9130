"""Baselines of `egolive bench stream` and `bench peers`: this project's engine, transformers, a server.

All are given the same requests under the same grammars, decode greedily and never say a token that our engine
bans. Each measures itself; `egolive.benchmarks.stream.baseline_runner` decides which hops they answer.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CompileConfig, DynamicCache, LogitsProcessor, LogitsProcessorList, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from egolive.assistant.backends.remote.remote_engine import RemoteEngine
from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.model.prompt_tokens import slices_of
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import FULL_REUSE, Request, Reuse, Vision
from egolive.streaming.errors import EngineError

__all__ = [
    "SETTINGS",
    "Answers",
    "Baseline",
    "Cost",
    "EngineBaseline",
    "Said",
    "ServerBaseline",
    "Stopwatch",
    "TransformersBaseline",
    "compare",
    "groups_of",
    "shared_tokens",
    "vision_in",
]

SETTINGS = ("one by one", "batch", "batch, static cache, compiled", "prefix kept", "prefix kept, batch")
"""How transformers documents that `generate` is made fast; which of them is fastest is measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Time that something took."""

    wall: float
    """Seconds that passed."""
    cpu: float
    """Seconds of the processor, all threads together; not disturbed by what else the machine does."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer."""

    tokens: tuple[int, ...]
    """The one that ended it included."""
    margins: tuple[float, ...]
    """By how much the logarithm of each lies above that of the second likeliest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers to one set of questions, and what they took."""

    said: list[Said]
    """Empty where only words are known, which are not compared."""
    cost: Cost
    first_token: float
    """Seconds until the first token of the first answer that has one."""
    encoding: Cost = Cost(0.0, 0.0)
    """The part of a batch's cost that encodes pictures."""
    texts: tuple[str, ...] = ()
    """The answers in words where there are no tokens."""
    tokens: int = 0
    """Of all these answers."""


class Baseline(Protocol):
    """Something that answers."""

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        """Answer a set of questions; `kind` names the set, which is asked again and again."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class Stopwatch:
    """Measures from its creation on; work that a GPU still has to do counts."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._synchronize()
        self._start = (time.perf_counter(), time.process_time())

    def stop(self) -> Cost:
        """Time since the creation."""
        self._synchronize()
        wall, cpu = self._start
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def compare(expected: Said, other: Said, tie: float) -> Literal["same", "tie", "error"]:
    """Whether two answers are the same tokens; where they part at almost equal ones, that is a tie.

    Args:
        expected: The answer whose margins count.
        other: The answer that is compared with it.
        tie: Margin below which two tokens are almost equally likely.
    """
    if other.tokens == expected.tokens:
        return "same"
    pairs = zip(expected.tokens, other.tokens, expected.margins, strict=False)
    margin = next((margin for one, two, margin in pairs if one != two), np.inf)
    return "tie" if margin < tie else "error"


class EngineBaseline:
    """This project's engine: one session for each kind of set, which sees every hop of the stream.

    Args:
        engine: The engine; closed by its caller.
        reuse: What its sessions reuse.
    """

    def __init__(self, engine: LocalEngine[VisionTower, Decoder], reuse: Reuse = FULL_REUSE) -> None:
        self.usage: Counter[str] = Counter()
        """Of all questions asked since it was cleared last."""
        self._engine = engine
        self._reuse = reuse
        self._sessions: dict[str, Session] = {}

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        """Ask together; the cost includes all that is left to do afterwards, read-ahead as well."""
        session = self._session(kind)
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
        first = 0.0
        since = Stopwatch(torch.device(self._engine.info.device))
        begun = time.perf_counter()
        for delta in session.ask(requests):
            first = first or time.perf_counter() - begun
            tokens, margins = found[delta.request]
            tokens.append(delta.token)
            margins.append(delta.margin)
        cost = since.stop()
        self.usage.update(session.usage())
        said = [Said(tuple(tokens), tuple(margins)) for tokens, margins in found]
        return Answers(said=said, cost=cost, first_token=first, tokens=_count(said))

    def keep_up(self, kind: str, vision: Vision, requests: Sequence[Request], said: Sequence[Said]) -> None:
        """See what is new without being asked; answers of another baseline become the drafts."""
        session = self._session(kind)
        session.see(vision)
        for request, answer in zip(requests, said, strict=True):
            session.drafts.keep(request.key, answer.tokens)

    def close(self) -> None:
        """Free the sessions."""
        for session in self._sessions.values():
            session.close()

    def _session(self, kind: str) -> Session:
        if kind not in self._sessions:
            self._sessions[kind] = self._engine.session(self._reuse)
        return self._sessions[kind]


class ServerBaseline:
    """A server with an OpenAI-compatible API; it holds its answers to no grammar."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._session = engine.session()

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        """Ask all at once; the server may answer them side by side.

        Raises:
            EngineError: It failed, or broke off an answer, whose time would be too short.
        """
        since, begun, first = Stopwatch(torch.device("cpu")), time.perf_counter(), 0.0
        texts = [""] * len(requests)
        pieces = 0
        for delta in self._session.ask(requests):
            if delta.finished == "broken":
                raise EngineError(delta.error)
            first = first or time.perf_counter() - begun
            texts[delta.request] += delta.text
            pieces += 1
        tokens = self._session.usage().get("completion_tokens", 0) or pieces
        return Answers(said=[], cost=since.stop(), first_token=first, texts=tuple(texts), tokens=tokens)

    def close(self) -> None:
        """Free the session."""
        self._session.close()


class TransformersBaseline:
    """transformers' `generate` over an engine's own weights, in one of its documented settings.

    Args:
        engine: Whose weights; closed by its caller.
        setting: One of `SETTINGS`.
        longest: Tokens of the longest prompt and answer, for a cache of one fixed size.
    """

    def __init__(self, engine: TorchEngine, setting: str = SETTINGS[0], longest: int = 0) -> None:
        _, decoder = engine.backend()
        self._model: Any = decoder.model
        self._device = decoder.device
        self._tokenizer = engine.tokenizer
        self._preprocessor = engine.preprocessor
        unused = range(len(engine.tokenizer), self._model.config.text_config.vocab_size)
        banned = sorted(engine.tokenizer.vision_tokens | set(unused))
        self._banned = torch.tensor(banned, device=decoder.device)
        self._setting = setting
        self._longest = longest
        self._caches: dict[int, StaticCache] = {}
        self._first_token = 0.0
        self._encoding = Cost(0.0, 0.0)

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        """Answer, those about the same picture or video together where the setting has that."""
        self._first_token, self._encoding = 0.0, Cost(0.0, 0.0)
        since, begun = Stopwatch(self._device), time.perf_counter()
        answered: dict[int, Said] = {}
        with torch.inference_mode():
            for places in groups_of(requests):
                group = [requests[place] for place in places]
                answered |= zip(places, self._answer(group), strict=True)
        cost, said = since.stop(), [answered[place] for place in range(len(requests))]
        first = self._first_token - begun
        return Answers(said=said, cost=cost, first_token=first, encoding=self._encoding, tokens=_count(said))

    def close(self) -> None:
        """Free the caches."""
        self._caches.clear()

    def _answer(self, requests: Sequence[Request]) -> list[Said]:
        """The answers about one picture or video."""
        if self._setting.startswith("prefix kept"):
            return self._on_prefix(requests, together=self._setting.endswith("batch"))
        if self._setting.startswith("batch"):
            return self._in_batch(requests)
        found = []
        for request in requests:
            inputs = self._inputs([request]) | self._pixels(vision_in(request))
            found += self._generate([request], inputs)
        return found

    def _in_batch(self, requests: Sequence[Request]) -> list[Said]:
        """All rows at once, padded on the left; what they look at is encoded once."""
        vision, count = vision_in(requests[0]), len(requests)
        since = Stopwatch(self._device)
        pixels = self._pixels(vision)
        features = getattr(self._model.model, f"get_{vision.kind}_features")(**pixels).pooler_output
        self._encoding += since.stop()
        grid = f"{vision.kind}_grid_thw"
        inputs = self._inputs(requests) | {
            grid: pixels[grid].repeat(count, 1),
            "mm_encoder_outputs": {vision.kind: BaseModelOutputWithPooling(pooler_output=features * count)},
        }
        settings: dict[str, Any] = {}
        if "static" in self._setting:
            # One size for all lengths of a stream: each new one would be compiled anew.
            if count not in self._caches:
                self._caches[count] = StaticCache(config=self._model.config, max_cache_len=self._longest)
            self._caches[count].reset()
            settings = {"past_key_values": self._caches[count], "compile_config": _compiling(self._model)}
        return self._generate(requests, inputs, **settings)

    def _on_prefix(self, requests: Sequence[Request], *, together: bool) -> list[Said]:
        """What the prompts share is read once; each goes on from a copy of its keys and values."""
        vision = vision_in(requests[0])
        pixels = self._pixels(vision)
        grid = f"{vision.kind}_grid_thw"
        rows = [self._inputs([request]) for request in requests]
        shared = shared_tokens([row["input_ids"][0].tolist() for row in rows])
        cache = DynamicCache(config=self._model.config)
        opening = {name: values[:, :shared] for name, values in rows[0].items()}
        self._model(**opening, **pixels, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if not together:
            found = []
            for request, row in zip(requests, rows, strict=True):
                given = row | {grid: pixels[grid], "past_key_values": copy.deepcopy(cache)}
                found += self._generate([request], given)
            return found
        cache.batch_repeat_interleave(len(rows))
        given = _padded_behind(rows, shared, min(self._tokenizer.eos))
        given |= {grid: pixels[grid].repeat(len(rows), 1), "past_key_values": cache}
        return self._generate(requests, given)

    def _pixels(self, vision: Vision) -> dict[str, torch.Tensor]:
        """What `generate` is given of a picture or a video."""
        patches = [
            self._preprocessor.patches(piece.frames, piece.height, piece.width)[0]
            for piece in slices_of(vision)
        ]
        patch = self._preprocessor.patch_size
        grid = [[len(patches), vision.height // patch, vision.width // patch]]
        pixels = torch.from_numpy(np.concatenate(patches)).to(self._device, self._model.dtype)
        names = ("pixel_values", "image_grid_thw")
        if vision.kind == "video":
            names = ("pixel_values_videos", "video_grid_thw")
        return dict(zip(names, (pixels, torch.tensor(grid, device=self._device)), strict=True))

    def _inputs(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Token ids, what kind each is (0 text, 1 image, 2 video) and which are padding."""
        rows = [self._tokens(request) for request in requests]
        length = max(len(ids) for ids, _ in rows)
        padding = [length - len(ids) for ids, _ in rows]
        filler = min(self._tokenizer.eos)
        values = {
            "input_ids": [[filler] * n + ids for n, (ids, _) in zip(padding, rows, strict=True)],
            "mm_token_type_ids": [[0] * n + kinds for n, (_, kinds) in zip(padding, rows, strict=True)],
            "attention_mask": [[0] * n + [1] * (length - n) for n in padding],
        }
        return {name: torch.tensor(value, device=self._device) for name, value in values.items()}

    def _tokens(self, request: Request) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        kinds: list[int] = []
        for part in request.prompt.parts:
            if isinstance(part, str):
                run, kind = self._tokenizer.encode(part), 0
            else:
                image = part.kind == "image"
                token = self._tokenizer.image_token if image else self._tokenizer.video_token
                run, kind = [token] * sum(piece.tokens for piece in slices_of(part)), 1 if image else 2
            ids += run
            kinds += [kind] * len(run)
        return ids, kinds

    def _generate(self, requests: Sequence[Request], inputs: dict[str, Any], **settings: Any) -> list[Said]:
        """Answer requests in one batch.

        Args:
            requests: As many as the inputs have rows.
            inputs: Of `generate`.
            settings: Further ones of `generate`.
        """
        length = inputs["input_ids"].shape[1]
        grammars = _Grammars(requests, self._banned, length)
        try:
            found = self._model.generate(
                **inputs,
                max_new_tokens=requests[0].max_tokens,
                do_sample=False,
                # What a checkpoint's own files say of these must not make another comparison of this one.
                repetition_penalty=1.0,
                use_cache=True,
                logits_processor=LogitsProcessorList([grammars]),
                eos_token_id=sorted(self._tokenizer.eos),
                pad_token_id=min(self._tokenizer.eos),
                return_dict_in_generate=True,
                output_scores=True,
                **settings,
            )
        finally:
            grammars.reset()
            self._first_token = self._first_token or grammars.first_token
        return [
            self._said(row.tolist(), [scores[number] for scores in found.scores])
            for number, row in enumerate(found.sequences[:, length:])
        ]

    def _said(self, tokens: list[int], scores: Sequence[torch.Tensor]) -> Said:
        ends = [place for place, token in enumerate(tokens) if token in self._tokenizer.eos]
        count = ends[0] + 1 if ends else len(tokens)
        best = torch.stack(list(scores[:count])).topk(2).values
        return Said(tuple(tokens[:count]), tuple((best[:, 0] - best[:, 1]).tolist()))


class _Grammars(LogitsProcessor):  # type: ignore[misc]
    """Lets `generate` say what our engine may say; each row follows the grammar of its request."""

    def __init__(self, requests: Sequence[Request], banned: torch.Tensor, length: int) -> None:
        self._matchers = [request.matcher for request in requests]
        self._banned = banned
        self._length = length
        self._accepted = [0] * len(requests)
        self.first_token = 0.0
        """When the logits of the first token were there, by `time.perf_counter`."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.first_token = self.first_token or time.perf_counter()
        allowed = scores.float().index_fill(1, self._banned, -torch.inf)
        for row, matcher in enumerate(self._matchers):
            # A row that has ended is filled up while others go on.
            if matcher is None or matcher.finished:
                continue
            if input_ids.shape[1] > self._length:
                matcher.accept(int(input_ids[row, -1]))
                self._accepted[row] += 1
            matcher.mask(allowed[row])
        return allowed

    def reset(self) -> None:
        """Bring the grammars back to their beginning."""
        for matcher, accepted in zip(self._matchers, self._accepted, strict=True):
            if matcher is not None:
                matcher.rollback(accepted)


def groups_of(requests: Sequence[Request]) -> list[list[int]]:
    """Places of the requests, those about the same picture or video side by side."""
    groups: dict[object, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(vision_in(request).keys, []).append(place)
    return list(groups.values())


def shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """With how many equal tokens all rows begin; one at least is left to each."""
    count = 0
    while count < min(map(len, rows)) - 1 and len({row[count] for row in rows}) == 1:
        count += 1
    return count


def _padded_behind(rows: Sequence[dict[str, torch.Tensor]], shared: int, filler: int) -> dict[str, Any]:
    """Rows of one length, padded between what they share and what is their own."""
    length = max(row["input_ids"].shape[1] for row in rows)
    fillers = {"input_ids": filler, "mm_token_type_ids": 0, "attention_mask": 0}
    padded: dict[str, Any] = {}
    for name, value in fillers.items():
        made: list[NDArray[np.int64]] = []
        for row in rows:
            values = row[name][0].cpu().numpy()
            gap = np.full(length - len(values), value)
            made.append(np.concatenate([values[:shared], gap, values[shared:]]))
        padded[name] = torch.from_numpy(np.stack(made)).to(rows[0][name].device)
    return padded


def vision_in(request: Request) -> Vision:
    """The picture or video of a request that has one."""
    return next(part for part in request.prompt.parts if isinstance(part, Vision))


def _compiling(model: torch.nn.Module) -> CompileConfig:
    """On a GPU `generate` compiles its decode steps by itself, on a CPU only where it is asked to."""
    config = CompileConfig()
    config._compile_all_devices = True
    return config


def _count(said: Sequence[Said]) -> int:
    return sum(len(one.tokens) for one in said)
