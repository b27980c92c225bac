from __future__ import annotations

import threading
from functools import partial

import pytest

from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.storage.parallel import in_parallel


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stage-")]


def test_results_come_in_the_order_of_the_tasks() -> None:
    def give(number: int, stop: Stop) -> int:
        return number

    assert in_parallel([partial(give, number) for number in range(20)], Stop()) == tuple(range(20))
    assert in_parallel([], Stop()) == ()
    assert stage_threads() == []


def test_four_run_at_a_time_on_named_threads() -> None:
    together = threading.Barrier(4, timeout=5)

    def task(stop: Stop) -> str:
        together.wait()
        return threading.current_thread().name

    assert sorted(in_parallel([task] * 4, Stop())) == ["stage-0", "stage-1", "stage-2", "stage-3"]


def test_the_first_failure_stops_the_others_and_is_raised() -> None:
    started: list[int] = []

    def patient(stop: Stop) -> None:
        started.append(1)
        assert stop.wait(5)
        stop.check()

    def failing(stop: Stop) -> None:
        while not started:
            stop.wait(0.001)
        raise LookupError("this one")

    with pytest.raises(LookupError, match="this one"):
        in_parallel([patient, failing, *([patient] * 20)], Stop())
    assert len(started) <= 4
    assert stage_threads() == []


def test_a_stop_from_outside_is_a_stop_and_no_failure() -> None:
    stop = Stop()

    def task(scope: Stop) -> None:
        stop.request(StopReason(StopKind.SIGTERM))
        scope.check()

    with pytest.raises(Stopped, match="SIGTERM"):
        in_parallel([task, task], stop)
