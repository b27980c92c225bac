from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.logs.page import words
from pilot.logs.page.plots import LimitLine, Line, Plot, description, draw, short_time, time_ticks, value_ticks

GB = float(1 << 30)


def plot(*values: float, limits: tuple[LimitLine, ...] = (), marks: tuple[tuple[float, str], ...] = ()) -> Plot:
    points = [(float(at_s), value) for at_s, value in enumerate(values)]
    return Plot("Memory", (Line("PSS", points, 1, filled=True),), 0.0, len(values) - 1.0, words.size, limits, marks)


def level(text: str, kind: str = "limit") -> float:
    """How far below the upper edge, in percent, the first limit is drawn."""
    found = re.search(rf'<line class="{kind}" [^>]*y1="([\d.]+)%"', text)
    assert found, text
    return float(found[1])


def polyline(text: str) -> list[tuple[float, float]]:
    found = re.search(r'<polyline class="line tone1" points="([^"]*)"', text)
    assert found
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split(" "))]


def test_a_limit_is_drawn_to_scale_with_its_name_and_its_source() -> None:
    text = str(draw(plot(1 * GB, 3 * GB, 2 * GB, limits=(LimitLine(4 * GB, "limit", "maxrss of queue Q"),))))
    top = 4 * GB * 1.06
    assert level(text) == pytest.approx(100 - 100 * 4 * GB / top, abs=0.01)
    assert "limit 4.00 GB: maxrss of queue Q" in text and ">limit 4.00 GB</text>" in text
    assert min(y for _, y in polyline(text)) == pytest.approx(1000 - 1000 * 3 * GB / top, abs=0.1)


def test_a_line_above_its_limit_is_drawn_above_it() -> None:
    text = str(draw(plot(1 * GB, 5 * GB, limits=(LimitLine(4 * GB, "limit"),))))
    assert min(y for _, y in polyline(text)) / 10 < level(text)


def test_a_limit_far_above_everything_lies_on_the_upper_edge_and_says_so() -> None:
    text = str(draw(plot(1 * GB, 2 * GB, limits=(LimitLine(100 * GB, "limit"),))))
    assert level(text) == 0.0 and ">↑ limit 100 GB</text>" in text
    assert min(y for _, y in polyline(text)) < 100


def test_a_level_that_nobody_enforces_is_drawn_as_such() -> None:
    text = str(draw(plot(1.0, 2.0, limits=(LimitLine(4.0, "cores", hard=False),))))
    assert level(text, "level") > 0 and 'class="limit"' not in text


def test_a_mark_stands_at_its_moment_and_one_outside_is_left_out() -> None:
    text = str(draw(plot(1, 1, 1, 1, 1, marks=((2.0, "killed"), (99.0, "later")))))
    assert '<line class="mark" x1="50.00%"' in text and ">killed</text>" in text and "later" not in text


def test_a_plot_is_told_in_words_to_those_who_cannot_see_it() -> None:
    shown = plot(1 * GB, 3 * GB, 2 * GB, limits=(LimitLine(4 * GB, "limit", "maxrss"),))
    words_of_it = "Memory over 2.00 s. PSS: at most 3.00 GB, at 1.00 s. limit: 4.00 GB: maxrss"
    assert description(shown) == words_of_it
    assert f'role="img" aria-label="{words_of_it}"' in str(draw(shown))


def test_a_line_without_points_is_told_as_not_measured() -> None:
    empty = Plot("Disk", (Line("on disk", [], 4),), 0.0, 10.0, words.size)
    assert "on disk: not measured" in str(draw(empty)) and "polyline" not in str(draw(empty))


@given(st.floats(0.01, 1e17), st.booleans())
def test_a_scale_has_a_few_round_steps(top: float, binary: bool) -> None:
    ticks = value_ticks(top, binary)
    assert 3 <= len(ticks) <= 6 and ticks[0] == 0 and ticks[-1] <= top * 1.000001


@given(st.floats(0, 1e6), st.floats(0.001, 1e7))
def test_a_time_axis_has_a_few_moments_within_it(begin_s: float, length_s: float) -> None:
    ticks = time_ticks(begin_s, begin_s + length_s)
    assert len(ticks) <= 7
    slack_s = 1e-6 * length_s
    assert all(begin_s - slack_s <= tick <= begin_s + length_s + slack_s for tick in ticks)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (0.5, "0.5 s"),
        (-20, "-20 s"),
        (90, "1.5 min"),
        (100, "100 s"),
        (300, "5 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_a_moment_on_an_axis_is_short(seconds: float, text: str) -> None:
    assert short_time(seconds) == text
