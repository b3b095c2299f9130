"""The threat model in SECURITY.md: one table, and every defence has a test that is there."""

from __future__ import annotations

import ast
import re

import pytest
from paths import ROOT

COLUMNS = ["asset", "attacker", "attack", "what stops it", "test that shows it"]


def rows() -> list[list[str]]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_threat_model_is_one_table_without_empty_cells() -> None:
    head, rule, *threats = rows()
    assert head == COLUMNS
    assert set("".join(rule)) == set("|-")
    assert len(threats) >= 12
    assert all(len(row) == len(COLUMNS) and all(row) for row in threats)


@pytest.mark.parametrize("row", rows()[2:], ids=lambda row: row[2])
def test_what_stops_an_attack_has_a_test(row: list[str]) -> None:
    named = re.findall(r"`(tests/[^`]+\.py)`", row[-1])
    assert named
    assert row[-1] == ", ".join(f"`{name}`" for name in named)
    for name in named:
        assert (ROOT / name).is_file(), f"{name} is not there"
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test") for node in tree.body)
