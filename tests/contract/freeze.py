"""Adds what is new to the frozen files: `.venv/bin/python tests/contract/freeze.py`, about a minute.

Only additions are written: what is frozen stays, also where it is missing or differs now, and is told, with
exit code 1. To take something out of the contract, or to change it, edit `frozen/*.json` by hand, and say in
the CHANGELOG what replaces it. The saved recording and bundle are written only where they are missing: delete
their folders to write them in the format of today.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from contract import observe
from contract.shapes import extended, lost, missing

_WIDTH = 200


def added(frozen: Any, now: Any) -> Any:
    """The frozen values with those keys and items that are new."""
    if isinstance(frozen, dict) and isinstance(now, dict):
        both = {key: added(frozen[key], now[key]) if key in now else frozen[key] for key in frozen}
        return both | {key: value for key, value in now.items() if key not in frozen}
    if (
        isinstance(frozen, list)
        and isinstance(now, list)
        and all(isinstance(one, str | dict) for one in frozen)
    ):
        return frozen + [one for one in now if one not in frozen]
    return frozen


def text_of(value: Any, indent: str = "") -> str:
    """JSON in which whatever fits stands in one line."""
    line = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or len(indent) + len(line) <= _WIDTH:
        return line
    deeper = f"{indent} "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {text_of(one, deeper)}" for key, one in value.items()]
        return "{\n" + ",\n".join(deeper + item for item in items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + text_of(one, deeper) for one in value) + f"\n{indent}]"


def save_recording(folder: Path) -> None:
    """A small recording and two bundles, which later versions replay or refuse."""
    saved = observe.FROZEN / "saved"
    if saved.exists():
        return
    folder.mkdir()
    work = observe.Workspace(folder, size=(64, 64))
    assert work.run
    shutil.copytree(work.run / "recording", saved / "recording")
    bundles = sorted((work.run / "evidence").iterdir())
    for name, bundle in (("picture", bundles[0]), ("window", bundles[-1])):
        shutil.copytree(bundle, saved / f"bundle-{name}")
    head = saved / "recording" / "recording.json"
    # Not the folder of whoever recorded it.
    head.write_text(
        head.read_text(encoding="utf-8").replace(str(work.clip), work.clip.name), encoding="utf-8"
    )


def main() -> int:
    """Freeze all; returns 1 where something that is frozen is not as it was."""
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = observe.Workspace(Path(folder))
        whole = {"commands": observe.commands} | observe.SHAPES | observe.VALUES
        for name, look in whole.items():
            path, now = observe.FROZEN / f"{name}.json", look(work)
            frozen = observe.read(path) if path.is_file() else {}
            if name in observe.SHAPES:
                told += [f"{name}: {line}" for line in missing(frozen, now)]
                kept = extended(frozen, now)
            elif name == "commands":
                told += observe.lost_commands(frozen, now)
                kept = observe.added_commands(frozen, now)
            else:
                told += [f"{name}: {line}" for line in lost(frozen, now)]
                kept = added(frozen, now)
            path.write_text(f"{text_of(kept)}\n", encoding="utf-8")
        save_recording(Path(folder) / "saved")
    sys.stdout.write("".join(f"{line}\n" for line in told) + f"{observe.FROZEN}: written\n")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main())
