"""The ONNX Runtime engine: the two halves that `egolive export` and `egolive quantize` write.

Rows, branches and what is shared between them are those of the torch engine; here one pass over the weights
is one run of a graph. Several rows are read in one pass as if they were one: an attention bias keeps their
tokens apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from egolive.assistant.engine import EngineInfo
from egolive.assistant.engine_folder import (
    DECODER_FILE,
    EMBEDDINGS_FILE,
    TOWER_FILE,
    EngineCard,
    Shapes,
)
from egolive.assistant.halves import Chunk
from egolive.assistant.local_engine import LocalEngine
from egolive.assistant.onnx_runtime import open_session, run
from egolive.assistant.preprocess import Preprocessor
from egolive.assistant.profiles import load_profile
from egolive.assistant.spans import Span, plan
from egolive.assistant.tokenizer import load_tokenizer
from egolive.assistant.torch_errors import as_engine_errors
from egolive.assistant.torch_rows import TorchRow
from egolive.streaming.errors import EngineError

__all__ = ["OnnxDecoder", "OnnxTower", "embedding_table", "load_onnx_engine"]

_PATCH = 14


class OnnxTower:
    """The vision half, for pictures of one size."""

    def __init__(self, session: onnxruntime.InferenceSession, shapes: Shapes, device: torch.device) -> None:
        self._session = session
        self._shapes = shapes
        self._grid = (1, shapes.height // _PATCH, shapes.width // _PATCH)
        self._device = device
        self._dtype = _dtype(session, "visual_tokens")

    def encode(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> torch.Tensor:
        """Encode one slice or picture; see `VisionTower`."""
        if grid != self._grid:
            raise EngineError(
                f"this engine was exported for pictures of {self._shapes.width}x{self._shapes.height}, "
                f"got {grid[2] * _PATCH}x{grid[1] * _PATCH}: leave --height and --width away, or export it "
                "for this size"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device)
        tokens = torch.empty((len(patches) // 4, self._shapes.hidden), dtype=self._dtype, device=self._device)
        run(
            self._session,
            {"patches": (pixels, tuple(pixels.shape))},
            {"visual_tokens": (tokens, tuple(tokens.shape))},
            "encoding a picture",
        )
        return tokens


class OnnxDecoder:
    """The text half. Keys and values stay on the device; a run appends to them in place."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        table: torch.Tensor,
        shapes: Shapes,
        device: torch.device,
    ) -> None:
        """Take over a graph.

        Args:
            session: The graph.
            table: (vocabulary, width) token embeddings, on the host; may be mapped from a file.
            shapes: Of the model.
            device: Where the graph runs.
        """
        self._session = session
        self._table = table
        self._shapes = shapes
        self._device = device
        self._dtype = _dtype(session, "new.0.key")
        # An empty past has no memory of its own to point to.
        self._nothing = torch.zeros(1, dtype=self._dtype, device=device)

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        return self._table[torch.tensor(tokens, dtype=torch.long)].to(self._device, self._dtype)

    def row(self) -> TorchRow:
        """A row that has read nothing."""
        return TorchRow(self._new_buffer)

    def _new_buffer(self, capacity: int) -> torch.Tensor:
        """Room for keys and values: (layers, 2, 1, capacity, key-value heads x width of a head).

        The tokens stand before the heads, so that new ones go behind the old ones without a gap.
        """
        shapes = self._shapes
        size = (shapes.layers, 2, 1, capacity, shapes.kv_heads * shapes.head_width)
        return torch.empty(size, dtype=self._dtype, device=self._device)

    def read(self, chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        """Let several rows and branches read on in one run; see `Decoder`."""
        if not chunks:
            return []
        with as_engine_errors("reading a prompt"), torch.inference_mode():
            spans, order = plan(chunks)
            embeddings = torch.cat([chunks[at].embeddings for at in order])[None].contiguous()
            positions = np.concatenate([chunks[at].positions for at in order], axis=1)[:, None]
            kept: list[int] = []
            end = 0
            for at in order:
                end += len(chunks[at].embeddings)
                kept += range(end - chunks[at].keep, end)
            # One row of logits is computed even where none is asked for.
            rows = torch.tensor(kept or [end - 1], device=self._device)
            logits = torch.empty((len(rows), self._shapes.vocabulary), device=self._device)
            inputs = {
                "embeddings": embeddings,
                "positions": torch.from_numpy(positions).to(self._device).contiguous(),
                "attention_bias": self._bias(spans),
                "kept": rows,
            }
            self._run(spans, inputs, logits)
        for span in spans:
            span.row.commit(span.owners)
        found = torch.split(logits[: len(kept)], [chunks[at].keep for at in order])
        placed = dict(zip(order, found, strict=True))
        return [placed[at] for at in range(len(chunks))]

    def _bias(self, spans: Sequence[Span]) -> torch.Tensor:
        """(1, 1, new, past + new): 0 where a token sees a column, minus infinity elsewhere."""
        past, new = sum(span.used for span in spans), sum(span.count for span in spans)
        seen = np.zeros((new, past + new), dtype=np.bool_)
        start = 0
        for span in spans:
            rows = slice(span.start, span.start + span.count)
            seen[rows, start : start + span.used] = span.seen[:, : span.used]
            seen[rows, past + span.start : past + span.start + span.count] = span.seen[:, span.used :]
            start += span.used
        bias = torch.zeros(seen.shape)
        bias.masked_fill_(torch.from_numpy(~seen), -torch.inf)
        return bias[None, None].to(self._device)

    def _run(self, spans: Sequence[Span], inputs: dict[str, torch.Tensor], logits: torch.Tensor) -> None:
        """One run; afterwards the new keys and values stand in the rows' buffers, behind the old ones."""
        buffers = [span.row.room(span.used + span.count) for span in spans]
        used, new = sum(span.used for span in spans), sum(span.count for span in spans)
        if len(spans) == 1:
            past, fresh = buffers[0][..., :used, :], buffers[0][..., used : used + new, :]
        else:
            olds = [buffer[..., : span.used, :] for buffer, span in zip(buffers, spans, strict=True)]
            past, fresh = torch.cat(olds, dim=3), self._new_buffer(new)
        shapes = self._shapes
        heads = (shapes.kv_heads, shapes.head_width)
        bound = {name: (tensor, tuple(tensor.shape)) for name, tensor in inputs.items()}
        written = {"logits": (logits, tuple(logits.shape))}
        for layer in range(shapes.layers):
            for number, part in enumerate(("key", "value")):
                old = past[layer, number] if used else self._nothing
                bound[f"past.{layer}.{part}"] = (old, (1, used, *heads))
                written[f"new.{layer}.{part}"] = (fresh[layer, number], (1, new, *heads))
        run(self._session, bound, written, "reading a prompt")
        if len(spans) > 1:
            for span, buffer in zip(spans, buffers, strict=True):
                found = fresh[..., span.start : span.start + span.count, :]
                buffer[..., span.used : span.used + span.count, :] = found


def load_onnx_engine(
    folder: Path, card: EngineCard, *, device: torch.device, threads: int | None
) -> LocalEngine[OnnxTower, OnnxDecoder]:
    """Open an engine folder whose files have been verified.

    Raises:
        EngineError: A file cannot be used, or the device's provider is not to be had.
        ConfigError: A mistake in the profile.
    """
    profile = load_profile(folder)
    tokenizer = load_tokenizer(folder, image_token=card.image_token, video_token=card.video_token)
    tower = OnnxTower(open_session(folder / TOWER_FILE, device, threads), card.shapes, device)
    session = open_session(folder / DECODER_FILE, device, threads)
    decoder = OnnxDecoder(session, embedding_table(folder / EMBEDDINGS_FILE), card.shapes, device)
    return LocalEngine(
        tower,
        decoder,
        tokenizer=tokenizer,
        preprocessor=Preprocessor.from_folder(folder),
        profile=profile,
        info=EngineInfo(
            name=card.name,
            backend="onnx",
            precision=card.precision["decoder"],
            device=str(device),
            profile=profile.name,
            weight_bytes=sum(
                known["bytes"]
                for name, known in card.files.items()
                if Path(name).suffix in (".onnx", ".data", ".safetensors")
            ),
        ),
        context=card.shapes.context,
        vocabulary=card.shapes.vocabulary,
        device=device,
    )


def embedding_table(path: Path) -> torch.Tensor:
    """Token embeddings, (vocabulary, width), read from disk as rows of them are asked for."""
    with safe_open(path, framework="pt") as file:
        table: torch.Tensor = file.get_tensor("embeddings")
    return table


def _dtype(session: onnxruntime.InferenceSession, name: str) -> torch.dtype:
    """Number format of an output."""
    found = next(output.type for output in session.get_outputs() if output.name == name)
    return torch.bfloat16 if found == "tensor(bfloat16)" else torch.float32
