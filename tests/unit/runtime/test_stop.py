from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pilot.runtime.stop import Deadline, Stop, StopKind, Stopped, StopReason

TERM = StopReason(StopKind.SIGTERM)
KILL = StopReason(StopKind.SERVER_KILL, "by an operator")


def test_the_first_reason_wins() -> None:
    stop = Stop()
    assert stop.request(TERM)
    assert not stop.request(KILL)
    assert stop.reason == TERM
    assert stop.is_set()


def test_a_running_scope_has_no_reason_and_checks_quietly() -> None:
    stop = Stop()
    stop.check()
    assert (stop.reason, stop.stopped_at_s, stop.is_set()) == (None, None, False)


def test_a_stopped_scope_raises_its_reason_in_words() -> None:
    stop = Stop()
    stop.request(KILL)
    with pytest.raises(Stopped, match="asked to kill the job: by an operator") as raised:
        stop.check()
    assert raised.value.reason == KILL


def test_a_wait_ends_with_the_stop() -> None:
    stop = Stop()
    thread = threading.Timer(0.05, stop.request, (TERM,))
    thread.start()
    assert stop.wait(10)
    assert stop.wait(None)
    thread.join()


def test_a_wait_without_a_stop_ends_with_its_time() -> None:
    started_s = time.monotonic()
    assert not Stop().wait(0.05)
    assert not Stop().wait(0)
    assert not Stop().wait(-1)
    assert time.monotonic() - started_s >= 0.05


def test_one_of_many_requests_wins_and_everybody_hears_of_it_once() -> None:
    stop = Stop()
    heard: list[StopReason] = []
    stop.follow(heard.append)
    barrier = threading.Barrier(8)

    def ask(number: int) -> None:
        barrier.wait()
        won[number] = stop.request(StopReason(StopKind.INTERNAL, str(number)))

    won = [False] * 8
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won.count(True) == 1
    assert heard == [stop.reason] == [StopReason(StopKind.INTERNAL, str(won.index(True)))]


def test_a_child_stops_with_its_parent_and_not_the_other_way_round() -> None:
    parent = Stop()
    with parent.child() as first, parent.child() as second:
        first.request(KILL)
        assert not parent.is_set() and not second.is_set()
        parent.request(TERM)
        assert (first.reason, second.reason) == (KILL, TERM)


def test_a_child_of_a_stopped_parent_is_stopped_from_the_start() -> None:
    parent = Stop()
    parent.request(TERM)
    with parent.child() as child:
        assert child.reason == TERM


def test_a_child_that_has_ended_is_forgotten() -> None:
    parent = Stop()
    with parent.child() as child:
        pass
    with parent.grace(0.0) as late:
        pass
    parent.request(TERM)
    assert child.reason is None and late.reason is None


def test_the_grace_scope_stops_later_with_the_same_reason(eventually: Callable[..., None]) -> None:
    stop = Stop()
    with stop.grace(0.1) as late:
        stop.request(KILL)
        assert not late.is_set()
        assert late.wait(10)
        assert late.reason == KILL
        assert time.monotonic() - (stop.stopped_at_s or 0) >= 0.1


def test_grace_counts_from_the_stop_and_not_from_its_own_start() -> None:
    stop = Stop()
    stop.request(TERM)
    time.sleep(1.0)
    with stop.grace(1.0) as late:
        assert late.wait(0.9)


def test_a_grace_scope_that_is_left_early_leaves_no_timer() -> None:
    stop = Stop()
    with stop.grace(3600):
        stop.request(TERM)
    # nothing_is_left_behind looks for the thread


def test_a_follower_that_left_is_not_called() -> None:
    stop = Stop()
    heard: list[StopReason] = []
    stop.follow(heard.append)
    stop.unfollow(heard.append)
    stop.unfollow(heard.append)
    stop.request(TERM)
    assert heard == []


def test_a_follower_of_a_stopped_scope_is_called_at_once() -> None:
    stop = Stop()
    stop.request(TERM)
    heard: list[StopReason] = []
    stop.follow(heard.append)
    assert heard == [TERM]


def test_a_follower_may_look_at_the_scope_it_follows() -> None:
    stop = Stop()
    seen: list[bool] = []
    stop.follow(lambda _reason: seen.append(stop.is_set() and stop.wait(0) and not stop.request(KILL)))
    stop.request(TERM)
    assert seen == [True]


def test_a_deadline_counts_down_to_zero() -> None:
    assert Deadline(60).left_s() > 59 and not Deadline(60).passed()
    assert Deadline(0).passed() and Deadline(-5).left_s() == 0


def test_a_follower_that_fails_keeps_the_stop_from_nobody() -> None:
    def fail(_reason: StopReason) -> None:
        raise RuntimeError("can't start new thread")

    stop = Stop()
    stop.follow(fail)
    with stop.child() as child:
        assert stop.request(StopReason(StopKind.SIGTERM))
        assert child.is_set()


def test_without_a_thread_for_it_there_is_no_grace_rather_than_one_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stop = Stop()
    with stop.grace(3600.0) as late:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        stop.request(StopReason(StopKind.SIGTERM))
        assert late.is_set()
