"""Harvester's worker has started and finished: told for whatever happens in between, and never waited for long."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pilot import worker_status
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.ports import ServerRefused, ServerUnreachable
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.worker_status import worker_told
from tests.unit.parts import Books


def test_a_worker_has_started_and_finished() -> None:
    server = Books()
    with worker_told(server, "h", 7, "Q", "node", Stop()):
        pass
    assert server.worker_states == ["started", "finished"]


def test_a_worker_that_leaves_early_has_finished_too() -> None:
    server = Books()
    with pytest.raises(PilotCannotWork), worker_told(server, "h", 7, "Q", "node", Stop()):
        raise PilotCannotWork(ExitCode.QUEUE_NOT_ONLINE, "offline")
    assert server.worker_states == ["started", "finished"]


@pytest.mark.parametrize(("harvester_id", "worker_id"), [(None, 7), ("h", None), (None, None)])
def test_nothing_is_told_when_an_id_is_missing(harvester_id: str | None, worker_id: int | None) -> None:
    server = Books()
    with worker_told(server, harvester_id, worker_id, "Q", "node", Stop()):
        pass
    assert server.worker_states == []


def test_a_worker_id_of_0_is_an_id() -> None:
    server = Books()
    with worker_told(server, "h", 0, "Q", "node", Stop()):
        pass
    assert server.worker_states == ["started", "finished"]


def test_a_server_that_does_not_take_it_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    server = Books(trouble={"worker": [ServerUnreachable("down"), ServerRefused("bug")]})
    with worker_told(server, "h", 7, "Q", "node", Stop()):
        pass
    assert server.worker_states == []
    assert "worker status started not delivered: down" in caplog.text
    assert "worker status finished not delivered: bug" in caplog.text


class Hanging(Books):
    """A server that answers nothing until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.released = threading.Event(), threading.Event()

    def worker_status(self, harvester_id: str, worker_id: int, status: str, site: str, node: str, stop: Stop) -> None:
        self.asked.set()
        self.released.wait(30)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_server_that_hangs_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stopping: bool, eventually: Callable[..., None]
) -> None:
    """Neither the start nor the end; less than ever when the pilot is told to leave."""
    wrong, right = (30.0, 0.02) if stopping else (0.02, 30.0)
    monkeypatch.setattr(worker_status, "BOUND_S", wrong)
    monkeypatch.setattr(worker_status, "HURRIED_BOUND_S", right if stopping else 30.0)
    server, stop = Hanging(), Stop()
    with worker_told(server, "h", 7, "Q", "node", stop):
        assert server.asked.wait(10)  # and the body goes on all the same
        if stopping:
            stop.request(StopReason(StopKind.SIGTERM))
    assert "worker-status did not end" in caplog.text
    server.released.set()
