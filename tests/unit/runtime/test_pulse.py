"""The conductor's pulse: its waits are signs of life, those of other threads are not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from pilot.runtime import pulse
from pilot.runtime.loops import run_stage
from pilot.runtime.pulse import beat, join, piece_s, pulse_of_this_thread, wait_for
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason

DONE = StopReason(StopKind.PAYLOAD_DONE)


class Heart:
    """Counts beats, and whom they came from."""

    def __init__(self) -> None:
        self.beats = 0
        self.threads: set[str] = set()
        self.third = threading.Event()

    def __call__(self) -> None:
        self.beats += 1
        self.threads.add(threading.current_thread().name)
        if self.beats >= 3:
            self.third.set()


@pytest.fixture
def heart() -> Iterator[Heart]:
    """Of the test's own thread, beating every few milliseconds."""
    heart = Heart()
    with pulse_of_this_thread(heart, every_s=0.005):
        yield heart


def test_it_beats_at_once_and_ends_with_its_block() -> None:
    heart = Heart()
    with pulse_of_this_thread(heart, every_s=1000):
        assert heart.beats == 1
        beat()
        assert heart.beats == 1  # none is due
    beat()
    assert heart.beats == 1
    assert piece_s(5.0) == 5.0 and piece_s(None) is None


def test_a_wait_on_a_stop_beats_until_the_stop(heart: Heart) -> None:
    stop = Stop()
    heart.third.clear()
    ending = threading.Thread(target=lambda: heart.third.wait(10) and stop.request(DONE))
    ending.start()
    assert stop.wait(None)
    ending.join()
    assert heart.beats >= 3


def test_a_stage_that_is_stuck_does_not_stop_the_heart(heart: Heart) -> None:
    assert run_stage("stuck", lambda: heart.third.wait(10), Stop())
    assert heart.threads == {threading.current_thread().name}


def test_a_wait_for_an_event_beats_and_keeps_its_time(heart: Heart) -> None:
    assert wait_for(heart.third)  # set by the beats of this very wait
    assert not wait_for(threading.Event(), 0.02)
    assert not wait_for(threading.Event(), 0)
    assert wait_for(heart.third, 0)


def test_joining_a_thread_beats(heart: Heart) -> None:
    thread = threading.Thread(target=lambda: heart.third.wait(10))
    thread.start()
    join(thread, 10)
    assert not thread.is_alive() and heart.beats >= 3
    stuck = threading.Event()
    thread = threading.Thread(target=stuck.wait)
    thread.start()
    join(thread, 0.02)
    assert thread.is_alive()
    stuck.set()
    thread.join()


def test_the_waits_of_another_thread_say_nothing_of_the_conductor() -> None:
    heart = Heart()
    with pulse_of_this_thread(heart, every_s=0.0):
        before = heart.beats

        def wait() -> None:
            for _ in range(20):
                Stop().wait(0.001)
                wait_for(threading.Event(), 0.001)
                beat()

        other = threading.Thread(target=wait)
        other.start()
        other.join()  # the plain one: it does not beat
        assert heart.beats == before


def test_no_lock_of_the_stop_is_held_while_the_heart_beats() -> None:
    stop, asked = Stop(), threading.Event()

    def listener() -> None:
        """Another thread requests the stop, and this beat waits until that is done."""
        if not asked.is_set():
            asked.set()
            requester = threading.Thread(target=stop.request, args=(DONE,))
            requester.start()
            requester.join(5)
            assert not requester.is_alive()

    with pulse_of_this_thread(lambda: None, every_s=0.0):
        worn = pulse._worn
        assert worn is not None
        worn.listeners = (listener,)
        assert stop.wait(10)


class VirtualTime:
    """A clock that stands still but for the waits, which take no time; after ``until_s`` the stop is requested."""

    def __init__(self, stop: Stop, until_s: float) -> None:
        self.now_s = 0.0
        self._stop, self._until_s = stop, until_s
        self._lock = threading.RLock()

    def monotonic_s(self) -> float:
        return self.now_s

    def __enter__(self) -> VirtualTime:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout_s: float | None) -> None:
        assert timeout_s is not None, "the conductor would sleep for ever"
        self.now_s += max(timeout_s, 1e-6)
        if self.now_s >= self._until_s:
            self._stop.request(DONE)

    def notify_all(self) -> None:
        pass


@pytest.mark.parametrize("timeout_s", [None, 86_400.0, 3.0, 61.0])
def test_in_a_day_of_waiting_the_heart_never_stops(monkeypatch: pytest.MonkeyPatch, timeout_s: float | None) -> None:
    """The waits of a pilot: for a payload (no end), for the lifetime, between two tries of a server that is away."""
    day_s, stop = 86_400.0, Stop()
    time = VirtualTime(stop, day_s)
    stop._changed = time  # type: ignore[assignment]
    monkeypatch.setattr("pilot.runtime.stop.monotonic_s", time.monotonic_s)
    monkeypatch.setattr("pilot.runtime.pulse.monotonic_s", time.monotonic_s)
    beats_s: list[float] = []
    with pulse_of_this_thread(lambda: beats_s.append(time.now_s)):
        while not stop.wait(timeout_s):
            assert time.now_s < day_s
    gaps_s = [later - sooner for sooner, later in pairwise(beats_s)]
    assert beats_s[-1] > day_s - 2 * pulse.BEAT_S
    assert max(gaps_s) < pulse.BEAT_S * 1.5


def test_a_stage_may_have_an_end_of_its_own(eventually: Callable[..., None]) -> None:
    stuck = threading.Event()
    with pytest.raises(Stopped, match="upload took longer than 0 s"):
        run_stage("upload", lambda: stuck.wait(30), Stop(), most_s=0.02)
    stuck.set()
    assert run_stage("upload", lambda: 1, Stop(), most_s=10) == 1
