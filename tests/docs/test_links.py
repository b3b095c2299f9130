"""Links between the Markdown files that Sphinx does not build: the READMEs, and what they point to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import egolive

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((?!https?://|#)([^)\s#]+)(#[^)\s]+)?\)")


def markdown_files() -> list[Path]:
    """Markdown files of the repository; ignored folders are not looked into."""
    folders = ("docs", "train", "quantize", "demo", "benchmarks", "assistant")
    return sorted(ROOT.glob("*.md")) + sorted(
        path for name in folders for path in ROOT.glob(f"{name}/**/*.md")
    )


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if not path.exists() or (anchor and anchor[1:] not in anchors(path)):
            dead.append(target + anchor)
    assert dead == []


def test_the_commands_of_the_readme_are_the_makefiles() -> None:
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", told, re.MULTILINE)
    assert {"run", "test", "check", "docs"} <= set(targets)
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if not re.search(rf"^{target}:", rules, re.MULTILINE)] == []


def test_the_api_reference_names_everything_public() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    told = set(re.findall(r"egolive\.(\w+)", page))
    assert told >= set(egolive.__all__)
