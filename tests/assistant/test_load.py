"""Loading a model: what is accepted, and the one line that each broken one ends in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers.models.qwen2_vl import modeling_qwen2_vl

from egolive.assistant.load_local import load_engine
from egolive.assistant.model import checkpoint as checkpoint_module
from egolive.assistant.model.checkpoint import inspect_checkpoint, resolve_model
from egolive.assistant.model.positions import get_rope_index
from egolive.assistant.schema.engine import Engine, Prompt, Request
from egolive.assistant.schema.profiles import NANO, save_profile
from egolive.assistant.system import machine
from egolive.streaming.errors import ConfigError, EgoliveError, EngineError


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def answer(engine: Engine) -> list[int]:
    with engine.session() as session:
        prompt = Prompt(("<|im_start|>user\nhello<|im_end|>\n",))
        return [delta.token for delta in session.ask([Request(prompt, max_tokens=6)])]


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sharded_checkpoint_loads_and_tells_what_it_is(folder: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    save_profile(NANO, folder)
    engine = load_engine(str(folder), device="cpu")
    assert (engine.info.name, engine.info.backend, engine.info.device) == ("copy", "torch", "cpu")
    assert (engine.info.precision, engine.info.profile, engine.profile) == ("fp32", "nano", NANO)
    assert engine.info.weight_bytes == 4 * inspect_checkpoint(folder).elements
    assert len(answer(engine)) == 6


def test_loading_a_model_installs_the_positions_of_transformers_4(tiny_checkpoint: Path) -> None:
    load_engine(str(tiny_checkpoint), device="cpu")
    assert modeling_qwen2_vl.Qwen2VLModel.get_rope_index is get_rope_index


def test_the_same_checkpoint_answers_alike_however_it_is_stored(folder: Path) -> None:
    sharded = load_engine(str(folder), device="cpu")
    model = modeling_qwen2_vl.Qwen2VLForConditionalGeneration.from_pretrained(folder)
    for shard in folder.glob("model*.safetensors*"):
        shard.unlink()
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()
    assert answer(load_engine(str(folder), device="cpu")) == answer(sharded)


def test_threads_and_precision_are_set_as_asked(folder: Path) -> None:
    before = torch.get_num_threads()
    engine = load_engine(str(folder), device="cpu", dtype="bf16", threads=before + 1)
    assert engine.threads == before + 1
    assert torch.get_num_threads() == before
    assert engine.info.precision == "bf16"
    assert engine.info.weight_bytes == 2 * inspect_checkpoint(folder).elements


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "fp16"}, "fp16 gives Qwen2-VL numbers that overflow; use bf16"),
        ({"dtype": "int3"}, "dtype is auto, fp32 or bf16"),
        ({"device": "tpu"}, "device is auto, cpu, cuda"),
        ({"device": "meta"}, "device is auto, cpu, cuda"),
        ({"device": "cuda:99"}, "no cuda:99; use --device cpu"),
        ({"threads": 0}, "threads is at least 1"),
    ],
)
def test_settings_that_cannot_work_are_one_line(
    tiny_checkpoint: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises((ConfigError, EngineError), match=message):
        load_engine(str(tiny_checkpoint), **settings)  # type: ignore[arg-type]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def only_pickles(folder: Path) -> None:
    for shard in folder.glob("model*.safetensors*"):
        shard.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")


def without_weights(folder: Path) -> None:
    for shard in folder.glob("model*.safetensors*"):
        shard.unlink()


def without_one_layer(folder: Path) -> None:
    model = modeling_qwen2_vl.Qwen2VLForConditionalGeneration.from_pretrained(folder)
    state = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp" not in name}
    without_weights(folder)
    model.save_pretrained(folder, state_dict=state)


def another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 160
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config is no json": (
        lambda f: (f / "config.json").write_text("{,"),
        "config.json cannot be read as JSON",
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "is no JSON object"),
    "another model": (
        lambda f: edit_json(f / "config.json", model_type="qwen2_5_vl"),
        "holds a model of type 'qwen2_5_vl'; only Qwen2-VL",
    ),
    "no width": (
        lambda f: edit_json(f / "config.json", text_config={"vocab_size": 448}),
        "no vocab_size or hidden_size",
    ),
    "only pickles": (only_pickles, "only pytorch_model.bin, which is not read"),
    "no weights": (without_weights, "has no model.safetensors; is the download complete"),
    "a shard is missing": (
        lambda f: sorted(f.glob("model-*.safetensors"))[1].unlink(),
        "1 of 6 weight files are missing in .*, first model-00002",
    ),
    "a shard is cut off": (
        lambda f: cut_off(sorted(f.glob("model-*.safetensors"))[0]),
        "model-00001-of-00006.safetensors is damaged or cut off",
    ),
    "an empty index": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "index.json lists no weights",
    ),
    "a layer is missing": (without_one_layer, "lacks 3 of the model's weights, first .*layers.1.mlp"),
    "weights of another shape": (another_width, "cannot be loaded"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "a broken profile": (lambda f: (f / "egolive.json").write_text("{}"), "egolive.json"),
    "a broken preprocessor": (
        lambda f: (f / "preprocessor_config.json").write_text("{"),
        "preprocessor_config.json cannot be read",
    ),
}


def test_the_model_in_a_training_runs_folder_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "config.json").write_text("{}")
    with pytest.raises(EgoliveError, match=f"no config.json, so it is no checkpoint; {inner} is one$"):
        load_engine(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_one_line(folder: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(EgoliveError, match=message) as caught:
        load_engine(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/no/such/folder", "no folder '/no/such/folder'"),
        ("nothing", "no folder 'nothing'; give a checkpoint folder, a hub id"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("", "no folder ''|no config.json"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(model: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        load_engine(model, device="cpu")


def test_a_file_in_place_of_a_folder_is_one_line(folder: Path) -> None:
    with pytest.raises(EngineError, match="is a file; give the folder"):
        load_engine(str(folder / "config.json"), device="cpu")


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []

    def offline(model: str, **settings: object) -> str:
        calls.append(settings)
        raise LocalEntryNotFoundError("Got: ConnectError\nPlease check your internet connection.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    # It may have been meant as a folder.
    wanted = r"no folder owner/name; as a hub id, it is not in the local cache and the hub .* check the path"
    with pytest.raises(EngineError, match=wanted) as caught:
        load_engine("owner/name", device="cpu")
    assert "\n" not in str(caught.value)
    # The cache is asked first, then the network, which may take so long and no longer.
    first, second = calls
    assert first["local_files_only"]
    # Else files that were never wanted would be missed, and the hub asked each time.
    assert first["allow_patterns"] == second["allow_patterns"]
    assert second["etag_timeout"] == checkpoint_module._CONNECT_SECONDS


def test_a_download_that_breaks_off_in_whatever_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadError(Exception):
        """As the hub's own HTTP library has it: no OSError."""

    def breaks(model: str, *, local_files_only: bool = False, **_: object) -> str:
        raise LocalEntryNotFoundError("not there") if local_files_only else ReadError("peer closed")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", breaks)
    with pytest.raises(EngineError, match=r"the hub cannot be reached: .*\(peer closed\)"):
        load_engine("owner/name", device="cpu")


def test_a_hub_model_that_is_whole_in_the_cache_needs_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached_only(model: str, *, local_files_only: bool = False, **_: object) -> str:
        assert local_files_only
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached_only)
    assert resolve_model("owner/name") == folder
    assert load_engine("owner/name", device="cpu").info.name == "owner/name"


def test_a_hub_model_that_is_half_in_the_cache_is_downloaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_cached(model: str, *, local_files_only: bool = False, **_: object) -> str:
        return str(tmp_path if local_files_only else folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", half_cached)
    assert resolve_model("owner/name") == folder


def test_too_little_memory_is_told_before_loading(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elements = inspect_checkpoint(tiny_checkpoint).elements
    monkeypatch.setattr(machine, "memory", lambda: {"total": 10**12, "available": elements * 3})
    assert load_engine(str(tiny_checkpoint), device="cpu").info.precision == "bf16"
    with pytest.raises(EngineError, match=r"needs about 0.0 GB on cpu in fp32, 0.0 GB are free"):
        load_engine(str(tiny_checkpoint), device="cpu", dtype="fp32")
    monkeypatch.setattr(machine, "memory", lambda: {"total": 10**12, "available": elements})
    with pytest.raises(EngineError, match="in bf16"):
        load_engine(str(tiny_checkpoint), device="cpu")
    monkeypatch.setattr(machine, "memory", lambda: {"total": 0, "available": 0})
    assert load_engine(str(tiny_checkpoint), device="cpu").info.precision == "fp32"


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_engine(str(folder), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_the_bundled_model_loads_by_its_name_or_says_that_it_is_missing() -> None:
    try:
        folder = resolve_model("nano")
    except EngineError as error:
        assert "came without the bundled model" in str(error)  # noqa: PT017
        pytest.skip("the bundled model has not been trained yet")
    engine = load_engine("nano", device="cpu")
    assert folder.name == "nano"
    assert (engine.info.name, engine.info.profile) == ("nano", "nano")
