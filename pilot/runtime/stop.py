"""The one stop mechanism: a scope with a typed reason and a deadline. Every wait in the pilot is a wait on one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

from pilot.runtime.clock import monotonic_s


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
    """A stop scope. The first reason wins; a scope also stops when its parent does.

    ``grace`` makes the scope that clean-up runs under: it does not follow this scope's stop, and ends a bounded time later.
    """

    def __init__(self, parent: Stop | None = None) -> None:
        self._changed = threading.Condition()
        self._reason: StopReason | None = None
        self._stopped_at_s: float | None = None
        self._children: list[Stop] = []
        if parent is not None:
            parent._adopt(self)

    def _adopt(self, child: Stop) -> None:
        with self._changed:
            self._children.append(child)
            reason = self._reason
        if reason is not None:
            child.request(reason)

    def request(self, reason: StopReason) -> bool:
        """Stop this scope and those below it. False when it was stopped before: the earlier reason stays."""
        with self._changed:
            if self._reason is not None:
                return False
            self._reason = reason
            self._stopped_at_s = monotonic_s()
            children = tuple(self._children)
            self._changed.notify_all()
        for child in children:
            child.request(reason)
        return True

    @property
    def reason(self) -> StopReason | None:
        return self._reason

    @property
    def stopped_at_s(self) -> float | None:
        """Monotonic instant of the first stop."""
        return self._stopped_at_s

    def is_set(self) -> bool:
        return self._reason is not None

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until stopped or until ``timeout_s`` has passed; True when stopped. None waits for the stop alone."""
        end_s = None if timeout_s is None else monotonic_s() + timeout_s
        with self._changed:
            while self._reason is None:
                left_s = None if end_s is None else end_s - monotonic_s()
                if left_s is not None and left_s <= 0:
                    return False
                self._changed.wait(left_s)
            return True

    def check(self) -> None:
        """Raise ``Stopped`` when the scope has been stopped."""
        if self._reason is not None:
            raise Stopped(self._reason)

    def child(self) -> Stop:
        """A narrower scope: stopping it leaves this one running."""
        return Stop(parent=self)

    def close(self, parent: Stop) -> None:
        """Let ``parent`` forget this scope, so that a long life does not collect ended ones."""
        with parent._changed:
            if self in parent._children:
                parent._children.remove(self)


class Deadline:
    """A fixed instant on the monotonic clock, for total times of retries and for grace."""

    def __init__(self, after_s: float) -> None:
        self.at_s = monotonic_s() + after_s

    def left_s(self) -> float:
        return max(0.0, self.at_s - monotonic_s())

    def passed(self) -> bool:
        return monotonic_s() >= self.at_s
