"""Tables in Markdown, and the page they are written into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import docs
from tests.bench.tables import marker, put_between_markers, table, write_part

PAGE = f"before\n{marker('a')}\nold\n<!-- end -->\nbetween\n{marker('b')}\n<!-- end -->\nafter\n"


def test_a_table_lines_its_columns_up_and_escapes_what_would_end_a_cell() -> None:
    assert table(("client", "MB/s"), [("a|b", "1"), ("curl", "1,000")]).splitlines() == [
        "| client |  MB/s |",
        "| :----- | ----: |",
        "| a\\|b   |     1 |",
        "| curl   | 1,000 |",
    ]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        table(("a", "b"), [("1",)])


def test_a_part_takes_the_place_of_the_old_one_and_nothing_else_changes() -> None:
    once = put_between_markers(PAGE, "a", "new\n")
    assert once == PAGE.replace("old", "new")
    assert put_between_markers(once, "a", "new") == once


@pytest.mark.parametrize(
    "page", ["no markers", f"{marker('a')}\nnever ends", f"{marker('a')}\n{marker('b')}\n<!-- end -->"]
)
def test_a_page_without_a_place_for_the_part_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="bench: a"):
        put_between_markers(page, "a", "new")


def test_a_part_is_printed_and_its_record_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "build" / "part.json"
    write_part(path, "a", {"figure": 1.5}, "| a |")
    assert capsys.readouterr().out == "| a |\n"
    assert json.loads(path.read_text()) == {"part": "a", "figure": 1.5, "tables": "| a |"}


def _records(path: Path, **parts: dict[str, object]) -> str:
    path.write_text(json.dumps({"parts": parts}))
    return str(path)


def test_the_page_gets_what_was_measured_and_no_quick_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    records = _records(tmp_path / "r.json", a={"tables": "new", "quick": False}, b={"tables": "quick", "quick": True})
    assert docs.main(["--json", records, "--page", str(page)]) == 0
    assert page.read_text() == PAGE.replace("old", "new")


@pytest.mark.parametrize("parts", [{}, {"a": {"tables": "x", "quick": True}}, {"c": {"tables": "x"}}, {"a": {}}])
def test_a_page_that_cannot_be_written_is_left_as_it_is(tmp_path: Path, parts: dict[str, dict[str, object]]) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert docs.main(["--json", _records(tmp_path / "r.json", **parts), "--page", str(page)]) == 1
    assert page.read_text() == PAGE


def test_the_page_of_this_project_has_a_place_for_every_part() -> None:
    from tests.bench.__main__ import PARTS

    page = docs.PAGE.read_text()
    for part in PARTS:
        put_between_markers(page, part, "x")
