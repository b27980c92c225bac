from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from pilot.heartbeat import Heartbeat
from pilot.job.model import ApiGeneration
from pilot.job.states import JobState
from pilot.ports import ServerRefused, ServerUnreachable, UpdateAnswer
from pilot.runtime.loops import Helpers
from pilot.runtime.stop import Stop
from tests.unit.parts import Books


class Pulse:
    """A heartbeat with a server that keeps books."""

    def __init__(self, helpers: Helpers) -> None:
        self.helpers = helpers
        self.server = Books()
        self.obeyed: list[UpdateAnswer] = []
        self.wanted: Callable[[UpdateAnswer], bool] = lambda _answer: False
        self.silences_s: list[float] = []

    def start(self, interval_s: float, silence_s: float = 3600.0) -> Heartbeat:
        heartbeat = Heartbeat(
            self.server,
            ApiGeneration.V1,
            lambda state: {"job_id": 1, "job_status": state.value},
            self._obey,
            lambda: interval_s,
            silence_s,
            self.silences_s.append,
        )
        self.helpers.start("heartbeat", heartbeat.beat)
        return heartbeat

    def _obey(self, answer: UpdateAnswer) -> bool:
        self.obeyed.append(answer)
        return self.wanted(answer)


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    with Helpers(Stop()) as helpers:
        yield Pulse(helpers)


def test_a_state_that_changes_goes_out_at_once(pulse: Pulse, eventually: Callable[..., None]) -> None:
    heartbeat = pulse.start(interval_s=3600)
    heartbeat.announce(JobState.RUNNING)
    eventually(lambda: pulse.server.states == ["running"])
    heartbeat.announce(JobState.STARTING)
    heartbeat.announce(JobState.TRANSFERRING)
    eventually(lambda: pulse.server.states == ["running", "transferring"])


def test_without_news_it_beats_at_its_interval(pulse: Pulse, eventually: Callable[..., None]) -> None:
    pulse.start(interval_s=0.02)
    eventually(lambda: len(pulse.server.updates) >= 3)
    assert pulse.server.states == ["starting"]


def test_nothing_is_said_before_there_is_something_to_say(pulse: Pulse) -> None:
    pulse.start(interval_s=3600)
    time.sleep(0.05)
    assert pulse.server.updates == []


def test_every_answer_is_obeyed(pulse: Pulse, eventually: Callable[..., None]) -> None:
    pulse.server.commands["running"] = "tobekilled"
    pulse.start(interval_s=3600).announce(JobState.RUNNING)
    eventually(lambda: bool(pulse.obeyed))
    assert pulse.obeyed[0].kill


def test_what_an_answer_asks_for_is_told_at_once(pulse: Pulse, eventually: Callable[..., None]) -> None:
    pulse.wanted = lambda _answer: len(pulse.obeyed) == 1
    pulse.start(interval_s=3600).announce(JobState.RUNNING)
    eventually(lambda: len(pulse.server.updates) == 2)


@pytest.mark.timeout(20)  # a heartbeat that did not end would run for ever
def test_a_server_that_asks_with_every_answer_is_answered_without_haste(
    pulse: Pulse, eventually: Callable[..., None]
) -> None:
    pulse.wanted = lambda _answer: True
    pulse.start(interval_s=3600).announce(JobState.RUNNING)
    eventually(lambda: len(pulse.server.updates) >= 2)
    time.sleep(0.1)
    assert len(pulse.server.updates) <= 4


@pytest.mark.parametrize("trouble", [ServerUnreachable("down"), ServerRefused("bug")])
def test_a_beat_that_fails_is_followed_by_the_next(
    pulse: Pulse, eventually: Callable[..., None], trouble: Exception
) -> None:
    pulse.server.trouble["starting"] = [trouble] * 3
    heartbeat = pulse.start(interval_s=0.01)
    eventually(lambda: bool(pulse.server.updates))
    assert heartbeat.silent_for_s < 5 and pulse.silences_s == []


def test_a_silence_that_is_too_long_is_told(pulse: Pulse, eventually: Callable[..., None]) -> None:
    pulse.server.trouble["starting"] = [ServerUnreachable("down")] * 10_000
    pulse.start(interval_s=0.01, silence_s=0.05)
    eventually(lambda: bool(pulse.silences_s))
    assert pulse.silences_s[0] > 0.05


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_it_ends_at_once_when_it_is_stopped() -> None:
    with Helpers(Stop()) as helpers:
        Pulse(helpers).start(interval_s=3600)
    assert helpers.abandoned == []


def test_the_silence_is_counted_from_the_last_update_taken_whoever_sent_it(pulse: Pulse) -> None:
    heartbeat = Heartbeat(
        pulse.server, ApiGeneration.V1, lambda _state: {}, lambda _answer: False, lambda: 60.0, 7200.0, lambda _s: None
    )
    heartbeat._last_heard_s -= 600.0  # as when `starting` was accepted only after ten minutes
    heartbeat.heard()
    assert heartbeat.silent_for_s < 60
