"""Memory of a process's own: large pages for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from egolive.assistant.system.anonymous_memory import use_large_pages

_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SCRIPT = """
import sys
from egolive.assistant.system.anonymous_memory import use_large_pages
if sys.argv[1] == "large":
    use_large_pages()
import torch
held = torch.ones(64 * 1024**2 // 4)
lines = open("/proc/self/smaps_rollup").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")))
"""


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.skipif(
    not _PAGES.is_file() or "[madvise]" not in _PAGES.read_text(),
    reason="no large pages to be asked for here",
)
def test_large_tensors_stand_in_large_pages() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}

    def kilobytes(kind: str) -> int:
        command = [sys.executable, "-c", _SCRIPT, kind]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return int(done.stdout)

    assert kilobytes("large") - kilobytes("small") > 32 * 1024
