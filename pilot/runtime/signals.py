"""Signals as a context: each one only requests a stop, and everything is as before afterwards.

Python runs a handler on the main thread between two instructions, where that thread may hold any lock. So a handler only
puts its number into a queue that is made for this, and a thread of its own requests the stop. A second SIGTERM finds the
first reason in place and changes nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from pilot.runtime.stop import Stop, StopKind, StopReason

HANDLED = {signal.SIGTERM: StopKind.SIGTERM, signal.SIGINT: StopKind.SIGINT}


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """SIGTERM and SIGINT stop ``stop``; SIGPIPE is an error code, not a death. Main thread only."""

    received: SimpleQueue[int | None] = SimpleQueue()

    def handle(number: int, _frame: FrameType | None) -> None:
        received.put(number)

    def request() -> None:
        while (number := received.get()) is not None:
            stop.request(StopReason(HANDLED[signal.Signals(number)]))

    requester = threading.Thread(target=request, name="signals", daemon=True)
    requester.start()
    before = {number: signal.signal(number, handle) for number in HANDLED}
    before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        received.put(None)
        requester.join()
