"""Preprocessing: pictures to the patches of Qwen2-VL's vision tower, one slice or picture at a time.

The steps and their numbers are those of Qwen2-VL's processors (transformers 5.23), without torchvision: a
picture is resized as its image processor does it (Pillow, bicubic), the frames of a video as its video
processor does it (torch, bicubic with antialiasing on uint8); the two differ by one or two grey levels in
under 1 % of the pixels, and training saw each in its place. Which size to use for whole videos or streams
is decided in `egolive.assistant.prompts.prompts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Image
from egolive.streaming.json_files import read_json_object

__all__ = ["Preprocessor"]

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Resize, normalise and cut into patches, by the numbers of one checkpoint."""

    mean: tuple[float, float, float] = _CLIP_MEAN
    """Of the red, green and blue values scaled to 0-1."""
    std: tuple[float, float, float] = _CLIP_STD
    patch_size: int = 14
    merge_size: int = 2
    """Patches along each side of a visual token."""
    temporal_patch_size: int = 2
    """Frames in a slice."""

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocessor:
        """Read `preprocessor_config.json`; Qwen2-VL's own numbers where the file or an entry is missing.

        Raises:
            EngineError: The file is not JSON, or asks for something other than patches of 14 pixels in
                pairs of frames merged 2 x 2.
        """
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return cls()
        try:
            config = read_json_object(path, remedy="download it again", error=EngineError)
            made = cls(
                mean=_triple(config.get("image_mean", _CLIP_MEAN)),
                std=_triple(config.get("image_std", _CLIP_STD)),
                patch_size=int(config.get("patch_size", 14)),
                merge_size=int(config.get("merge_size", 2)),
                temporal_patch_size=int(config.get("temporal_patch_size", 2)),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise EngineError(f"{path} cannot be read as a preprocessor configuration: {error}") from error
        if (made.patch_size, made.merge_size, made.temporal_patch_size) != (14, 2, 2):
            raise EngineError(
                f"{path} asks for patches of {made.patch_size} pixels and {made.temporal_patch_size} frames, "
                f"merged by {made.merge_size}; Qwen2-VL has 14, 2 and 2: is this another model's file?"
            )
        return made

    def patches(
        self, frames: Sequence[Image], height: int, width: int
    ) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Patches of one slice, in the order in which the tower merges them.

        Args:
            frames: One picture (shown twice, as Qwen2-VL does with images) or the two frames of a slice,
                oldest first, each (H, W, 3) uint8 RGB of any size.
            height: Height at which the model sees it, a multiple of 28.
            width: Width at which the model sees it, a multiple of 28.

        Returns:
            Patches, (n, 3 * 2 * 14 * 14) float32 with n = height / 14 * width / 14, and the patch grid
            (1, height / 14, width / 14).

        Raises:
            ValueError: No frame or more than two, a size that is no multiple of 28, or not an RGB picture.
        """
        step = self.patch_size * self.merge_size
        if len(frames) not in (1, self.temporal_patch_size):
            raise ValueError(
                f"a slice is one picture or {self.temporal_patch_size} frames, got {len(frames)}"
            )
        if height < step or width < step or height % step or width % step:
            raise ValueError(f"the model sees sizes that are multiples of {step}, got {width}x{height}")
        for frame in frames:
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
                raise ValueError(f"a picture is (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
        resize = _resize_image if len(frames) == 1 else _resize_frame
        planes = [self._normalise(resize(frame, height, width)) for frame in frames]
        if len(planes) == 1:
            planes *= self.temporal_patch_size
        rows, columns = height // self.patch_size, width // self.patch_size
        # (frame, row of tokens, row in token, y, column of tokens, column in token, x, colour)
        cells = np.stack(planes).reshape(
            self.temporal_patch_size,
            rows // self.merge_size,
            self.merge_size,
            self.patch_size,
            columns // self.merge_size,
            self.merge_size,
            self.patch_size,
            3,
        )
        ordered = cells.transpose(1, 4, 2, 5, 7, 0, 3, 6)
        return np.ascontiguousarray(ordered.reshape(rows * columns, -1)), (1, rows, columns)

    def _normalise(self, image: Image) -> NDArray[np.float32]:
        """(H, W, 3) uint8 to float32 with the checkpoint's mean and deviation taken out."""
        mean = np.array(self.mean, dtype=np.float32)
        std = np.array(self.std, dtype=np.float32)
        scaled = image.astype(np.float32) * np.float32(1 / 255)
        return np.asarray((scaled - mean) / std, dtype=np.float32)


def _resize_image(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    picture = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.uint8)


def _resize_frame(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    # Copied, because torch does not take arrays that are read-only or run backwards.
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        planes, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return np.asarray(resized[0].permute(1, 2, 0).numpy(), dtype=np.uint8)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
