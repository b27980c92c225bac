"""Sphinx's settings for the documentation site (`make docs`; why Sphinx: docs/adr/0015)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

import pilot
from docs.site.markdown import read

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "pilot"
release = pilot.__version__
root_doc = "index"
exclude_patterns = ["site"]
extensions = ["myst_parser"]
nitpicky = True
smartquotes = False  # two hyphens begin an option, and are no dash
myst_heading_anchors = 3  # as a repository browser makes them

html_theme = "furo"
html_title = f"pilot {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Pages are plain Markdown in the repository; what the site adds to them is made as they are read."""
    app.connect("source-read", read)
