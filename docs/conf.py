"""Settings of Sphinx; `make docs` builds the pages into build/docs."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "egolive"
release = metadata.version("egolive")
version = release
# Sphinx takes the name `copyright` for the line under each page.
project_copyright = "the egolive authors, Apache-2.0"

extensions = [
    "cyclopts.ext.sphinx",
    "myst_parser",
    "settings_table",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

# Markdown: links to headings of other pages are checked, too.
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3

# Help texts of the command line mark code with single backticks.
default_role = "code"
smartquotes = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

# Types of other packages, and those of egolive's own that stand in signatures but are not public.
nitpick_ignore_regex = [
    ("py:.*", r"(?!egolive\.).*"),
    ("py:class", r"egolive\..*\.(Clock|EngineInfo|Pixels|Profile)"),
]

html_theme = "furo"
html_title = f"egolive {release}"
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp"
