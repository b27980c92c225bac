"""Signals as a context: each one only requests a stop, and everything is as before afterwards.

Python runs a handler on the main thread between two instructions, where that thread may hold any lock; and not at all while
that thread waits for a lock, when the signal came in just before it began to wait. So the handlers do nothing: the number
goes through the wake-up descriptor, which is written at the very moment of the signal, to a thread of its own that requests
the stop. A second SIGTERM finds the first reason in place and changes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pilot.runtime.stop import Stop, StopKind, StopReason

HANDLED = {signal.SIGTERM: StopKind.SIGTERM, signal.SIGINT: StopKind.SIGINT}
_END = b"\0"  # no signal has this number


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """SIGTERM and SIGINT stop ``stop``; SIGPIPE is an error code, not a death. Main thread only."""

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """The wake-up descriptor has it."""

    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    requester = threading.Thread(target=_request, args=(reading, stop), name="signals", daemon=True)
    requester.start()
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, ignore) for number in HANDLED}
    before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.write(writing, _END)
        requester.join()
        os.close(reading)
        os.close(writing)


def _request(reading: int, stop: Stop) -> None:
    """Request a stop for each signal number that comes in, until the end."""
    while (number := os.read(reading, 1)) not in (_END, b""):
        kind = HANDLED.get(signal.Signals(number[0]))
        if kind is not None:
            stop.request(StopReason(kind))
