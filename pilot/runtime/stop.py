"""The one stop mechanism: a scope with a typed reason and a deadline. Every wait in the pilot is a wait on one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from pilot.runtime import pulse
from pilot.runtime.clock import monotonic_s

logger = logging.getLogger("pilot.stop")


class StopKind(Enum):
    """Why something stops. The value is the sentence people read."""

    SIGTERM = "the pilot received SIGTERM"
    SIGINT = "the pilot received SIGINT"
    LIFETIME = "the pilot's lifetime is over"
    SERVER_KILL = "the PanDA server asked to kill the job"
    LIMIT = "the job exceeded a limit"
    SERVER_LOST = "the PanDA server was out of reach for too long"
    PAYLOAD_DONE = "the payload has ended"
    INTERNAL = "a part of the pilot failed"


@dataclass(frozen=True, slots=True)
class StopReason:
    """A kind, and the particulars in words (may be empty)."""

    kind: StopKind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}" if self.detail else self.kind.value


class Stopped(Exception):
    """Raised out of a wait or a transfer whose scope was stopped."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Stop:
    """A stop scope. The first reason wins. ``child`` and ``grace`` make scopes that follow this one.

    Whoever follows is told once: at the stop, or at once when the scope is stopped already.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reason: StopReason | None = None
        self._stopped_at_s: float | None = None
        self._followers: list[Callable[[StopReason], object]] = []

    def follow(self, follower: Callable[[StopReason], object]) -> None:
        """Call ``follower`` with the reason when this scope stops. It runs on the stopping thread: it must only notify."""
        with self._changed:
            self._followers.append(follower)
            reason = self._reason
        if reason is not None:
            follower(reason)

    def unfollow(self, follower: Callable[[StopReason], object]) -> None:
        """Forget a follower, so that a long life does not collect ended ones."""
        with self._changed:
            if follower in self._followers:
                self._followers.remove(follower)

    def request(self, reason: StopReason) -> bool:
        """Stop this scope and those below it. False when it was stopped before: the earlier reason stays."""
        with self._changed:
            if self._reason is not None:
                return False
            self._reason = reason
            self._stopped_at_s = monotonic_s()
            followers = tuple(self._followers)
            self._changed.notify_all()
        for follower in followers:
            try:
                follower(reason)
            except Exception as error:  # the boundary: whoever comes after it must be told too
                logger.error("a part was not told of the stop", exc_info=error)
        return True

    @property
    def reason(self) -> StopReason | None:
        return self._reason

    @property
    def stopped_at_s(self) -> float | None:
        """Monotonic instant of the first stop."""
        return self._stopped_at_s

    def left_s(self, after_s: float, most_s: float) -> float:
        """Seconds left for something that may take ``most_s`` and must be over ``after_s`` seconds after the stop; 0: none."""
        stopped_at_s = self._stopped_at_s
        return most_s if stopped_at_s is None else max(0.0, min(most_s, stopped_at_s + after_s - monotonic_s()))

    def is_set(self) -> bool:
        return self._reason is not None

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until stopped or until ``timeout_s`` has passed; True when stopped. None waits for the stop alone.

        The conductor waits in pieces and shows between them that it lives (pulse.py); no lock is held while it does.
        """
        end_s = None if timeout_s is None else monotonic_s() + timeout_s
        while True:
            with self._changed:
                if self._reason is not None:
                    return True
                left_s = None if end_s is None else end_s - monotonic_s()
                if left_s is not None and left_s <= 0:
                    return False
                self._changed.wait(pulse.piece_s(left_s))
            pulse.beat()

    def check(self) -> None:
        """Raise ``Stopped`` when the scope has been stopped."""
        if self._reason is not None:
            raise Stopped(self._reason)

    @contextmanager
    def child(self) -> Iterator[Stop]:
        """A narrower scope: it stops with this one, and stopping it leaves this one running."""
        child = Stop()
        self.follow(child.request)
        try:
            yield child
        finally:
            self.unfollow(child.request)

    @contextmanager
    def grace(self, after_s: float) -> Iterator[Stop]:
        """The scope that clean-up runs under: it stops ``after_s`` seconds later than this one, with the same reason."""
        late = Stop()
        timers: list[threading.Timer] = []

        def start_timer(reason: StopReason) -> None:
            elapsed_s = monotonic_s() - (self._stopped_at_s or monotonic_s())
            timer = threading.Timer(max(0.0, after_s - elapsed_s), late.request, (reason,))
            timer.daemon = True
            timer.name = "grace"
            try:
                timer.start()
            except RuntimeError:  # no thread is to be had: no grace then, rather than one without an end
                late.request(reason)
            else:
                timers.append(timer)

        self.follow(start_timer)
        try:
            yield late
        finally:
            self.unfollow(start_timer)
            for timer in timers:
                timer.cancel()


class Deadline:
    """A fixed instant on the monotonic clock, for total times of retries and for grace."""

    def __init__(self, after_s: float) -> None:
        self.at_s = monotonic_s() + after_s

    def left_s(self) -> float:
        return max(0.0, self.at_s - monotonic_s())

    def passed(self) -> bool:
        return monotonic_s() >= self.at_s
