"""Every reader of JSON or YAML that may come from others: whatever stands there, an error of one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egolive.assistant.model.checkpoint import inspect_checkpoint
from egolive.assistant.model.engine_folder import read_engine_card
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.recording.evidence import read_bundle
from egolive.assistant.schema.profiles import load_profile
from egolive.streaming.errors import ConfigError, EgoliveError
from egolive.streaming.recording.recording import Recording
from egolive.train.common.recipe import read_recipe
from egolive.train.common.run_folder import keep_settings
from egolive.train.data.row_files import RowFile
from egolive.train.data.rows import RowError
from egolive.train.evaluate.result_files import read_records
from egolive.train.simulator.write import load_episode

pytestmark = pytest.mark.robustness

HOSTILE: dict[str, str | bytes] = {
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "digits": '{"a": ' + "9" * 100_000 + "}",
    "no text": b"\xff\xfe\x00",
    "many": '{"a": [' + "{}," * 3_000_000 + "{}]}",
    "another kind": "[7]",
    "null": "null",
}
"""What made at least one of the readers trace, or take gigabytes."""


def _run(folder: Path) -> None:
    (folder / "checkpoint-1").mkdir(exist_ok=True)
    keep_settings(folder, {"seed": 1})


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "recording": ("recording.json", Recording),
    "bundle": ("bundle.json", read_bundle),
    "engine card": ("engine.json", read_engine_card),
    "checkpoint": ("config.json", inspect_checkpoint),
    "profile": ("egolive.json", load_profile),
    "preprocessor": ("preprocessor_config.json", Preprocessor.from_folder),
    "rows": ("rows.jsonl", lambda folder: RowFile(folder / "rows.jsonl")[0]),
    "results": ("results.jsonl", lambda folder: read_records(folder / "results.jsonl")),
    "episode": ("00000.json", lambda folder: load_episode(folder / "00000.json")),
    "run folder": ("recipe.json", _run),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_whatever_stands_in_a_file_of_json_its_reader_ends_in_one_line(
    tmp_path: Path, reader: str, kind: str
) -> None:
    name, read = READERS[reader]
    text = HOSTILE[kind]
    data = text if isinstance(text, bytes) else text.encode()
    # A last line that is cut off is passed over: another line follows.
    (tmp_path / name).write_bytes(data + (b"\n{}\n" if name.endswith("l") else b""))
    with pytest.raises((EgoliveError, RowError)) as caught:
        read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < len(str(tmp_path)) + 500


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000,
        "a: &x [1, 2]\nb: *x\n",
        "a: &x [*x]\n",
        "\n".join(
            ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 9} 0]" for n in range(1, 30))],
        ),
        "a: " + "9" * 10_000,
        "a: !!int ''",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: 2001-99-99",
        "!!map x",
        "!!python/object/apply:os.system [exit]",
        "a: 1\na: 2\n",
        "[]",
        "x: " + "y" * 300_000,
        "? [a]\n: b\n",
        "\x00",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_whatever_stands_in_a_recipe_it_ends_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(str(tmp_path / "recipe.yaml"))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < len(str(tmp_path)) + 500


def test_a_recipe_of_a_folder_or_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").mkdir()
    with pytest.raises(ConfigError):
        read_recipe(str(tmp_path / "recipe.yaml"))
