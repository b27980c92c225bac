"""A few transfers at a time, on named threads that end before the call does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason

T = TypeVar("T")

WIDTH = 4  # transfers at a time: more gain nothing on two cores


def in_parallel(tasks: Sequence[Callable[[Stop], T]], stop: Stop, width: int = WIDTH) -> tuple[T, ...]:
    """The results of all tasks, in their order. The first failure stops the others and is raised when all have ended."""
    results: dict[int, T] = {}
    failures: list[BaseException] = []
    waiting = list(enumerate(tasks))
    lock = threading.Lock()

    def next_task() -> tuple[int, Callable[[Stop], T]] | None:
        with lock:
            return waiting.pop(0) if waiting and not failures else None

    def work(scope: Stop) -> None:
        while (found := next_task()) is not None:
            position, task = found
            try:
                results[position] = task(scope)
            except BaseException as error:  # noqa: BLE001 - carried to the caller, which raises it
                with lock:
                    failures.append(error)
                scope.request(StopReason(StopKind.INTERNAL, "another transfer failed"))

    with stop.child() as scope:
        threads = [
            threading.Thread(target=work, args=(scope,), name=f"stage-{number}", daemon=True)
            for number in range(min(width, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if stop.reason is not None and failures:
        raise Stopped(stop.reason)
    if failures:
        raise failures[0]
    return tuple(results[position] for position in range(len(tasks)))
