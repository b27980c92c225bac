from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilot.job.history import History, UsagePoint, merged


def point(second: int, memory: int = 0, **figures: int) -> UsagePoint:
    return UsagePoint(float(second), memory, cpu_s=second / 2, read_bytes=second * 10, **figures)


def test_two_points_become_one_with_the_later_counters_and_the_higher_gauges() -> None:
    one = UsagePoint(1.0, 50, 60, 7, None, 9, 99, 1.0, 0.1, 10, 20, 5, 6, 3, 30)
    two = UsagePoint(2.0, 40, 70, 8, 11, None, 88, 2.0, 0.2, 30, 40, 7, 8, 4, 20)
    assert merged(one, two) == UsagePoint(2.0, 50, 70, 8, 11, 9, 99, 2.0, 0.2, 30, 40, 7, 8, 4, 30)


def test_what_was_measured_at_neither_moment_is_still_not_measured() -> None:
    assert merged(point(1), point(2)).disk_bytes is None


def test_below_its_bound_a_history_keeps_every_point() -> None:
    history = History(most=8)
    for second in range(8):
        history.add(point(second))
    assert [p.elapsed_s for p in history.points] == list(range(8))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300), st.integers(2, 16))
def test_however_many_points_the_history_is_bounded_and_loses_no_peak(memories: list[int], most: int) -> None:
    history = History(most)
    for second, memory in enumerate(memories):
        history.add(point(second, memory))
    kept = history.points
    assert len(kept) <= most
    assert max(p.memory_bytes for p in kept) == max(memories)
    assert kept[-1].elapsed_s == len(memories) - 1 and kept[-1].read_bytes == (len(memories) - 1) * 10
    assert [p.elapsed_s for p in kept] == sorted({p.elapsed_s for p in kept})


def test_a_peak_is_told_within_the_stretch_it_happened_in() -> None:
    history = History(most=4)
    for second in range(64):
        history.add(point(second, 99 if second == 41 else 1))
    (at,) = [index for index, p in enumerate(history.points) if p.memory_bytes == 99]
    before_s = history.points[at - 1].elapsed_s
    assert before_s < 41 <= history.points[at].elapsed_s
