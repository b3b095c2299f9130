"""What quantisation is shown: windows and pictures with the assistant's questions, as they are read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.torch.torch_engine import TorchTower
from egolive.assistant.model.media import load_video, window_of
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.prompts.prompts import build_prompt, vision_for
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import Profile
from egolive.assistant.schema.tokenizer import Tokenizer
from egolive.quantize.methods.awq import Calibration, Sample
from egolive.quantize.onnx.reference import StoredDecoder
from egolive.quantize.prompt_embeddings import embeddings_of
from egolive.quantize.weights.forms import Weight
from egolive.quantize.weights.stored_layers import StoredEmbedding, StoredLinear
from egolive.streaming.frames import Window

__all__ = ["shown_windows", "simulated_windows", "windows_of_video"]

_QUESTIONS = (
    Question("intent"),
    Question("next"),
    Question("ground", "left hand"),
    Question("ground", "object in the right hand"),
)
"""Asked in turn, one of each window."""
_FPS = 2.0
"""Frames a second, as the model is asked and trained."""
_MOST_FRAMES = 2000
"""Of a video: 1000 s."""


def simulated_windows(count: int, slices: int, seed: int = 0) -> list[Window]:
    """Windows of the simulator's training episodes, one an episode."""
    # Imported here: only this needs what training needs.
    from egolive.train.evaluate.evaluate import render_window
    from egolive.train.simulator.episode import plan_episode

    windows = []
    for index in range(count):
        plan = plan_episode(index, seed=seed, split="train")
        last = max(0.0, plan.duration - slices * 2 / _FPS)
        start = random.Random(f"calibrate {seed} {index}").uniform(0, last)
        windows.append(render_window(plan, start, slices)[0])
    return windows


def windows_of_video(path: str, count: int, slices: int) -> list[Window]:
    """Windows spread evenly over a video, whole ones where it is long enough.

    Raises:
        SourceError: It cannot be read.
    """
    frames = load_video(path, fps=_FPS, max_frames=_MOST_FRAMES)
    last = max(0, len(frames) - 2 * slices)
    starts = [round(last * number / max(1, count - 1)) for number in range(count)]
    return [window_of(frames[start : start + 2 * slices]) for start in dict.fromkeys(starts)]


def shown_windows(
    windows: Sequence[Window], profile: Profile, tokenizer: Tokenizer, preprocessor: Preprocessor
) -> Calibration:
    """The windows with a question each, as embeddings and positions, computed when they are asked for.

    What is returned takes a model and gives a function without arguments. That one computes them with the
    weights that the model had when it was taken.
    """

    def shown(model: Qwen2VLForConditionalGeneration) -> Callable[[], Sequence[Sample]]:
        original = {
            name: module.stored for name, module in model.named_modules() if isinstance(module, _STORED)
        }

        def samples() -> Sequence[Sample]:
            # By now the tower's weights may be those that have been written.
            written = {name: model.get_submodule(name).stored for name in original}
            _put(model, original)
            try:
                return list(_samples(model, windows, profile, tokenizer, preprocessor))
            finally:
                _put(model, written)

        return samples

    return shown


_STORED = (StoredLinear, StoredEmbedding)


def _put(model: Qwen2VLForConditionalGeneration, weights: Mapping[str, Weight]) -> None:
    for name, weight in weights.items():
        module = model.get_submodule(name)
        assert isinstance(module, _STORED)
        module.stored = weight


def _samples(
    model: Qwen2VLForConditionalGeneration,
    windows: Sequence[Window],
    profile: Profile,
    tokenizer: Tokenizer,
    preprocessor: Preprocessor,
) -> Iterator[Sample]:
    tower, decoder = TorchTower(model), StoredDecoder(model)
    for number, window in enumerate(windows):
        question = _QUESTIONS[number % len(_QUESTIONS)]
        vision = vision_for(question, window, profile)
        layout = lay_out(build_prompt(profile, question, [vision], window=window), tokenizer)
        # A copy that torch's own modules may take: those of a session are made in inference mode.
        yield (
            embeddings_of(layout, tower, decoder, preprocessor).clone(),
            torch.from_numpy(layout.positions),
        )
