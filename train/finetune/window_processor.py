"""A checkpoint's prompts for transformers' and TRL's trainers, with a window as one image of several slices.

TRL 1.16 knows images and no videos. A window is handed over as one image whose patch grid counts its slices
(t > 1): the tower, the positions and the visual tokens are those of a video, so nothing in the trainer has to
change. Texts are put together by `egolive.assistant.prompts.prompts`, patches by
`egolive.assistant.model.preprocess`, as the engine does; the checkpoint's own chat template and image
processor are not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin, Qwen2TokenizerFast

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.prompts import Message, chat_prompt, conversation
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import Profile, save_profile

__all__ = ["Seen", "WindowProcessor", "blank"]

PREPROCESSOR_FILE = "preprocessor_config.json"
IMAGE = "<|image_pad|>"
PLACE = Vision((), 28, 28)
"""Placeholder of a picture in a text; its content does not change the text."""

Messages = Sequence[dict[str, Any]]
"""TRL's conversation: role and content, the content a list of text and image parts."""


class Seen:
    """The picture or window of one prompt, loaded on demand.

    All copies of a group share one, as do copies that a trainer makes: patches are computed once. Between
    processes only the way to read it travels.
    """

    def __init__(self, load: Callable[[], Vision], vision: Vision | None = None) -> None:
        """Take the way to the pictures.

        Args:
            load: a module-level function or a partial of one, so that it can be sent.
            vision: what it gives, where that is at hand already.
        """
        self.load = load
        self._vision = vision
        self._patches: tuple[Tensor, tuple[int, int, int]] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Seen:
        return self

    def __reduce__(self) -> tuple[type[Seen], tuple[Callable[[], Vision]]]:
        return Seen, (self.load,)

    def vision(self) -> Vision:
        """The pictures themselves."""
        return self._vision or self.load()

    def patches(self, preprocessor: Preprocessor) -> tuple[Tensor, tuple[int, int, int]]:
        """Patches (n, 1176) float32, slice after slice, and their grid (slices, rows, columns)."""
        if self._patches is None:
            vision = self.vision()
            pairs = [vision.frames]
            if vision.kind == "video":
                pairs = [vision.frames[place : place + 2] for place in range(0, len(vision.frames), 2)]
            made = [preprocessor.patches(pair, vision.height, vision.width) for pair in pairs]
            _, rows, columns = made[0][1]
            values = np.concatenate([patches for patches, _ in made])
            self._patches = torch.from_numpy(values), (len(made), rows, columns)
            self._vision = None
        return self._patches


def blank() -> Vision:
    """The smallest picture, one visual token."""
    return Vision((np.zeros((28, 28, 3), np.uint8),), 28, 28)


Picture = Seen | PIL.Image.Image
"""vLLM takes plain pictures alone."""


class WindowProcessor(ProcessorMixin):  # type: ignore[misc]  # transformers is untyped
    """The processor interface that TRL uses: chats to text, texts and pictures to tensors, tokens to text."""

    def __init__(
        self, folder: Path, profile: Profile, *, newline: bool = True, kept: Profile | None = None
    ) -> None:
        """Read a checkpoint's tokenizer and preprocessing numbers.

        Args:
            folder: of the checkpoint.
            profile: the checkpoint's.
            newline: whether the line break behind a turn's end is part of what is learned.
            kept: the profile that goes with the finished checkpoint, where training shows larger pictures.
        """
        self.tokenizer = Qwen2TokenizerFast.from_pretrained(folder, padding_side="left")
        self.profile = profile
        self.kept = kept or profile
        self.preprocessor = Preprocessor.from_folder(folder)
        self.chat_template = None
        self.newline = newline
        self._folder = folder

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: object = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        **_: object,
    ) -> Any:
        """Prompts as text, or as token ids with patches; one conversation, or a list of them."""
        if not tokenize:
            return self._text(conversation)
        chats: Sequence[Messages] = conversation
        images = [_images(chat) for chat in chats]
        return self(images=images, text=[self._text(chat) for chat in chats])

    def __call__(
        self,
        images: Sequence[Sequence[Picture] | None] | None = None,
        text: Sequence[str] | None = None,
        *,
        padding: bool = False,
        return_tensors: str | None = None,
        **_: object,
    ) -> BatchFeature:
        """Token ids of texts whose image marks stand for the pictures beside them.

        Args:
            images: the pictures of each text, in reading order.
            text: one image mark for each picture.
            padding: pad on the left, and give tensors.
            return_tensors: "pt" goes with padding.

        Returns:
            input_ids and mm_token_type_ids (1 where a visual token stands), as lists or padded with
            attention_mask; pixel_values and image_grid_thw of all pictures one after the other.

        Raises:
            ValueError: marks and pictures do not match.
        """
        texts = list(text or [])
        shown = [list(group or []) for group in (images if images is not None else [None] * len(texts))]
        made = [[_seen(one).patches(self.preprocessor) for one in group] for group in shown]
        rows = [
            self._ids(words, [grid for _, grid in group]) for words, group in zip(texts, made, strict=True)
        ]
        mark = self.tokenizer.convert_tokens_to_ids(IMAGE)
        types = [[int(token == mark) for token in row] for row in rows]
        values: dict[str, Any] = {"input_ids": rows, "mm_token_type_ids": types}
        if padding:
            pad = self.tokenizer.pad_token_id
            values["attention_mask"] = _padded([[1] * len(row) for row in rows], 0)
            values["input_ids"], values["mm_token_type_ids"] = _padded(rows, pad), _padded(types, 0)
        flat = [one for group in made for one in group]
        if flat:
            values["pixel_values"] = torch.cat([patches for patches, _ in flat])
            values["image_grid_thw"] = torch.tensor([grid for _, grid in flat])
        return BatchFeature(values)

    def batch_decode(self, sequences: Sequence[Sequence[int]], **_: object) -> list[str]:
        """Texts with the control tokens of boxes kept, since they are part of an answer's form."""
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        kept = [[token for token in row if token != end] for row in sequences]
        texts: list[str] = self.tokenizer.batch_decode(kept, skip_special_tokens=False)
        return texts

    def learn(self, messages: Sequence[Message], seen: Sequence[Seen]) -> dict[str, Tensor]:
        """One conversation to learn from: every answer of the assistant counts, nothing else does.

        Args:
            messages: with `Vision` values where the pictures stand.
            seen: the pictures, in reading order.

        Returns:
            input_ids, labels (-100 where nothing is learned) and mm_token_type_ids (n,); pixel_values and
            image_grid_thw where there are pictures.
        """
        text = _marked(conversation(self.profile, messages).parts)
        made = self([list(seen)], [text])
        ids = torch.tensor(made["input_ids"][0])
        values = {name: made[name] for name in ("pixel_values", "image_grid_thw") if name in made}
        types = torch.tensor(made["mm_token_type_ids"][0])
        return {"input_ids": ids, "labels": self._labels(ids), "mm_token_type_ids": types, **values}

    def unseen(self) -> dict[str, Tensor]:
        """A blank picture behind a row, of which nothing is learned and which no word of the row sees.

        Batches without any picture end with it, so that all processes run the same parts of the model: those
        that shard the tower wait in it for each other, and DDP wants a gradient for each of its weights.
        """
        made = self([[Seen(blank)]], [f"<|vision_start|>{IMAGE}<|vision_end|>"])
        ids = torch.tensor(made["input_ids"][0])
        return {
            "input_ids": ids,
            "labels": torch.full_like(ids, -100),
            "mm_token_type_ids": torch.tensor(made["mm_token_type_ids"][0]),
            "pixel_values": made["pixel_values"],
            "image_grid_thw": made["image_grid_thw"],
        }

    def save_pretrained(self, save_directory: str | Path, **_: object) -> list[str]:
        """Beside the weights: tokenizer, profile, preprocessing numbers; together a checkpoint."""
        folder = Path(save_directory)
        self.tokenizer.save_pretrained(folder)
        # Measured of the weights that were trained further.
        save_profile(replace(self.kept, calibration=None), folder)
        source = self._folder / PREPROCESSOR_FILE
        if source.is_file() and source.resolve() != (folder / PREPROCESSOR_FILE).resolve():
            shutil.copy(source, folder / PREPROCESSOR_FILE)
        return []

    def _text(self, chat: Messages) -> str:
        turns = [
            Message(
                message["role"],
                tuple(PLACE if part["type"] == "image" else part["text"] for part in _content(message)),
            )
            for message in chat
        ]
        return _marked(chat_prompt(self.profile, turns).parts)

    def _ids(self, text: str, grids: Sequence[tuple[int, int, int]]) -> list[int]:
        pieces = text.split(IMAGE)
        if len(pieces) != len(grids) + 1:
            raise ValueError(f"a prompt has {len(pieces) - 1} places for pictures and {len(grids)} pictures")
        merge = self.preprocessor.merge_size**2
        for place, (slices, rows, columns) in enumerate(grids):
            pieces[place] += IMAGE * (slices * rows * columns // merge)
        ids: list[int] = self.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
        return ids

    def _labels(self, ids: Tensor) -> Tensor:
        """The tokens of the assistant's turns behind their headers, up to and with what ends them."""
        header = torch.tensor(self._plain("<|im_start|>assistant\n"))
        end, tail = self._plain("<|im_end|>\n")[0], len(self._plain("\n")) if self.newline else 0
        labels = torch.full_like(ids, -100)
        for start in (ids[: len(ids) - len(header)] == header[0]).nonzero().flatten().tolist():
            first = start + len(header)
            if torch.equal(ids[start:first], header):
                last = first + int((ids[first:] == end).nonzero()[0]) + 1 + tail
                labels[first:last] = ids[first:last]
        return labels

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _content(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _seen(picture: Picture) -> Seen:
    """A picture that has its size already, as one that is seen."""
    if isinstance(picture, Seen):
        return picture
    image = np.asarray(picture.convert("RGB"))
    return Seen(lambda: Vision((image,), *image.shape[:2]))


def _images(chat: Messages) -> list[Picture]:
    return [part["image"] for message in chat for part in _content(message) if part["type"] == "image"]


def _marked(parts: Sequence[str | Vision]) -> str:
    return "".join(part if isinstance(part, str) else IMAGE for part in parts)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, longest) int64, filled up on the left."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows])
