"""Checkpoints and engine folders of others: what is read is what is verified, and nothing else is run."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantizing import SIZE, answers
from trap import Trap

from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import read_files
from egolive.assistant.model.engine_folder import describe_files, hash_checkpoint
from egolive.quantize.build import Recipe, build_onnx
from egolive.streaming.errors import EgoliveError, EngineError

_opened: set[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.add(arguments[0])


sys.addaudithook(_note)


@contextmanager
def opened() -> Iterator[set[str]]:
    """The files that Python opens meanwhile."""
    global _opened  # an audit hook cannot be taken away again
    _opened = set()
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.fixture(scope="module")
def engine_folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "onnx-fp32"
    build_onnx(str(tiny_checkpoint), out, Recipe(), size=SIZE)
    return out


@pytest.fixture
def engine(engine_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine_folder, tmp_path / "engine"))


def edit(path: Path, *keys: str, to: Any) -> None:
    values = json.loads(path.read_text()) if path.is_file() else {}
    inside = values
    for key in keys[:-1]:
        inside = inside.setdefault(key, {})
    inside[keys[-1]] = to
    path.write_text(json.dumps(values))


def link_out(path: Path) -> None:
    """Put a file elsewhere, and a link to it in its place."""
    target = path.parent.parent / f"elsewhere-{path.name}"
    shutil.move(path, target)
    path.symlink_to(target)


def config(*keys: str, to: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", *keys, to=to)


def tokenizer(key: str, to: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer_config.json", key, to=to)


def index(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model.safetensors.index.json", "weight_map", "lm_head", to=name)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "an adapter .adapter_config.json"),
    "adapter weights": (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "an adapter"),
    "other weights": (config("transformers_weights", to="x.safetensors"), "names other weights"),
    "kernels": (config("text_config", "_attn_implementation", to="evil/kernels"), "asks for the kernels"),
    "kernels of the tower": (config("vision_config", "attn_implementation", to="evil/k"), "the kernels"),
    "quantised": (config("quantization_config", to={"quant_method": "mxfp4"}), "quantised by 'mxfp4'"),
    "layers": (config("text_config", "num_hidden_layers", to=10**9), "tells of 1000000000 layers"),
    "blocks": (config("vision_config", "depth", to=10**9), "tells of 1000000000 blocks"),
    "width": (config("text_config", "hidden_size", to=10**9), "hidden_size of 1000000000"),
    "ratio": (config("vision_config", "mlp_ratio", to=10**9), "mlp_ratio of 1000000000"),
    "shard elsewhere": (index("../model.safetensors"), "no weight file of its folder"),
    "absolute shard": (index("/etc/passwd"), "no weight file of its folder"),
    "pickled shard": (index("pytorch_model.bin"), "no weight file of its folder"),
    "tokenizer class": (tokenizer("tokenizer_class", "BertJapaneseTokenizer"), "BertJapaneseTokenizer"),
    "no class": (tokenizer("tokenizer_class", ["Qwen2Tokenizer"]), "class"),
    "no length": (tokenizer("model_max_length", ""), "is not the one this model learned"),
    "another tokenizer file": (tokenizer("fast_tokenizer_files", ["tokenizer.1.json"]), "other files"),
    "vocabulary elsewhere": (tokenizer("vocab_file", "/etc/passwd"), "leads to other files"),
    "deep tokenizer": (lambda f: (f / "tokenizer.json").write_text("[" * 100_000), "tokenizer.json"),
    "deep special tokens": (lambda f: (f / "special_tokens_map.json").write_text("[" * 100_000), "special"),
    "deep generation": (lambda f: (f / "generation_config.json").write_text('{"a":' * 100_000), "generation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_read_other_files_or_take_all_memory_is_refused_in_one_line(
    folder: Path, name: str
) -> None:
    change, told = REFUSED[name]
    change(folder)
    with pytest.raises(EgoliveError, match=told) as caught:
        load_engine(str(folder), device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_the_hash_covers_every_file_that_is_read(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    with opened() as files:
        load_engine(str(folder), device="cpu")
    listed = {path.resolve() for path in read_files(folder)}
    read = {path for name in files if (path := Path(name).resolve()).is_relative_to(folder.resolve())}
    assert {"config.json", "tokenizer_config.json"} <= {path.name for path in read}
    assert not read - listed
    # The programs that read weights and vocabulary are not seen from Python.
    unseen = {path.name for path in listed - read}
    assert all(name.endswith((".safetensors", ".index.json")) or "token" in name for name in unseen), unseen
    before = hash_checkpoint(folder)
    for path in listed:
        data = path.read_bytes()
        changed = data[:-1] + bytes([data[-1] ^ 1]) if path.suffix == ".safetensors" else data + b" "
        path.write_bytes(changed)
        assert hash_checkpoint(folder) != before, path
        path.write_bytes(data)
    assert hash_checkpoint(folder) == before


def test_a_file_that_is_not_listed_changes_no_answer(folder: Path, tmp_path: Path) -> None:
    plain = answers(str(folder))
    alone = tmp_path / "alone"
    for path in (*read_files(folder), *folder.glob("egolive.json")):
        (alone / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        shutil.copy(path, alone / path.relative_to(folder))
    assert answers(str(alone)) == plain


def test_no_program_in_a_checkpoint_runs(folder: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    code = f"import pathlib\npathlib.Path({str(sprung)!r}).touch()\nclass Evil: ...\n"
    for name in ("evil.py", "modeling_qwen2_vl.py", "configuration_qwen2_vl.py", "__init__.py"):
        (folder / name).write_text(code)
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    modules = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForImageTextToText"), "evil.Evil")
    edit(folder / "config.json", "auto_map", to=modules)
    edit(folder / "tokenizer_config.json", "auto_map", to={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    assert len(answers(str(folder))) > 0
    assert not sprung.exists()


def test_an_engine_may_not_link_to_files_elsewhere(engine: Path) -> None:
    link_out(engine / "embeddings.safetensors")
    with pytest.raises(EngineError, match=r"embeddings\.safetensors is a symbolic link"):
        load_engine(str(engine), device="cpu")


@pytest.mark.parametrize(
    "name", ["special_tokens_map.json", "added_tokens.json", "additional_chat_templates/x.jinja"]
)
def test_a_file_that_was_put_into_an_engine_and_would_be_read_is_refused(engine: Path, name: str) -> None:
    (engine / name).parent.mkdir(exist_ok=True)
    (engine / name).write_text("{}")
    with pytest.raises(EngineError, match="would be read, and is not among the files that were exported"):
        load_engine(str(engine), device="cpu")


def rewrite(engine: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change `engine.json` as somebody may who makes an engine: with true sizes and hashes."""
    card = json.loads((engine / "engine.json").read_text())
    card["files"] = describe_files(engine)
    change(card)
    (engine / "engine.json").write_text(json.dumps(card))


@pytest.mark.parametrize("name", ["tower.onnx", "decoder.onnx", "embeddings.safetensors"])
def test_an_engine_opens_no_file_that_its_card_does_not_list(engine: Path, name: str) -> None:
    rewrite(engine, lambda card: card["files"].pop(name))
    with pytest.raises(EngineError, match=f"does not list {name}"):
        load_engine(str(engine), device="cpu")


@pytest.mark.parametrize("place", ["../outside.data", "/etc/hostname", "unlisted.bin"])
def test_a_graph_may_not_take_weights_from_elsewhere(engine: Path, place: str) -> None:
    (engine / "unlisted.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    graph = onnx.load(engine / "tower.onnx", load_external_data=False)
    weight = next(one for one in graph.graph.initializer if one.external_data)
    next(entry for entry in weight.external_data if entry.key == "location").value = place
    (engine / "tower.onnx").write_bytes(graph.SerializeToString())
    rewrite(engine, lambda _: None)
    with pytest.raises(EngineError, match=r"takes weights from .*not among the files") as caught:
        load_engine(str(engine), device="cpu")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.update(sizes={"rows": 1}),
        lambda card: card.update(sizes={"columns": 10**15}),
        lambda card: card.update(sizes={"tokens": -1}),
        lambda card: card["shapes"].update(layers=10**9),
        lambda card: card["shapes"].update(hidden=-1),
        lambda card: card["shapes"].update(context=10**15),
    ],
)
def test_a_card_with_absurd_sizes_is_refused_in_one_line(
    engine: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite(engine, change)
    with pytest.raises(EngineError) as caught:
        load_engine(str(engine), device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_that_links_to_a_file_of_the_user_is_not_copied_into_an_engine(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("a secret")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").symlink_to(tmp_path / "key")
    with pytest.raises(EngineError, match="leads out of its folder"):
        build_onnx(str(folder), tmp_path / "out", Recipe(), size=SIZE)
    assert not (tmp_path / "out").exists()
