"""Who answers in `egolive bench peers`: this project, transformers in several settings, ONNX Runtime alone.

All are given the same requests under the same grammars, greedy, and say which tokens they chose. How they are
timed is in `egolive.benchmarks.stream.peers`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CompileConfig, DynamicCache, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from egolive.assistant.backends.remote.remote_engine import RemoteEngine
from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import EngineSession, Request, Vision
from egolive.benchmarks.stream.stream_baselines import GenerateSide, Said

__all__ = [
    "SETTINGS",
    "EgoliveSide",
    "Found",
    "ServerSide",
    "Side",
    "TransformersSide",
    "groups_of",
    "shared_tokens",
]

SETTINGS = ("one by one", "batch", "batch, static cache, compiled", "prefix kept", "prefix kept, batch")
"""How transformers documents that `generate` is made fast; which of them is fastest is measured."""


@dataclass(frozen=True, slots=True)
class Found:
    """The answers to one set of questions."""

    said: list[Said]
    first_token: float
    """Seconds until the first token of the first answer that has one."""
    texts: tuple[str, ...] = ()
    """The answers of a side that tells words alone, which are not compared."""
    tokens: int = 0
    """Of all these answers."""


class Side(Protocol):
    """Somebody who answers."""

    def answer(self, kind: str, requests: Sequence[Request]) -> Found:
        """Answer a set of questions; `kind` names the set, which is asked again and again."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class EgoliveSide:
    """This project's engine: one session for each kind of set, which sees every hop of the stream."""

    def __init__(self, engine: LocalEngine[VisionTower, Decoder]) -> None:
        self._engine = engine
        self._sessions: dict[str, EngineSession] = {}

    def answer(self, kind: str, requests: Sequence[Request]) -> Found:
        """Ask together."""
        session = self._sessions.get(kind) or self._sessions.setdefault(kind, self._engine.session())
        begun, first = time.perf_counter(), 0.0
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
        for delta in session.ask(requests):
            first = first or time.perf_counter() - begun
            found[delta.request][0].append(delta.token)
            found[delta.request][1].append(delta.margin)
        return Found([Said(tuple(tokens), tuple(margins)) for tokens, margins in found], first)

    def close(self) -> None:
        """Free sessions and weights."""
        for session in self._sessions.values():
            session.close()
        self._engine.close()


class ServerSide:
    """A server with an OpenAI-compatible API; it holds its answers to no grammar."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._session = engine.session()

    def answer(self, kind: str, requests: Sequence[Request]) -> Found:
        """Ask all at once; the server may answer them side by side."""
        begun, first = time.perf_counter(), 0.0
        texts = [""] * len(requests)
        pieces = 0
        for delta in self._session.ask(requests):
            first = first or time.perf_counter() - begun
            texts[delta.request] += delta.text
            pieces += 1
        tokens = self._session.usage().get("completion_tokens", 0)
        return Found([], first, tuple(texts), tokens or pieces)

    def close(self) -> None:
        """Nothing to free."""
        self._session.close()


class TransformersSide:
    """transformers' `generate` over the same weights, in one of its documented settings.

    Args:
        engine: Whose weights.
        setting: One of `SETTINGS`.
        longest: Tokens of the longest prompt and answer, for a cache of one fixed size.
    """

    def __init__(self, engine: TorchEngine, setting: str, longest: int) -> None:
        self._engine = engine
        self._naive = GenerateSide(engine)
        self._model: Any = engine.halves()[1].model
        self._setting = setting
        self._longest = longest
        self._caches: dict[int, StaticCache] = {}

    def answer(self, kind: str, requests: Sequence[Request]) -> Found:
        """Answer, those about the same picture or video together where the setting has that."""
        begun, first = time.perf_counter(), 0.0
        said: dict[int, Said] = {}
        with torch.inference_mode():
            for places in groups_of(requests):
                group = [requests[place] for place in places]
                for place, (one, at) in zip(places, self._answer(group), strict=True):
                    said[place] = one
                    first = first or at - begun
        return Found([said[place] for place in range(len(requests))], first)

    def close(self) -> None:
        """Free the weights."""
        self._caches.clear()
        self._engine.close()

    def _answer(self, requests: Sequence[Request]) -> list[tuple[Said, float]]:
        """The answers about one picture or video, each with the time of its first token."""
        if self._setting.startswith("prefix kept"):
            return self._on_prefix(requests, together=self._setting.endswith("batch"))
        if self._setting == "one by one":
            return [(self._naive.one(request)[0], self._naive.first_token) for request in requests]
        return self._in_batch(requests)

    def _in_batch(self, requests: Sequence[Request]) -> list[tuple[Said, float]]:
        """All rows at once, padded on the left; what they look at is encoded once."""
        vision = _vision_of(requests[0])
        pixels, count = self._naive.pixels(vision), len(requests)
        encode = getattr(self._model.model, f"get_{vision.kind}_features")
        features = encode(**pixels).pooler_output
        grid = f"{vision.kind}_grid_thw"
        inputs = self._naive.inputs(requests) | {
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
        said = self._naive.generate(requests, inputs, **settings)
        return [(one, self._naive.first_token) for one in said]

    def _on_prefix(self, requests: Sequence[Request], *, together: bool) -> list[tuple[Said, float]]:
        """What the prompts share is read once; each goes on from a copy of its keys and values."""
        vision = _vision_of(requests[0])
        pixels = self._naive.pixels(vision)
        grid = f"{vision.kind}_grid_thw"
        rows = [self._naive.inputs([request]) for request in requests]
        shared = shared_tokens([row["input_ids"][0].tolist() for row in rows])
        cache = DynamicCache(config=self._model.config)
        opening = {name: values[:, :shared] for name, values in rows[0].items()}
        self._model(**opening, **pixels, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if not together:
            found = []
            for request, row in zip(requests, rows, strict=True):
                given = row | {grid: pixels[grid], "past_key_values": copy.deepcopy(cache)}
                found.append((self._naive.generate([request], given)[0], self._naive.first_token))
            return found
        cache.batch_repeat_interleave(len(rows))
        given = _padded_behind(rows, shared, min(self._engine.tokenizer.eos))
        given |= {grid: pixels[grid].repeat(len(rows), 1), "past_key_values": cache}
        return [(one, self._naive.first_token) for one in self._naive.generate(requests, given)]


def groups_of(requests: Sequence[Request]) -> list[list[int]]:
    """Places of the requests, those about the same picture or video side by side."""
    groups: dict[object, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(_vision_of(request).keys, []).append(place)
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


def _vision_of(request: Request) -> Vision:
    return next(part for part in request.prompt.parts if isinstance(part, Vision))


def _compiling(model: torch.nn.Module) -> CompileConfig:
    """On a GPU `generate` compiles its decode steps by itself, on a CPU it has to be told."""
    config = CompileConfig()
    config._compile_all_devices = True
    return config
