"""Tables in Markdown, a part's record in JSON, and both in docs/performance.md between markers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

END = "<!-- end -->"


def marker(name: str) -> str:
    """The line that the part ``name`` begins with in the page."""
    return f"<!-- bench: {name} -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is of words, the others of figures."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(3, *(len(_cell(text)) for text in column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        first, *others = (_cell(cell) for cell in cells)
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), f"| {' | '.join(rule)} |", *(line(row) for row in rows)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write_part(path: Path | None, part: str, record: dict[str, Any], text: str) -> None:
    """Print the tables; with ``path`` write the record too, and the tables in it."""
    print(text, flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"part": part, **record, "tables": text}, indent=1) + "\n")


def put_between_markers(page: str, name: str, text: str) -> str:
    """The page with ``text`` as its part ``name``. Raises ValueError when the page has no such part."""
    begin = marker(name)
    before, found, rest = page.partition(begin)
    _old, ended, after = rest.partition(END)
    if not found or not ended or "<!-- bench:" in _old:
        raise ValueError(f"the page has no lines {begin} and {END}")
    return f"{before}{begin}\n{text.strip()}\n{END}{after}"
