"""A fleet's figures from its requests: rates, the herd after an outage, and who had no answer."""

from __future__ import annotations

import pytest

from tests.bench.fleet import Seen, Times, figures

TIMES = Times(pilots=2, steady_s=10, away_s=10, back_s=10)
FIRST = [(1.0, 0.1, "none"), (6.0, 0.3, "none"), (12.0, 2.0, "trouble"), (24.0, 0.5, "none"), (29.0, 0.5, "none")]
SECOND = [(3.0, 0.2, "none"), (18.0, 3.0, "none")]  # the second one was begun before the return


def test_a_fleets_figures() -> None:
    arrived = [1.0, 3.0, 6.0, 20.5, 20.6, 20.7, 24.0, 29.0]
    values, counts = figures(Seen([FIRST, SECOND], arrived, 0.0, 10.0, 20.0, 30.0), TIMES)
    one = {name: found[0] for name, found in values.items()}
    assert one["asked"] == pytest.approx(9.0)
    assert (one["p50"], one["max"]) == (0.2, 0.3)
    assert one["away"] == pytest.approx(3.0)
    assert (one["steady peak"], one["back peak"], one["herd"]) == (1, 3, 3.0)
    assert one["herd wide"] == pytest.approx(4 / 2)
    assert one["first"] == pytest.approx(0.5)
    assert one["all"] == pytest.approx(4.5)
    assert one["silent"] == 0
    assert counts["after"] == [3, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_a_pilot_without_an_answer_is_counted() -> None:
    values, _ = figures(Seen([FIRST, SECOND[:1]], [1.0, 24.0], 0.0, 10.0, 20.0, 30.0), TIMES)
    assert values["silent"] == [1]
