"""What the site adds to the pages as Sphinx reads them; in a repository browser they are read as they are.

- Between `<!-- made from code: NAME -->` and `<!-- end -->` comes the table of that name (reference.py). What stands there in
  the repository is for readers of the plain page: nothing, or the same table, which a test keeps alike.
  `python -m docs.site.markdown` renews those.
- The links in the lists of index.md are the site's navigation: a page is added to it by adding its line there. So is the list of
  decisions in adr/README.md.
- A link to a file of the repository that is no page is shown as its text: the site has pages only. One whose text is the
  page's file name is shown with the page's title.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from docs.site.reference import TABLES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGES = Path(__file__).parents[1]
REGION = re.compile(r"(<!-- made from code: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)#:\s]+)\.md\)", re.MULTILINE)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Sphinx's event: a page was read and is not yet parsed. ``source`` holds its text, and is changed in place."""
    text = with_tables(source[0])
    if name in (app.config.root_doc, "adr/README"):
        text += navigation(text)
    source[0] = with_links_of_the_site(text, PAGES / f"{name}.md")


def with_tables(text: str) -> str:
    """Every region filled with its table. Raises KeyError where it names none."""
    return REGION.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[4]}", text)


def renewed(text: str) -> str:
    """A page of the repository with the tables that it shows as the code makes them today; empty regions stay empty."""
    return REGION.sub(
        lambda found: found[0] if not found[3].strip() else f"{found[1]}{TABLES[found[2]]()}\n{found[4]}", text
    )


def navigation(page: str) -> str:
    """A hidden table of contents for each part of a page that lists pages: what stands under its title, then its sections."""
    made = []
    for section in re.split(r"^##? ", page, flags=re.MULTILINE)[1:]:
        entries = [f"{title} <{target}>" for title, target in _ENTRY.findall(section)]
        if entries:
            heading = section.splitlines()[0]
            made.append("\n".join(["```{toctree}", ":hidden:", f":caption: {heading}", "", *entries, "```"]))
    return "\n\n" + "\n\n".join(made) + "\n"


def with_links_of_the_site(text: str, page: Path) -> str:
    """Links to pages by their titles; those that lead to no page and no picture, as their text. A target that does not exist
    stays, and is reported."""

    def shown(found: re.Match[str]) -> str:
        target = (page.parent / found[2]).resolve()
        of_the_site = target.is_relative_to(PAGES) and target.suffix in (".md", ".png", ".svg")
        if not target.exists():
            return found[0]
        if found[1] == target.name and of_the_site:
            return f"[{target.read_text().splitlines()[0].removeprefix('# ')}]({found[2]}{found[3] or ''})"
        return found[0] if of_the_site else found[1]

    return _LINK.sub(shown, text)


if __name__ == "__main__":
    for path in sorted(PAGES.rglob("*.md")):
        path.write_text(renewed(path.read_text()))
