"""What a payload used over time: points of a series, and a store of them that is bounded and loses no peak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_POINTS = 4096


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """What the process tree used up to one moment. Gauges are the highest since the point before; counters only grow.

    ``elapsed_s``: since the payload's start. Gauges, in bytes: ``memory_bytes`` (what counts against the limit: PSS where
    the kernel tells, else RSS), ``rss_bytes``, ``vmem_bytes``, ``swap_bytes``, ``container_bytes`` (the control group's, None:
    not measured), ``disk_bytes`` (the job's folder, None: not measured). Counters: ``cpu_s``, of it ``system_s`` in the kernel;
    ``read_bytes`` and ``written_bytes`` through system calls; ``disk_read_bytes`` and ``disk_written_bytes`` from and to a disk.
    """

    elapsed_s: float
    memory_bytes: int
    rss_bytes: int = 0
    swap_bytes: int = 0
    container_bytes: int | None = None
    disk_bytes: int | None = None
    vmem_bytes: int = 0
    cpu_s: float = 0.0
    system_s: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    disk_read_bytes: int = 0
    disk_written_bytes: int = 0
    processes: int = 0
    threads: int = 0


def merged(first: UsagePoint, second: UsagePoint) -> UsagePoint:
    """One point for two that follow each other: the counters of the later, the higher of each gauge."""
    return UsagePoint(
        elapsed_s=second.elapsed_s,
        memory_bytes=max(first.memory_bytes, second.memory_bytes),
        rss_bytes=max(first.rss_bytes, second.rss_bytes),
        swap_bytes=max(first.swap_bytes, second.swap_bytes),
        container_bytes=_higher(first.container_bytes, second.container_bytes),
        disk_bytes=_higher(first.disk_bytes, second.disk_bytes),
        vmem_bytes=max(first.vmem_bytes, second.vmem_bytes),
        cpu_s=second.cpu_s,
        system_s=second.system_s,
        read_bytes=second.read_bytes,
        written_bytes=second.written_bytes,
        disk_read_bytes=second.disk_read_bytes,
        disk_written_bytes=second.disk_written_bytes,
        processes=max(first.processes, second.processes),
        threads=max(first.threads, second.threads),
    )


class History:
    """At most ``most`` points, however many are added: when it is full, neighbours are merged two by two."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._points: list[UsagePoint] = []
        self._each, self._open = 1, 0  # how many samples make a point, and how many the last point holds

    def add(self, point: UsagePoint) -> None:
        """Add a sample, later than all before."""
        if 0 < self._open < self._each:
            self._points[-1] = merged(self._points[-1], point)
            self._open += 1
            return
        if len(self._points) >= self._most:
            self._points = list(_in_pairs(self._points))
            self._each *= 2
        self._points.append(point)
        self._open = 1

    @property
    def points(self) -> tuple[UsagePoint, ...]:
        return tuple(self._points)


def _in_pairs(points: list[UsagePoint]) -> Iterable[UsagePoint]:
    for at in range(0, len(points) - 1, 2):
        yield merged(points[at], points[at + 1])
    if len(points) % 2:
        yield points[-1]


def _higher(first: int | None, second: int | None) -> int | None:
    return max((value for value in (first, second) if value is not None), default=None)
