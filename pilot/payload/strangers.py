"""As PID 1 of a container the pilot inherits every orphan in it: of a payload, and of whatever people run in its pod.

Each one that ends stays in the table of processes, which has an end, until it is collected. Between jobs that is done at once;
here it is done all the time, beside a long job or an idle pilot, by one thread that looks every few seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pilot.payload import procfs
from pilot.payload.process import adopted, collect
from pilot.runtime.loops import Helpers
from pilot.runtime.stop import Stop

PAUSE_S = 2.0  # a dead stranger is gone after one to two of these; a look at a hundred processes costs 2 ms


@contextmanager
def strangers_collected(stop: Stop) -> Iterator[None]:
    """While inside, dead orphans are collected; for the process that inherits them."""
    with Helpers(stop) as helpers:
        helpers.start("strangers", collect_strangers)
        yield


def collect_strangers(stop: Stop, pause_s: float = PAUSE_S) -> None:
    """Collect dead strangers until the stop."""
    seen: frozenset[tuple[int, int]] = frozenset()
    while not stop.wait(pause_s):
        seen = look(seen)


def look(seen: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """Collect the strangers that were dead at the look before, ``seen``, and still are; returns who is dead now.

    A child that a part of the pilot has just started, and that ends before it is registered, looks like a stranger. It is for the
    part that waits for it, and whoever waits has its status long before the second look.
    """
    dead = frozenset(process.key for process in dead_strangers())
    for pid, _started in seen & dead:
        collect(pid)
    return dead


def reap_strangers() -> int:
    """Collect those that are dead now; between jobs, when nobody starts anything. Returns how many."""
    return sum(collect(process.pid) is not None for process in dead_strangers())


def dead_strangers() -> list[procfs.Process]:
    """Dead children nobody here started."""
    me = os.getpid()
    return [p for p in procfs.all_processes().values() if p.ppid == me and p.zombie and adopted(p)]
