"""A Sphinx directive that lists the settings of a class as a table: key, kind, default, meaning.

`settings_table` takes the full name of a dataclass or pydantic model whose fields have docstrings below them.
Fields that it inherits are left out.
"""

import inspect
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective


class SettingsTable(SphinxDirective):
    """The table of one class."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table as reStructuredText and parse it."""
        module_name, _, name = self.arguments[0].rpartition(".")
        kind = getattr(import_module(module_name), name)
        texts = ModuleAnalyzer.for_module(module_name).find_attr_docs()
        self.env.note_dependency(inspect.getsourcefile(kind))
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 18 17 15 50", ""]
        rows = [("key", "kind", "default", "meaning")]
        for key, parameter in inspect.signature(kind).parameters.items():
            if key in kind.__annotations__:
                meaning = " ".join(texts.get((name, key), [])).strip()
                rows.append((f"``{key}``", f"``{parameter.annotation}``", _default(parameter), meaning))
        for row in rows:
            lines += [f"   {'*' if number == 0 else ' '} - {cell}" for number, cell in enumerate(row)]
        found = nodes.container()
        self.state.nested_parse(StringList(lines, source=module_name), self.content_offset, found)
        return found.children


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "must be given"
    if "factory" in str(parameter.default):
        # What it makes is not in the signature: an empty list, or told in the meaning.
        return ""
    return f"``{parameter.default!r}``" if parameter.default == "" else f"``{parameter.default}``"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("settings_table", SettingsTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
