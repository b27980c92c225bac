"""Signals as a context: each one only requests a stop, and everything is as before afterwards.

Python runs a handler on the main thread between two instructions, so a handler does nothing but request. A second SIGTERM
finds the first reason in place and changes nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pilot.runtime.stop import Stop, StopKind, StopReason

HANDLED = {signal.SIGTERM: StopKind.SIGTERM, signal.SIGINT: StopKind.SIGINT}


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """SIGTERM and SIGINT stop ``stop``; SIGPIPE is an error code, not a death. Main thread only."""

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.request(StopReason(HANDLED[signal.Signals(number)]))

    before = {number: signal.signal(number, handle) for number in HANDLED}
    before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
