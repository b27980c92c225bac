"""Long series made short enough to draw: the lowest and the highest value of each bucket stay, so no peak is lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from pilot.job.history import UsagePoint

Points = Sequence[tuple[float, float]]  # time in seconds, value; times grow
BUCKETS = 360


def thinned(points: Points, buckets: int = BUCKETS) -> Points:
    """At most ``2 * buckets + 2`` of the points: first, last, and the lowest and highest of equal stretches of time."""
    if len(points) <= 2 * buckets + 2:
        return points
    begin_s, end_s = points[0][0], points[-1][0]
    width_s = (end_s - begin_s) / buckets or 1.0
    kept: list[tuple[float, float]] = [points[0]]
    at = 0
    while at < len(points):
        bucket = min(buckets - 1, int((points[at][0] - begin_s) / width_s))
        low = high = at
        while at < len(points) and min(buckets - 1, int((points[at][0] - begin_s) / width_s)) == bucket:
            low = at if points[at][1] < points[low][1] else low
            high = at if points[at][1] > points[high][1] else high
            at += 1
        kept += [points[index] for index in sorted({low, high}) if points[index] != kept[-1]]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def rates(counts: Points) -> Points:
    """A counter's growth per second between its points, told at the later one; a counter that falls is taken as at rest."""
    return [
        (after_s, max(0.0, (after - before) / (after_s - before_s)))
        for (before_s, before), (after_s, after) in pairwise(counts)
        if after_s > before_s
    ]


def column(points: Iterable[UsagePoint], name: str) -> Points:
    """One figure over time; what was not measured is left out."""
    values = ((point.elapsed_s, getattr(point, name)) for point in points)
    return [(elapsed_s, float(value)) for elapsed_s, value in values if value is not None]


def counter(points: Sequence[UsagePoint], name: str) -> Points:
    """The growth per second of a counter that began at 0 with the payload."""
    return rates([(0.0, 0.0), *column(points, name)])
