"""The helper threads beside the flow: named, owned by a block, watched, joined within a bound.

The first helper that fails stops the block's scope; none outlives its block. One that misses its join bound is abandoned:
its scope is stopped, the fact is logged and counted, and the process will leave without waiting for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from pilot.runtime.pulse import beat, wait_for
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason

logger = logging.getLogger("pilot.loops")

T = TypeVar("T")

JOIN_BOUND_S = 10.0
UNDER_WAY_S = 0.05  # a request that is not answered by now is on the wire
STAGE_BOUND_S = 5.0  # connect and read time-outs are at most this once a stop is on


class Helper:
    """One running helper thread. ``stop`` is its own scope: stopping it ends the helper and nothing else."""

    def __init__(
        self, name: str, body: Callable[[Stop], None], owner: Stop, failed: Callable[[str, Exception], None]
    ) -> None:
        self.name = name
        self.stop = Stop()
        self._body = body
        self._owner = owner
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._body(self.stop)
        except Stopped:
            logger.debug("helper %s stopped", self.name)
        except Exception as error:  # noqa: BLE001  (the boundary: a helper's death must be seen by its owner)
            self._failed(self.name, error)

    def finish(self, bound_s: float = JOIN_BOUND_S) -> bool:
        """Stop the helper and wait for it; False when it did not end within the bound and was abandoned."""
        self.stop.request(StopReason(StopKind.PAYLOAD_DONE))
        self._thread.join(bound_s)
        return not self._thread.is_alive()

    def alive(self) -> bool:
        return self._thread.is_alive()


def run_stage(
    name: str,
    body: Callable[[], T],
    stop: Stop,
    bound_s: float = STAGE_BOUND_S,
    most_s: float | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> T:
    """Run a blocking stage on a thread of its own, so that a stuck library cannot hold the conductor; its heart goes on.

    Returns or raises what ``body`` does. When ``stop`` is requested the stage has ``bound_s`` seconds to notice (its own
    waits are on the same scope); after that it is left behind and Stopped is raised here. ``most_s``: so it is after as
    many seconds without a stop. ``meanwhile``: something short that the conductor does once the stage is under way, with
    what it waits for on the wire; it raises nothing.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    woken = threading.Event()

    def run() -> None:
        try:
            results.append(body())
        except BaseException as error:  # noqa: BLE001  (carried over to the conductor, which raises it)
            errors.append(error)
        woken.set()

    def wake(_reason: StopReason) -> None:
        woken.set()

    thread = threading.Thread(target=run, name=name, daemon=True)
    stop.follow(wake)
    try:
        thread.start()
        if meanwhile and not woken.wait(UNDER_WAY_S):
            meanwhile()
        in_time = wait_for(woken, most_s)
        if stop.is_set():
            thread.join(bound_s)
        elif in_time:
            thread.join()
    finally:
        stop.unfollow(wake)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    if not in_time and not stop.is_set():
        raise Stopped(StopReason(StopKind.INTERNAL, f"{name} took longer than {most_s:.0f} s and is left behind"))
    logger.error("stage %s did not notice the stop within %.0f s and is left behind", name, bound_s)
    raise Stopped(stop.reason or StopReason(StopKind.INTERNAL))


def run_within(name: str, body: Callable[[], T], bound_s: float) -> T | None:
    """Run ``body`` on a thread of its own for at most ``bound_s`` seconds; None when it took longer. Raises what it does."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(body())
        except BaseException as error:  # noqa: BLE001  (carried over to the caller, which raises it)
            errors.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(bound_s)
    if errors:
        raise errors[0]
    return results[0] if results else None


class Helpers:
    """The helpers of one block: ``with Helpers(stop) as helpers: helpers.start("heartbeat", body)``."""

    def __init__(self, owner: Stop) -> None:
        self._owner = owner
        self._running: list[Helper] = []
        self.abandoned: list[str] = []

    def start(self, name: str, body: Callable[[Stop], None]) -> Helper:
        """Run ``body(stop)`` on a thread of that name; it must return soon after its scope is stopped."""
        helper = Helper(name, body, self._owner, self._on_failure)
        self._running.append(helper)
        return helper

    def finish(self, helper: Helper, bound_s: float | None = None) -> bool:
        """End one helper now, within JOIN_BOUND_S or ``bound_s``; it is no longer joined at the end of the block."""
        bound_s = JOIN_BOUND_S if bound_s is None else bound_s
        self._running.remove(helper)
        ended = helper.finish(bound_s)
        beat()  # several may miss their bounds, one after the other
        if not ended:
            self.abandoned.append(helper.name)
            logger.error("helper %s did not end within %.0f s and is left behind", helper.name, bound_s)
        return ended

    def _on_failure(self, name: str, error: Exception) -> None:
        logger.error("helper %s failed", name, exc_info=error)
        self._owner.request(StopReason(StopKind.INTERNAL, f"{name} failed: {type(error).__name__}: {error}"))

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for helper in reversed(self._running.copy()):
            self.finish(helper)
