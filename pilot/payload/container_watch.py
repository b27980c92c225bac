"""The container's memory, looked at often enough that the payload is stopped before the kernel kills.

On a thread of its own: nothing else the pilot does (page tables of a large tree, a slow disk) may delay the next look.
One look reads two small files (0.06 ms), and its distance to the next follows from how far away the limit is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pilot.job.limits import next_look_s
from pilot.payload.cgroup import MemoryGroup
from pilot.runtime.clock import monotonic_s

LEAST_GROWTH_PER_S = 500 << 20  # of a payload that may wake at any moment; one core fills pages at about twice that
SHORTEST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0
STEP = 0.02  # of the limit: the memory must have moved so far to be told anew


class ContainerWatch:
    """``looked`` gets the bytes in use each time they have moved by a step or exceed ``allowed_bytes``."""

    def __init__(self, group: MemoryGroup, allowed_bytes: int, looked: Callable[[int], object]) -> None:
        self._group, self._allowed_bytes, self._looked = group, allowed_bytes, looked
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="container-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, bound_s: float) -> bool:
        """End the looking; False when the thread did not end within the bound."""
        self._finished.set()
        if self._thread.ident is not None:  # else no thread was to be had
            self._thread.join(bound_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        told_bytes, before_bytes, before_s = -self._group.limit_bytes, None, monotonic_s()
        pause_s = 0.0
        while not self._finished.wait(pause_s):
            used_bytes, now_s = self._group.used_bytes(), monotonic_s()
            if used_bytes is None:
                pause_s = LONGEST_PAUSE_S
                continue
            if used_bytes > self._allowed_bytes or abs(used_bytes - told_bytes) >= STEP * self._group.limit_bytes:
                told_bytes = used_bytes
                self._looked(used_bytes)
            growth_per_s = 0.0 if before_bytes is None else (used_bytes - before_bytes) / max(now_s - before_s, 1e-3)
            before_bytes, before_s = used_bytes, now_s
            due_s = next_look_s(used_bytes, self._allowed_bytes, growth_per_s, LEAST_GROWTH_PER_S)
            pause_s = min(max(due_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
