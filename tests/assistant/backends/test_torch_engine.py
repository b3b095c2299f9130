"""The torch engine against transformers' own forward and `generate`, with the 4.x positions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.load_local import load_engine
from egolive.assistant.model import prompt_tokens as layout_module
from egolive.assistant.model.positions import Part, rope_positions
from egolive.assistant.model.prompt_tokens import SlicePiece, lay_out
from egolive.assistant.runtime.backend import ForwardInput, KVCache
from egolive.assistant.schema.engine import Prompt, Request, Vision
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Image

NANO = Path(str(resources.files("egolive.assistant"))) / "nano"
NEW_TOKENS = 12


def pictures(count: int, seed: int = 0) -> tuple[Image, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (140, 224, 3), dtype=np.uint8) for _ in range(count))


def video(slices: int, height: int = 56, width: int = 84, seed: int = 0) -> Vision:
    """More slices than rows and columns: where the positions of transformers 4 and 5 differ."""
    return Vision(pictures(2 * slices, seed), height, width, "video")


def image(height: int = 84, width: int = 112, seed: int = 9) -> Vision:
    return Vision(pictures(1, seed), height, width)


def chat(*parts: str | Vision) -> Prompt:
    opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    marked: list[str | Vision] = [opening]
    for part in parts:
        marked += [part] if isinstance(part, str) else ["<|vision_start|>", part, "<|vision_end|>"]
    return Prompt((*marked, "<|im_end|>\n<|im_start|>assistant\n"))


PROMPTS = {
    "text": chat("What is the wearer trying to do?"),
    "image": chat(image(), "Find the left hand."),
    "several images": chat(image(), "and", image(56, 56, seed=3), "Which is the red mug?"),
    "video": chat(video(6), "What comes next?"),
    "image and video": chat(image(), video(5), "Find the right hand, eine Tasse 茶."),
    "text before video": chat("What comes next?", video(7)),
}


@pytest.fixture(
    scope="module",
    params=["tiny", pytest.param("shallow 2B", marks=pytest.mark.slow), "nano"],
)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    if request.param == "nano":
        if not (NANO / "model.safetensors").is_file():
            pytest.skip("the bundled model has not been trained yet")
        return NANO
    name = "tiny_checkpoint" if request.param == "tiny" else "shallow_2b_checkpoint"
    found: Path = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module")
def tiny_engine(tiny_checkpoint: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(tiny_checkpoint), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(checkpoint), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def answers(engine: TorchEngine) -> dict[str, list[int]]:
    """Our greedy answer to each prompt."""
    return {name: greedy(engine, prompt) for name, prompt in PROMPTS.items()}


@pytest.fixture(scope="module")
def reference(checkpoint: Path, engine: TorchEngine) -> Any:
    """Transformers' own model, loaded on its own; the engine has installed the 4.x positions."""
    return Qwen2VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()


def reference_inputs(engine: TorchEngine, prompt: Prompt, answer: list[int]) -> dict[str, torch.Tensor]:
    """What Qwen2-VL's processor would make of the prompt and an answer."""
    ids: list[int] = []
    kinds: list[int] = []
    found: dict[str, list[Any]] = {"image": [], "video": [], "image grids": [], "video grids": []}
    for part in prompt.parts:
        if isinstance(part, str):
            run = engine.tokenizer.encode(part)
            ids += run
            kinds += [0] * len(run)
            continue
        step = 1 if part.kind == "image" else 2
        slices = [part.frames[at : at + step] for at in range(0, len(part.frames), step)]
        found[part.kind] += [engine.preprocessor.patches(s, part.height, part.width)[0] for s in slices]
        found[f"{part.kind} grids"].append([len(slices), part.height // 14, part.width // 14])
        count = len(slices) * part.height * part.width // 28**2
        is_image = part.kind == "image"
        ids += [engine.tokenizer.image_token if is_image else engine.tokenizer.video_token] * count
        kinds += [1 if is_image else 2] * count
    inputs = {
        "input_ids": torch.tensor([ids + answer]),
        "attention_mask": torch.ones(1, len(ids) + len(answer), dtype=torch.long),
        "mm_token_type_ids": torch.tensor([kinds + [0] * len(answer)]),
    }
    for kind, values, grid in [
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ]:
        if found[kind]:
            inputs[values] = torch.from_numpy(np.concatenate(found[kind]))
            inputs[grid] = torch.tensor(found[f"{kind} grids"])
    return inputs


def read(
    decoder: TorchDecoder,
    row: KVCache,
    embeddings: torch.Tensor,
    positions: np.ndarray[Any, Any],
    keep: int = 1,
) -> torch.Tensor:
    """Let one row read on."""
    return decoder.forward([ForwardInput(row, embeddings, positions, keep)])[0]


def our_logits(engine: TorchEngine, prompt: Prompt, answer: list[int]) -> torch.Tensor:
    """Logits after every token: the prompt in one pass, the answer token by token from the cache."""
    tower, decoder = engine.backend()
    layout = lay_out(prompt, engine.tokenizer)
    embeddings = [
        tower.encode(*engine.preprocessor.patches(piece.frames, piece.height, piece.width))
        if isinstance(piece, SlicePiece)
        else decoder.embed(piece)
        for piece in layout.pieces
    ]
    row = decoder.new_cache()
    logits = [read(decoder, row, torch.cat(embeddings), layout.positions, keep=len(layout))]
    for place, token in enumerate(answer):
        position = np.full((3, 1), layout.next_position + place)
        logits.append(read(decoder, row, decoder.embed((token,)), position))
    return torch.cat(logits)


def greedy(engine: TorchEngine, prompt: Prompt) -> list[int]:
    with engine.session() as session:
        return [delta.token for delta in session.ask([Request(prompt, max_tokens=NEW_TOKENS)])]


def reference_greedy(engine: TorchEngine, reference: Any, prompt: Prompt) -> list[int]:
    inputs = reference_inputs(engine, prompt, [])
    unused = range(len(engine.tokenizer), reference.config.text_config.vocab_size)
    output = reference.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        suppress_tokens=[*engine.tokenizer.vision_tokens, *unused],
        eos_token_id=sorted(engine.tokenizer.eos),
        pad_token_id=min(engine.tokenizer.eos),
    )
    tokens: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
    return tokens


def largest_difference(engine: TorchEngine, reference: Any, prompt: Prompt, answer: list[int]) -> float:
    with torch.inference_mode():
        theirs = reference(**reference_inputs(engine, prompt, answer)).logits[0]
    return float((our_logits(engine, prompt, answer) - theirs).abs().max())


@pytest.mark.parametrize("name", PROMPTS)
def test_teacher_forced_logits_are_those_of_transformers(
    engine: TorchEngine, reference: Any, answers: dict[str, list[int]], name: str
) -> None:
    assert largest_difference(engine, reference, PROMPTS[name], answers[name]) <= 1e-4


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_answers_are_those_of_generate(
    engine: TorchEngine, reference: Any, answers: dict[str, list[int]], name: str
) -> None:
    assert answers[name] == reference_greedy(engine, reference, PROMPTS[name])


def test_the_answers_compared_are_not_one_token_over_and_over(answers: dict[str, list[int]]) -> None:
    """A model that repeats itself would agree with anything."""
    assert len({token for answer in answers.values() for token in answer}) >= 8


@pytest.mark.parametrize("name", ["image", "video"])
def test_a_position_off_by_one_is_noticed(
    engine: TorchEngine,
    reference: Any,
    answers: dict[str, list[int]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same comparison fails when the text after a picture stands one place too far."""

    def off_by_one(parts: list[Part]) -> np.ndarray[Any, np.dtype[np.int64]]:
        positions = rope_positions(parts)
        visual = parts.index(next(part for part in parts if not isinstance(part, int)))
        positions[:, rope_positions(parts[: visual + 1]).shape[1] :] += 1
        return positions

    monkeypatch.setattr(layout_module, "rope_positions", off_by_one)
    assert largest_difference(engine, reference, PROMPTS[name], answers[name]) > 1e-3


def test_positions_of_transformers_5_would_give_another_answer(
    engine: TorchEngine, reference: Any, answers: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the length where the two rules part; that is what the override is for."""

    def rule_of_5(parts: list[Part]) -> np.ndarray[Any, np.dtype[np.int64]]:
        pieces, start = [], 0
        for part in parts:
            pieces.append(rope_positions([part], start))
            start += part if isinstance(part, int) else max(part[1:])
        return np.concatenate(pieces, axis=1)

    monkeypatch.setattr(layout_module, "rope_positions", rule_of_5)
    assert largest_difference(engine, reference, PROMPTS["video"], answers["video"]) > 1e-3


@pytest.mark.parametrize("size", [(140, 224), (252, 448)], ids=str)
def test_slices_encoded_one_by_one_are_those_of_the_whole_window(
    engine: TorchEngine, reference: Any, size: tuple[int, int]
) -> None:
    tower, _ = engine.backend()
    frames = pictures(6)
    slices = [engine.preprocessor.patches(frames[at : at + 2], *size) for at in range(0, 6, 2)]
    ours = torch.cat([tower.encode(patches, grid) for patches, grid in slices])
    patches = torch.from_numpy(np.concatenate([patches for patches, _ in slices]))
    with torch.inference_mode():
        whole = reference.model.visual(
            patches, grid_thw=torch.tensor([[3, size[0] // 14, size[1] // 14]])
        ).pooler_output
    assert ours.shape == whole.shape
    assert (ours - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_a_prompt_read_in_chunks_gives_the_same_logits(tiny_engine: TorchEngine) -> None:
    _, decoder = tiny_engine.backend()
    layout = lay_out(PROMPTS["text"], tiny_engine.tokenizer)
    embeddings = torch.cat([decoder.embed(piece) for piece in layout.pieces if isinstance(piece, tuple)])
    whole = read(decoder, decoder.new_cache(), embeddings, layout.positions, keep=len(layout))
    row = decoder.new_cache()
    chunks = [slice(at, at + 7) for at in range(0, len(layout), 7)]
    pieces = [read(decoder, row, embeddings[chunk], layout.positions[:, chunk], keep=7) for chunk in chunks]
    assert row.length == len(layout)
    assert (torch.cat(pieces) - whole).abs().max() <= 1e-4


def test_a_fork_goes_its_own_way_and_leaves_the_row_alone(tiny_engine: TorchEngine) -> None:
    _, decoder = tiny_engine.backend()
    row = decoder.new_cache()
    positions = rope_positions([12])
    first, second = decoder.embed(range(20, 28)), decoder.embed(range(40, 44))
    read(decoder, row, first, positions[:, :8])
    fork = row.copy(5)
    assert (row.length, fork.length) == (8, 5)
    read(decoder, fork, second, positions[:, 5:9])
    alone = read(decoder, row, second, positions[:, 8:12])
    undisturbed = decoder.new_cache()
    read(decoder, undisturbed, first, positions[:, :8])
    expected = read(decoder, undisturbed, second, positions[:, 8:12])
    assert (alone - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert fork.copy(0).length == 0
    with pytest.raises(ValueError, match="cannot be cut to 13"):
        row.copy(13)


def test_two_sessions_of_one_engine_do_not_disturb_each_other(tiny_engine: TorchEngine) -> None:
    prompts = [PROMPTS["video"], PROMPTS["image"]]
    alone = [greedy(tiny_engine, prompt) for prompt in prompts]
    with tiny_engine.session() as first, tiny_engine.session() as second:
        asked = [first.ask([Request(prompts[0], NEW_TOKENS)]), second.ask([Request(prompts[1], NEW_TOKENS)])]
        together: list[list[int]] = [[], []]
        for deltas in zip(*asked, strict=False):
            for tokens, delta in zip(together, deltas, strict=True):
                tokens.append(delta.token)
    for whole, part in zip(alone, together, strict=True):
        assert len(part) >= min(map(len, alone))
        assert part == whole[: len(part)]


def test_bf16_weights_answer_with_finite_numbers_and_a_last_layer_in_fp32(
    tiny_engine: TorchEngine, tiny_checkpoint: Path
) -> None:
    half = load_engine(str(tiny_checkpoint), device="cpu", dtype="bf16")
    assert isinstance(half, TorchEngine)
    assert half.info.precision == "bf16"
    logits = our_logits(half, PROMPTS["video"], [])
    assert logits.dtype == torch.float32
    # bf16 would leave a few hundred distinct values at most in a row of 448.
    assert len(set(logits[-1].tolist())) > 400
    exact = our_logits(tiny_engine, PROMPTS["video"], [])
    assert torch.cosine_similarity(logits[-1], exact[-1], dim=0) > 0.98


def test_a_closed_engine_says_so(tiny_checkpoint: Path) -> None:
    engine = load_engine(str(tiny_checkpoint), device="cpu")
    assert isinstance(engine, TorchEngine)
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.session()


def test_running_out_of_memory_is_one_line(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(str(tiny_checkpoint), device="cpu")
    assert isinstance(engine, TorchEngine)

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore lines")

    monkeypatch.setattr(engine.backend()[1].text_model.layers[1].input_layernorm, "forward", fail)
    with engine.session() as session, pytest.raises(EngineError, match="ran out of memory") as caught:
        list(session.ask([Request(PROMPTS["text"])]))
    assert "\n" not in str(caught.value)
