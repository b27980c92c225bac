"""Probe points: null unless a program of the fault laboratory installs something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pilot
from pilot.runtime.probe import Point, install, probe


@pytest.fixture
def reached() -> Iterator[list[Point]]:
    points: list[Point] = []
    install(points.append)
    yield points
    install(None)


def test_a_point_that_is_reached_is_told(reached: list[Point]) -> None:
    probe(Point.PREPARED)
    probe(Point.CLEANING)
    assert reached == [Point.PREPARED, Point.CLEANING]


def test_without_a_laboratory_a_point_does_nothing() -> None:
    for point in Point:
        probe(point)


def test_what_a_laboratory_raises_comes_out_at_the_point() -> None:
    def fail(_point: Point) -> None:
        raise OSError("no space")

    install(fail)
    try:
        with pytest.raises(OSError, match="no space"):
            probe(Point.ACQUIRED)
    finally:
        install(None)


def test_each_of_the_24_points_stands_in_the_pilot_and_only_the_laboratory_installs() -> None:
    sources = {path: path.read_text() for path in Path(pilot.__file__).parent.rglob("*.py")}
    lines = [line for text in sources.values() for line in text.splitlines() if " probe(Point." in line]
    named = {name for line in lines for name in re.findall(r"Point\.(\w+)", line)}
    assert named == {point.name for point in Point}
    assert len(Point) == 24
    assert not [path for path, text in sources.items() if re.search(r"(?<!def )\binstall\(", text) and "probe" in text]
