"""The conductor's pulse: proof that the main thread comes back from its waits.

The conductor waits for hours: for a job, for a stage, for a payload. While a pulse is worn, those waits (stop.py, loops.py)
are taken in pieces, and after each piece the conductor itself calls the listeners. So a conductor that does not come back,
from behind a lock or out of a call that never returns, falls silent whatever its helper threads do; and a helper that is
stuck, a long outage or a long payload silence nobody (docs/adr/0007). A listener must not block, and raises nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pilot.runtime.clock import monotonic_s

BEAT_S = 10.0


class _Pulse:
    def __init__(self, listeners: tuple[Callable[[], None], ...], every_s: float) -> None:
        self.listeners = listeners
        self.every_s = every_s
        self.conductor = threading.get_ident()
        self.due_s = monotonic_s()


_worn: _Pulse | None = None


@contextmanager
def pulse_of_this_thread(*listeners: Callable[[], None], every_s: float = BEAT_S) -> Iterator[None]:
    """While inside, the calling thread is the conductor: ``listeners`` hear of it at least every ``every_s`` seconds."""
    global _worn
    _worn = _Pulse(listeners, every_s)
    beat()
    try:
        yield
    finally:
        _worn = None


def beat() -> None:
    """The caller is alive. It counts when the caller is the conductor and a beat is due; else it costs a comparison."""
    pulse = _worn
    if pulse is None or pulse.conductor != threading.get_ident() or monotonic_s() < pulse.due_s:
        return
    pulse.due_s = monotonic_s() + pulse.every_s
    for listener in pulse.listeners:
        listener()


def piece_s(left_s: float | None) -> float | None:
    """How long the caller may wait at a stretch when it wants to wait ``left_s`` seconds (None: for ever)."""
    pulse = _worn
    if pulse is None or pulse.conductor != threading.get_ident():
        return left_s
    until_due_s = max(0.0, pulse.due_s - monotonic_s())
    return until_due_s if left_s is None else min(left_s, until_due_s)


def wait_for(event: threading.Event, timeout_s: float | None = None) -> bool:
    """``event.wait(timeout_s)``, with a beating heart."""
    end_s = None if timeout_s is None else monotonic_s() + timeout_s
    while True:
        left_s = None if end_s is None else max(0.0, end_s - monotonic_s())
        if event.wait(piece_s(left_s)):
            return True
        beat()
        if left_s == 0.0:
            return False


def join(thread: threading.Thread, timeout_s: float) -> None:
    """``thread.join(timeout_s)``, with a beating heart."""
    end_s = monotonic_s() + timeout_s
    while thread.is_alive() and (left_s := end_s - monotonic_s()) > 0:
        thread.join(piece_s(left_s))
        beat()
