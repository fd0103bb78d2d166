"""Every page is in the site's table of contents, and every relative link of a page leads somewhere."""

import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *DOCS,
    *sorted((ROOT / "examples").glob("*.md")),
    *sorted((ROOT / "src").rglob("*.md")),
]
CODE = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[tuple[str, str]]:
    """(file, anchor) of every relative link and picture outside of code; file "" is the page itself."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", text)
    return [(file, anchor) for file, anchor in found if not re.match(r"[a-z]+:", file)]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for file, anchor in links(page):
        target = (page.parent / file) if file else page
        assert target.exists(), f"{page.name} links to {file}, which is not there"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {file}#{anchor}; {target.name} has no such heading"


def test_every_page_is_in_one_table_of_contents_and_every_entry_is_a_page():
    trees = re.findall(
        r"^```\{toctree\}\n(.*?)^```", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE | re.DOTALL
    )
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = {page.stem for page in DOCS} - {"index"}
    for page in pages:
        assert sum(fnmatch.fnmatchcase(page, entry) for entry in entries) == 1, f"docs/{page}.md"
    for entry in entries:
        assert fnmatch.filter(pages, entry), f"docs/index.md names {entry}, which is no page"


def test_every_page_has_one_title_and_it_comes_first():
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# ") and len(re.findall(r"^# ", CODE.sub("", text), re.MULTILINE)) == 1, page.name
