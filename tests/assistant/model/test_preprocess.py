"""Our preprocessing, against Qwen2-VL's own processors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from paths import REAL, needs_real
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.prompts import fit_size
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Image

SIZES = [(252, 448), (140, 224), (720, 1280), (1080, 1920), (315, 177), (101, 333), (30, 40)]


def picture(height: int, width: int, seed: int = 0) -> Image:
    """Smooth shapes with grain on top, as a camera gives."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.asarray(np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_becomes_the_patches_of_the_image_processor(size: tuple[int, int]) -> None:
    image = picture(*size)
    limits = {"shortest_edge": 56 * 56, "longest_edge": 448 * 252}
    theirs = Qwen2VLImageProcessorPil(size=limits)(images=[image], return_tensors="np")
    height, width = fit_size(*size, 56 * 56, 448 * 252)
    ours, grid = Preprocessor().patches([image], height, width)
    assert [list(grid)] == theirs["image_grid_thw"].tolist()
    assert ours.shape == theirs["pixel_values"].shape
    assert np.abs(ours - theirs["pixel_values"]).max() <= 1e-5


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_two_frames_become_the_patches_of_the_video_processor(size: tuple[int, int]) -> None:
    frames = [picture(*size, seed=1), picture(*size, seed=2)]
    limits = {"shortest_edge": 56 * 56, "longest_edge": 448 * 252}
    processor = Qwen2VLVideoProcessor(size=limits, cap_pixels_per_frame=False)
    theirs = processor(videos=[torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)], return_tensors="np")
    height, width = fit_size(*size, 56 * 56, 448 * 252)
    ours, grid = Preprocessor().patches(frames, height, width)
    assert [list(grid)] == theirs["video_grid_thw"].tolist()
    assert np.abs(ours - theirs["pixel_values_videos"]).max() <= 1e-5


def test_slices_prepared_one_by_one_are_the_video_prepared_whole() -> None:
    frames = [picture(252, 448, seed) for seed in range(6)]
    processor = Qwen2VLVideoProcessor(
        size={"shortest_edge": 56 * 56, "longest_edge": 448 * 252}, cap_pixels_per_frame=False
    )
    whole = processor(videos=[torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)], return_tensors="np")
    slices = [Preprocessor().patches(frames[at : at + 2], 252, 448)[0] for at in (0, 2, 4)]
    assert whole["video_grid_thw"].tolist() == [[3, 18, 32]]
    assert np.abs(np.concatenate(slices) - whole["pixel_values_videos"]).max() <= 1e-5


def test_the_two_ways_of_resizing_differ_by_few_grey_levels() -> None:
    """Why a frame of a video is not resized as a picture is: the processors differ, though hardly."""
    image = picture(720, 1280)
    as_picture, _ = Preprocessor().patches([image], 252, 448)
    as_video, _ = Preprocessor().patches([image, image], 252, 448)
    grey_level = 1 / 255 / 0.2613
    difference = np.abs(as_picture - as_video)
    assert 1e-3 < difference.max() < 2.01 * grey_level
    assert (difference > 1e-5).mean() < 0.01


@needs_real
def test_a_real_picture_becomes_the_patches_of_the_image_processor() -> None:
    path = sorted((REAL / "images").glob("ego10k_r*.png"))[0]
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    theirs = Qwen2VLImageProcessorPil()(images=[image], return_tensors="np")["pixel_values"]
    height, width = fit_size(image.shape[0], image.shape[1], 56 * 56, 1280 * 28 * 28)
    ours, _ = Preprocessor().patches([image], height, width)
    assert np.abs(ours - theirs).max() <= 1e-5


def test_read_only_and_mirrored_pictures_are_taken() -> None:
    image = picture(100, 160)
    mirrored = image[:, ::-1]
    mirrored.flags.writeable = False
    ours, _ = Preprocessor().patches([mirrored, mirrored], 56, 84)
    copied, _ = Preprocessor().patches([mirrored.copy(), mirrored.copy()], 56, 84)
    assert np.array_equal(ours, copied)


def test_what_is_no_slice_is_refused() -> None:
    prepare, image = Preprocessor().patches, picture(56, 56)
    with pytest.raises(ValueError, match="one picture or 2 frames, got 3"):
        prepare([image] * 3, 56, 56)
    with pytest.raises(ValueError, match="multiples of 28, got 60x56"):
        prepare([image], 56, 60)
    with pytest.raises(ValueError, match="uint8 RGB"):
        prepare([image[..., 0]], 56, 56)


def test_the_numbers_come_from_the_checkpoint(tmp_path: Path) -> None:
    assert Preprocessor.from_folder(tmp_path) == Preprocessor()
    config = tmp_path / "preprocessor_config.json"
    config.write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "patch_size": 14}')
    loaded = Preprocessor.from_folder(tmp_path)
    patches, _ = loaded.patches([np.full((28, 28, 3), 255, dtype=np.uint8)], 28, 28)
    assert np.allclose(patches, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"image_mean": 3}', "cannot be read"),
        ('{"patch_size": 16}', "another model's file"),
    ],
)
def test_a_broken_preprocessor_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(EngineError, match=message) as caught:
        Preprocessor.from_folder(tmp_path)
    assert "\n" not in str(caught.value)
