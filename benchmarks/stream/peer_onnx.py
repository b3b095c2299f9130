"""ONNX Runtime alone: the exported graphs, driven as a careful user of onnxruntime would drive them.

Nothing of this project's engine is in it but the files, the prompts' layout and the grammars.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from egolive.assistant.model.engine_folder import DECODER_FILE, TOWER_FILE, files_folder, read_engine_card
from egolive.assistant.model.prompt_tokens import Layout, SlicePiece, lay_out
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import Request
from egolive.benchmarks.stream.baselines import Answers, Said, Stopwatch, groups_of

__all__ = ["OnnxBaseline"]


class OnnxBaseline:
    """Questions one after the other; keys and values stand in arrays that never grow.

    Args:
        folder: An engine folder of this project for ONNX Runtime.
        engine: The same, for its tokenizer, preprocessor and embeddings.
        threads: CPU threads.
        longest: Tokens of the longest prompt and answer.
        prefix: Encode what several questions look at once, and read once what their prompts share.
    """

    def __init__(
        self,
        folder: Path,
        engine: LocalEngine[VisionTower, Decoder],
        *,
        threads: int | None,
        longest: int,
        prefix: bool,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        files = files_folder(folder, read_engine_card(folder))
        self._tower, self._decoder = (
            onnxruntime.InferenceSession(files / name, options, providers=["CPUExecutionProvider"])
            for name in (TOWER_FILE, DECODER_FILE)
        )
        past = [entry for entry in self._decoder.get_inputs() if entry.name.startswith("past.")]
        self._kept: dict[str, NDArray[np.float32]] = {
            entry.name: np.zeros((1, longest, *entry.shape[2:]), dtype=np.float32) for entry in past
        }
        """Keys and values: (1, tokens, heads, width of a head)."""
        shapes = {entry.name: entry.shape for entry in self._decoder.get_outputs()}
        self._outputs = list(shapes)
        self._engine = engine
        self._prefix = prefix
        unused = range(len(engine.tokenizer), shapes["logits"][-1])
        self._banned = torch.tensor(sorted(engine.tokenizer.vision_tokens | set(unused)))

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        """Answer one after the other."""
        since, first = Stopwatch(torch.device("cpu")), 0.0
        said: dict[int, Said] = {}
        for places in groups_of(requests):
            layouts = [lay_out(requests[place].prompt, self._engine.tokenizer) for place in places]
            head = layouts[0].head
            if self._prefix:
                self._run(self._embed(layouts[0])[:head], layouts[0].positions[:, :head], 0)
            for place, layout in zip(places, layouts, strict=True):
                if self._prefix:
                    tail = self._table(layout.pieces[-1])
                    logits = self._run(tail, layout.positions[:, head:], head)
                else:
                    logits = self._run(self._embed(layout), layout.positions, 0)
                first = first or since.stop().wall
                said[place] = self._decode(requests[place], layout, logits)
        found, tokens = [said[n] for n in range(len(requests))], sum(len(one.tokens) for one in said.values())
        return Answers(said=found, cost=since.stop(), first_token=first, tokens=tokens)

    def close(self) -> None:
        """Nothing to free: the engine is its caller's."""

    def _decode(self, request: Request, layout: Layout, logits: NDArray[np.float32]) -> Said:
        """Token by token, greedily."""
        tokens: list[int] = []
        margins: list[float] = []
        used, matcher = len(layout), request.matcher
        while True:
            row = torch.from_numpy(logits[-1]).index_fill(0, self._banned, -torch.inf)
            if matcher is not None:
                matcher.mask(row)
            best = row.topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if matcher is not None:
                matcher.accept(tokens[-1])
            ended = tokens[-1] in self._engine.tokenizer.eos or len(tokens) == request.max_tokens
            if ended or (matcher is not None and matcher.finished):
                break
            position = np.full((3, 1), layout.next_position + len(tokens) - 1)
            logits = self._run(self._table((tokens[-1],)), position, used)
            used += 1
        if matcher is not None:
            matcher.rollback(len(tokens))
        return Said(tuple(tokens), tuple(margins))

    def _run(
        self, embeddings: NDArray[np.float32], positions: NDArray[np.int64], used: int
    ) -> NDArray[np.float32]:
        """Logits of the last token; keys and values go behind those that were used."""
        new = len(embeddings)
        bias = np.triu(np.full((new, used + new), -np.inf, dtype=np.float32), used + 1)
        feeds = {
            "embeddings": embeddings[None],
            "positions": np.ascontiguousarray(positions[:, None]),
            "attention_bias": bias[None, None],
            "kept": np.array([new - 1]),
        } | {name: kept[:, :used] for name, kept in self._kept.items()}
        found = dict(zip(self._outputs, self._decoder.run(self._outputs, feeds), strict=True))
        for name, kept in self._kept.items():
            kept[:, used : used + new] = found[name.replace("past.", "new.")]
        logits: NDArray[np.float32] = found["logits"]
        return logits

    def _embed(self, layout: Layout) -> NDArray[np.float32]:
        """Embeddings of a prompt; pictures go through the tower."""
        parts: list[NDArray[np.float32]] = []
        for piece in layout.pieces:
            if isinstance(piece, SlicePiece):
                patches, _ = self._engine.preprocessor.patches(piece.frames, piece.height, piece.width)
                parts += self._tower.run(["visual_tokens"], {"patches": patches})
            else:
                parts.append(self._table(piece))
        return np.concatenate(parts)

    def _table(self, tokens: tuple[int, ...] | SlicePiece) -> NDArray[np.float32]:
        """Embeddings of text."""
        assert not isinstance(tokens, SlicePiece)
        found: NDArray[np.float32] = self._engine.backend()[1].embed(tokens).float().numpy()
        return found
