"""Rows of figures: goals met and missed, and rows without a figure."""

from __future__ import annotations

from tests.bench.figures import Row, record, rows_table

FAST = Row("fast", "start", "s", 2, "<= 0.30", "1.3")
MANY = Row("many", "jobs a minute", "", 0, ">= 120")
PLAIN = Row("plain", "threads", "", 0)


def test_a_goal_is_a_most_or_a_least() -> None:
    assert (FAST.met(0.3), FAST.met(0.31), MANY.met(120), MANY.met(119)) == (True, False, True, False)
    assert PLAIN.met(7) is None


def test_a_figure_is_judged_as_it_is_shown() -> None:
    assert FAST.met(0.304) is True and FAST.met(0.306) is False


def test_the_table_marks_what_misses_its_goal_and_says_why_there_is_none() -> None:
    columns = {
        "here": ({"fast": [0.5, 0.4, 0.9], "many": [200.0]}, {"plain": "no root"}),
        "slower": ({"fast": [2.0]}, {}),
    }
    lines = rows_table([FAST, MANY, PLAIN], columns).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5]]
    assert cells[0] == ["start, s", "0.50 (0.40–0.90) !", "2.00", "≤ 0.30", "1.3"]
    assert cells[1] == ["jobs a minute", "200", "–", "≥ 120", ""]
    assert cells[2] == ["threads", "–", "–", "", ""]
    assert lines[-1] == "–: no root."


def test_the_record_holds_every_value() -> None:
    fast, plain = record([FAST, PLAIN], {"here": ({"fast": [0.2, 0.1]}, {"plain": "no root"})})["rows"]
    found = fast["columns"]["here"]
    assert (found["least"], found["most"], found["met"], found["values"]) == (0.1, 0.2, True, [0.2, 0.1])
    assert plain["columns"]["here"] == {"values": [], "why": "no root"}
