"""Rows of figures: what is measured, its goal, the established pilot's figure, and whether the goal is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.measure import Figure
from tests.bench.tables import table

# For each column of a table: the values by the rows' keys, and why there are none.
Columns = Mapping[str, tuple[Mapping[str, Sequence[float]], Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``goal`` is ``<= 0.3`` or ``>= 120``, or empty; ``established``: the other pilot's figure, in words."""

    key: str
    what: str
    unit: str
    digits: int
    goal: str = ""
    established: str = ""

    def met(self, value: float) -> bool | None:
        """Whether a figure, as it is shown, meets the goal; None when there is none."""
        if not self.goal:
            return None
        comparison, bound = self.goal.split()
        shown = round(value, self.digits)
        return shown <= float(bound) if comparison == "<=" else shown >= float(bound)

    @property
    def goal_in_words(self) -> str:
        return self.goal.replace("<=", "≤").replace(">=", "≥")


def rows_table(rows: Sequence[Row], columns: Columns) -> str:
    """Medians and ranges. The goals are the first column's: a figure there that misses one is followed by ``!``.

    Why there are no figures stands below.
    """
    head = ["", *columns, "goal", "established pilot"]
    lines = []
    notes: dict[str, None] = {}
    for row in rows:
        cells = []
        for number, (values, troubles) in enumerate(columns.values()):
            found = values.get(row.key)
            if found:
                figure = Figure.of(found)
                mark = " !" if number == 0 and row.met(figure.median) is False else ""
                cells.append(figure.text(row.digits) + mark)
            else:
                cells.append("–")
                if row.key in troubles:
                    notes[troubles[row.key]] = None
        what = f"{row.what}, {row.unit}" if row.unit else row.what
        lines.append([what, *cells, row.goal_in_words, row.established])
    legend = "Medians, and in parentheses the least and the most; ! misses the goal, which is for the first column."
    return "\n\n".join([table(head, lines), legend, *(f"–: {note}." for note in notes)])


def record(rows: Sequence[Row], columns: Columns) -> dict[str, Any]:
    """All values, for the JSON file."""
    return {
        "rows": [
            {
                "key": row.key,
                "what": row.what,
                "unit": row.unit,
                "goal": row.goal,
                "established": row.established,
                "columns": {
                    name: _column(row, values.get(row.key), troubles.get(row.key, ""))
                    for name, (values, troubles) in columns.items()
                },
            }
            for row in rows
        ]
    }


def _column(row: Row, values: Sequence[float] | None, trouble: str) -> dict[str, Any]:
    if not values:
        return {"values": [], "why": trouble}
    figure = Figure.of(values)
    found = {"median": figure.median, "least": figure.least, "most": figure.most, "met": row.met(figure.median)}
    return {**found, "values": [round(value, 4) for value in values]}
