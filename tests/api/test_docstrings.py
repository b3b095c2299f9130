"""Every public name and method has an example in its docstring that runs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from types import FunctionType

import pytest

import egolive

FLAGS = doctest.IGNORE_EXCEPTION_DETAIL | doctest.ELLIPSIS


def documented() -> Iterator[tuple[str, object]]:
    """The package, its public names, and the public methods of its classes."""
    yield "egolive", egolive
    for name in egolive.__all__:
        if name.startswith("__"):
            continue
        value = getattr(egolive, name)
        yield name, value
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if isinstance(function, FunctionType) and not method.startswith("_"):
                    yield f"{name}.{method}", function


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_of_a_public_name_runs(name: str) -> None:
    docstring = inspect.getdoc(DOCUMENTED[name]) or ""
    test = doctest.DocTestParser().get_doctest(docstring, {}, name, None, None)
    assert test.examples, f"{name} has no example in its docstring"
    told: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
    assert not told, "".join(told)
