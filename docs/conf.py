"""Sphinx: the pages of this folder as a site (`make docs`)."""

import re
from pathlib import Path

project = "Hyla"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Hyla"
exclude_patterns = ["README.md"]
myst_heading_anchors = 4
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"

HERE = Path(__file__).parent
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")
"""A link from a page to a file of the repository that is no page."""


def to_repository(match: re.Match) -> str:
    """Such a link for the site: files come along as downloads, folders are only named."""
    text, target = match[1].replace("`", ""), match[2]
    if (HERE / target).is_file():
        return f"{{download}}`{text} <{target}>`"
    return f"`{target.removeprefix('../')}`"


def rewrite(app, name: str, source: list[str]) -> None:
    source[0] = OUTSIDE.sub(to_repository, source[0])


def setup(app) -> dict:
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True}
