from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from pilot.runtime.loops import Helpers, run_stage
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason

TERM = StopReason(StopKind.SIGTERM)


def wait(stop: Stop) -> None:
    stop.wait(None)


def test_helpers_end_with_their_block() -> None:
    owner = Stop()
    ended: list[str] = []

    def body(stop: Stop) -> None:
        stop.wait(None)
        ended.append(threading.current_thread().name)

    with Helpers(owner) as helpers:
        helpers.start("heartbeat", body)
        helpers.start("log-pump", body)
    assert sorted(ended) == ["heartbeat", "log-pump"]
    assert helpers.abandoned == [] and not owner.is_set()


def test_the_first_helper_that_fails_stops_the_owner(eventually: Callable[..., None]) -> None:
    owner = Stop()

    def fail(stop: Stop) -> None:
        raise KeyError("lost")

    with Helpers(owner) as helpers:
        helpers.start("monitor", fail)
        assert owner.wait(10)
    assert owner.reason == StopReason(StopKind.INTERNAL, "monitor failed: KeyError: 'lost'")


def test_a_helper_that_is_stopped_in_a_wait_has_not_failed() -> None:
    owner = Stop()

    def body(stop: Stop) -> None:
        stop.wait(None)
        stop.check()

    with Helpers(owner) as helpers:
        helpers.start("pump", body)
    assert not owner.is_set()


def test_helpers_end_when_their_block_fails() -> None:
    with pytest.raises(ValueError, match="mine"), Helpers(Stop()) as helpers:
        helpers.start("pump", wait)
        raise ValueError("mine")


def test_one_helper_can_be_ended_before_the_others() -> None:
    with Helpers(Stop()) as helpers:
        first = helpers.start("first", wait)
        second = helpers.start("second", wait)
        assert helpers.finish(first)
        assert not first.alive() and second.alive()


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_helper_that_misses_its_bound_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    owner, stuck = Stop(), threading.Event()

    def wait_stuck(_stop: Stop) -> None:
        stuck.wait(30)

    with Helpers(owner) as helpers:
        helper = helpers.start("upload", wait_stuck)
        assert not helpers.finish(helper, bound_s=0.05)
    assert helpers.abandoned == ["upload"]
    assert helper.stop.is_set()
    assert "left behind" in caplog.text
    stuck.set()


def test_a_stage_gives_what_its_body_gives() -> None:
    assert run_stage("stage", lambda: 42, Stop()) == 42
    assert run_stage("stage", lambda: None, Stop()) is None


def test_a_stage_raises_what_its_body_raises() -> None:
    def body() -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_stage("stage", body, Stop())


def test_a_stage_runs_on_a_thread_of_its_name() -> None:
    assert run_stage("stage-in", lambda: threading.current_thread().name, Stop()) == "stage-in"


def test_a_stage_that_notices_the_stop_has_its_say() -> None:
    stop = Stop()

    def body() -> str:
        assert stop.wait(10)
        return "stored in time"

    asking = threading.Timer(0.02, stop.request, (TERM,))
    asking.start()
    assert run_stage("stage", body, stop, bound_s=10) == "stored in time"
    asking.join()


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_stuck_stage_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    stop, stuck = Stop(), threading.Event()
    asking = threading.Timer(0.02, stop.request, (TERM,))
    asking.start()
    with caplog.at_level(logging.ERROR), pytest.raises(Stopped) as raised:
        run_stage("stage-out", lambda: stuck.wait(30), stop, bound_s=0.05)
    assert raised.value.reason == TERM
    assert "stage-out did not notice the stop" in caplog.text
    asking.join()
    stuck.set()


def test_a_stage_under_a_stopped_scope_still_gets_its_bound() -> None:
    stop = Stop()
    stop.request(TERM)
    assert run_stage("report", lambda: 1, stop, bound_s=10) == 1


def test_while_a_stage_waits_the_conductor_does_something_short() -> None:
    done = threading.Event()

    def body() -> str:
        return "answered" if done.wait(10) else "nothing was done meanwhile"

    assert run_stage("acquire", body, Stop(), meanwhile=done.set) == "answered"


def test_for_a_stage_that_is_over_at_once_nothing_is_done_meanwhile() -> None:
    done: list[str] = []
    assert run_stage("acquire", lambda: 5, Stop(), meanwhile=lambda: done.append("late")) == 5
    assert done == []
