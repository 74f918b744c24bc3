"""Sphinx: Markdown by MyST, API pages from docstrings, commands and config keys from signatures."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from segmentation import __version__  # noqa: E402
from segmentation.__main__ import COMMANDS  # noqa: E402
from segmentation.commands import help_text  # noqa: E402

project = "biomedical-segmentation"
author = copyright = "the authors of biomedical-segmentation"
version = release = __version__

extensions = [
    "sphinx_design",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build"]

html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False


def write_commands(app: Any) -> None:
    """``reference/commands.md``: the help of every command, as the terminal shows it."""
    lines = ["# Commands", "", "`segmentation COMMAND --help` shows the same.", ""]
    for name, function in COMMANDS.items():
        lines += [f"## {name}", "", "```text", help_text(name, function).rstrip(), "```", ""]
    target = Path(app.srcdir) / "reference" / "commands.md"
    target.parent.mkdir(exist_ok=True)
    text = "\n".join(lines)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    app.connect("builder-inited", write_commands)
