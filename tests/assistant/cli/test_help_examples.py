"""The examples in the help: each can be parsed as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from cyclopts import App

from egolive.assistant.cli.main import app


def _examples(parent: App) -> Iterator[str]:
    for name in parent:
        if name.startswith("-"):
            continue
        command = parent[name]
        lines = (command.help_epilogue or "").splitlines()
        yield from (line.strip().removeprefix("egolive ") for line in lines if line.startswith("  egolive "))
        yield from _examples(command)


EXAMPLES = sorted(set(_examples(app)))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 30


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_parsed(example: str) -> None:
    tokens = shlex.split(example.partition(" > ")[0].partition(" | ")[0])
    _, bound, *_ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    models = bound.arguments.get("model", ())
    # A number that belongs to an option has not become a model.
    assert not (isinstance(models, tuple) and any(word.isdigit() for word in models)), bound.arguments
