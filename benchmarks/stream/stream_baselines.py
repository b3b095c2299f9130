"""Who answers in `egolive bench stream`: the engine with any of its reuse, and transformers' own `generate`.

All sides are given the same requests, hold answers to the same guides and never say the same tokens that our
engine bans. How long they take is measured in `egolive.benchmarks.stream.stream_bench`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.model.prompt_tokens import slices_of
from egolive.assistant.schema.engine import Request, Vision
from egolive.assistant.schema.reuse import Reuse

__all__ = ["Cost", "EngineSide", "GenerateSide", "Said", "compare"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took."""

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


def compare(expected: Said, other: Said, tie: float) -> Literal["same", "tie", "error"]:
    """Whether two answers are the same tokens; where they part at almost equal ones, that is a tie.

    Args:
        expected: The answer whose margins count.
        other: The one that is held against it.
        tie: Margin below which two tokens are almost equally likely.
    """
    if other.tokens == expected.tokens:
        return "same"
    pairs = zip(expected.tokens, other.tokens, expected.margins, strict=False)
    margin = next((margin for one, two, margin in pairs if one != two), np.inf)
    return "tie" if margin < tie else "error"


class EngineSide:
    """A session of the engine that sees the whole stream."""

    def __init__(self, engine: TorchEngine, reuse: Reuse) -> None:
        self.usage: Counter[str] = Counter()
        """Of all questions asked since it was cleared last."""
        self._session = engine.session(reuse)
        self._device = engine.halves()[1].device

    def keep_up(self, vision: Vision, requests: Sequence[Request], said: Sequence[Said]) -> None:
        """See what is new without being asked; what another side answered is the draft of what comes."""
        self._session.see(vision)
        for request, answer in zip(requests, said, strict=True):
            self._session.drafts.keep(request.key, answer.tokens)

    def answer(self, requests: Sequence[Request]) -> tuple[list[Said], Cost]:
        """Ask together; the answers, and the cost of all that they leave to do, ahead as well."""
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
        since = _Stopwatch(self._device)
        for delta in self._session.ask(requests):
            tokens, margins = found[delta.request]
            tokens.append(delta.token)
            margins.append(delta.margin)
        cost = since.stop()
        self.usage.update(self._session.usage())
        return [Said(tuple(tokens), tuple(margins)) for tokens, margins in found], cost

    def close(self) -> None:
        """Free the session."""
        self._session.close()


class GenerateSide:
    """transformers' `generate` over the engine's own weights; nothing is kept from one call to the next."""

    def __init__(self, engine: TorchEngine) -> None:
        _, decoder = engine.halves()
        self._model = decoder.model
        self._device = decoder.device
        self._tokenizer = engine.tokenizer
        self._preprocessor = engine.preprocessor
        unused = range(len(engine.tokenizer), self._model.config.text_config.vocab_size)
        banned = sorted(engine.tokenizer.vision_tokens | set(unused))
        self._banned = torch.tensor(banned, device=decoder.device)
        self.first_token = 0.0
        """When the last call of `generate` had the logits of its first token, by `time.perf_counter`."""

    def one(self, request: Request) -> tuple[Said, Cost]:
        """Answer one question from its pixels."""
        since = _Stopwatch(self._device)
        pixels = [self.pixels(part) for part in request.prompt.parts if isinstance(part, Vision)]
        inputs = self.inputs([request]) | {name: value for found in pixels for name, value in found.items()}
        said = self.generate([request], inputs)[0]
        return said, since.stop()

    def batch(self, requests: Sequence[Request]) -> tuple[list[Said], Cost, Cost]:
        """Answer questions about one video in one batch, padded on the left; its features are encoded once.

        Args:
            requests: Each with the same video in it, and no other picture.

        Returns:
            The answers, the cost of encoding, and that of all the rest.
        """
        since = _Stopwatch(self._device)
        video = next(part for part in requests[0].prompt.parts if isinstance(part, Vision))
        pixels = self.pixels(video)
        with torch.inference_mode():
            features = self._model.model.get_video_features(**pixels).pooler_output
        encoding = since.stop()
        since = _Stopwatch(self._device)
        several = len(requests)
        inputs = self.inputs(requests) | {
            "video_grid_thw": pixels["video_grid_thw"].repeat(several, 1),
            "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features * several)},
        }
        said = self.generate(requests, inputs)
        return said, encoding, since.stop()

    def pixels(self, vision: Vision) -> dict[str, torch.Tensor]:
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

    def inputs(self, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
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

    def generate(self, requests: Sequence[Request], inputs: dict[str, Any], **settings: Any) -> list[Said]:
        """Answer requests in one batch.

        Args:
            requests: As many as the inputs have rows.
            inputs: Of `generate`.
            settings: Further ones of `generate`.
        """
        length = inputs["input_ids"].shape[1]
        guided = _Guided(requests, self._banned, length)
        try:
            with torch.inference_mode():
                found = self._model.generate(
                    **inputs,
                    max_new_tokens=requests[0].max_tokens,
                    do_sample=False,
                    # What a checkpoint's own files say of these must not make another comparison of this one.
                    repetition_penalty=1.0,
                    use_cache=True,
                    logits_processor=LogitsProcessorList([guided]),
                    eos_token_id=sorted(self._tokenizer.eos),
                    pad_token_id=min(self._tokenizer.eos),
                    return_dict_in_generate=True,
                    output_scores=True,
                    **settings,
                )
        finally:
            guided.end()
            self.first_token = guided.first_token
        return [
            self._said(row.tolist(), [scores[number] for scores in found.scores])
            for number, row in enumerate(found.sequences[:, length:])
        ]

    def _said(self, tokens: list[int], scores: Sequence[torch.Tensor]) -> Said:
        ends = [place for place, token in enumerate(tokens) if token in self._tokenizer.eos]
        count = ends[0] + 1 if ends else len(tokens)
        best = torch.stack(list(scores[:count])).topk(2).values
        return Said(tuple(tokens[:count]), tuple((best[:, 0] - best[:, 1]).tolist()))


class _Guided(LogitsProcessor):  # type: ignore[misc]
    """Lets `generate` say what our engine may say; each row follows the guide of its request."""

    def __init__(self, requests: Sequence[Request], banned: torch.Tensor, length: int) -> None:
        self._guides = [request.matcher for request in requests]
        self._banned = banned
        self._length = length
        self._accepted = [0] * len(requests)
        self.first_token = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.first_token = self.first_token or time.perf_counter()
        allowed = scores.float().index_fill(1, self._banned, -torch.inf)
        for row, matcher in enumerate(self._guides):
            # A row that has ended is filled up while others go on.
            if matcher is None or matcher.finished:
                continue
            if input_ids.shape[1] > self._length:
                matcher.accept(int(input_ids[row, -1]))
                self._accepted[row] += 1
            matcher.mask(allowed[row])
        return allowed

    def end(self) -> None:
        """Bring the guides back to their beginning."""
        for matcher, accepted in zip(self._guides, self._accepted, strict=True):
            if matcher is not None:
                matcher.rollback(accepted)


class _Stopwatch:
    """Counts from its making on; what a GPU still has to do counts as well."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = (time.perf_counter(), time.process_time())

    def stop(self) -> Cost:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        wall, cpu = self._start
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)
