"""A final report goes out until it is acknowledged, unchanged, and no longer than it may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import FieldValue
from pilot.outbox import Delivery, deliver_final, send_final, told_before
from pilot.ports import CredentialsRefused, JobStatus, ServerRefused, ServerUnreachable
from pilot.runtime.journal import Event, Journal, read_journal
from pilot.runtime.stop import Stop, StopKind, StopReason
from tests.unit.parts import Books

ATTEMPT = Attempt(4711, 2)
BODY: dict[str, FieldValue] = {"job_id": 4711, "attempt_nr": 2, "job_status": "finished", "job_output_report": "{}"}
DOWN = ServerUnreachable("down")


@pytest.fixture
def server() -> Books:
    return Books()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


def deliver(server: Books, total_s: float = 10.0, stop: Stop | None = None) -> Delivery:
    return deliver_final(server, ATTEMPT, ApiGeneration.V1, BODY, stop or Stop(), total_s)


@pytest.mark.parametrize("command", ["", "alreadydone", "tobekilled"])
def test_every_good_answer_is_an_acknowledgement(server: Books, command: str) -> None:
    server.commands["finished"] = command
    assert deliver(server) is Delivery.ACKNOWLEDGED
    assert server.updates == [BODY]


@pytest.mark.parametrize("status", ["holding", "finished", "failed", "cancelled", "merging"])
def test_a_lost_answer_is_settled_by_the_jobs_status(server: Books, status: str) -> None:
    server.trouble["finished"] = [DOWN]
    server.statuses[4711] = JobStatus(status, 2)
    assert deliver(server) is Delivery.ACKNOWLEDGED
    assert server.updates == []


def test_a_report_that_arrived_is_not_sent_twice(server: Books) -> None:
    server.lost_answers = 1
    assert deliver(server) is Delivery.ACKNOWLEDGED
    assert server.updates == [BODY]


@pytest.mark.parametrize("status", ["running", "starting", "sent"])
def test_a_state_the_pilot_itself_told_proves_nothing(server: Books, status: str) -> None:
    server.trouble["finished"] = [DOWN]
    server.statuses[4711] = JobStatus(status, 2)
    assert deliver(server) is Delivery.ACKNOWLEDGED
    assert server.updates == [BODY]


@pytest.mark.parametrize("status", [JobStatus(None, None), JobStatus("running", 3), JobStatus("holding", 3)])
def test_an_attempt_the_server_knows_no_more_is_abandoned(server: Books, status: JobStatus) -> None:
    server.trouble["finished"] = [DOWN] * 5
    server.statuses[4711] = status
    assert deliver(server) is Delivery.ABANDONED


def test_a_refusal_ends_nothing_a_proxy_may_have_spoken(server: Books) -> None:
    server.trouble["finished"] = [ServerRefused("HTTP 400: Bad Request")]
    assert deliver(server) is Delivery.ACKNOWLEDGED
    assert server.updates == [BODY]


def test_a_report_that_is_refused_for_good_stays_in_the_outbox(server: Books) -> None:
    server.trouble["finished"] = [ServerRefused("Type error")] * 1000
    assert deliver(server, total_s=0.05) is Delivery.UNDELIVERED


def test_a_pod_without_a_thread_to_spare_keeps_the_report(server: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert deliver(server) is Delivery.UNDELIVERED


def test_refused_credentials_are_waited_for(server: Books) -> None:
    server.trouble["finished"] = [CredentialsRefused("expired")]
    assert deliver(server) is Delivery.ACKNOWLEDGED


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_server_out_of_reach_is_tried_for_its_time_and_no_longer(server: Books) -> None:
    server.trouble = {"finished": [DOWN] * 1000, "status": [DOWN] * 1000}
    assert deliver(server, total_s=0.3) is Delivery.UNDELIVERED


def test_under_a_stop_there_is_one_try(server: Books) -> None:
    server.trouble = {"finished": [DOWN] * 1000, "status": [DOWN] * 1000}
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    assert deliver(server, total_s=60, stop=stop) is Delivery.UNDELIVERED
    assert len(server.trouble["finished"]) == 999


def test_the_body_is_journalled_before_it_is_sent_and_the_result_after(server: Books, journal: Journal) -> None:
    seen: list[list[Event]] = []
    server.on_update = lambda fields: seen.append([record.event for record in read_journal(journal.path)])
    send_final(server, journal, ATTEMPT, ApiGeneration.V1, BODY, Stop(), 10)
    assert seen == [[Event.FINAL_PREPARED]]
    records = read_journal(journal.path)
    assert [record.event for record in records] == [Event.FINAL_PREPARED, Event.FINAL_ACKED]
    assert records[0].data == {"attempt": [4711, 2], "api": "v1", "body": BODY}


def test_what_is_not_delivered_stays_in_the_outbox(server: Books, journal: Journal) -> None:
    server.trouble = {"finished": [DOWN] * 1000, "status": [DOWN] * 1000}
    assert send_final(server, journal, ATTEMPT, ApiGeneration.V1, BODY, Stop(), 0.05) is Delivery.UNDELIVERED
    assert [record.event for record in read_journal(journal.path)] == [Event.FINAL_PREPARED]


def test_what_is_abandoned_leaves_the_outbox(server: Books, journal: Journal) -> None:
    server.trouble["finished"] = [DOWN]
    server.statuses[4711] = JobStatus(None, None)
    send_final(server, journal, ATTEMPT, ApiGeneration.V1, BODY, Stop(), 10)
    assert [record.event for record in read_journal(journal.path)][-1] is Event.FINAL_ABANDONED


def test_a_journal_that_cannot_be_written_does_not_hold_the_report_back(server: Books, journal: Journal) -> None:
    journal.close()
    assert send_final(server, journal, ATTEMPT, ApiGeneration.V1, BODY, Stop(), 10) is Delivery.ACKNOWLEDGED
    assert server.updates == [BODY]


# --- what no journal tells of ---------------------------------------------------------------------------------------------


def told(server: Books, total_s: float = 10.0, stop: Stop | None = None) -> Delivery | None:
    return told_before(server, ATTEMPT, ApiGeneration.V1, stop or Stop(), total_s)


@pytest.mark.parametrize("status", ["sent", "starting", "running"])
def test_a_job_that_still_runs_for_the_server_was_not_reported(server: Books, status: str) -> None:
    server.statuses[4711] = JobStatus(status, 2)
    assert told(server) is None


@pytest.mark.parametrize("status", ["holding", "transferring", "merging", "finished", "failed", "cancelled", "closed"])
def test_a_job_that_has_ended_for_the_server_is_not_reported_again(server: Books, status: str) -> None:
    server.statuses[4711] = JobStatus(status, 2)
    assert told(server) is Delivery.ACKNOWLEDGED


@pytest.mark.parametrize("status", [JobStatus(None, None), JobStatus("running", 3)])
def test_an_attempt_that_is_known_no_more_is_not_reported(server: Books, status: JobStatus) -> None:
    server.statuses[4711] = status
    assert told(server) is Delivery.ABANDONED


def test_the_question_is_repeated_until_the_server_answers(server: Books) -> None:
    server.trouble["status"] = [DOWN]
    assert told(server) is None
    assert server.trouble["status"] == []


def test_without_an_answer_nothing_may_be_reported_yet(server: Books) -> None:
    server.trouble["status"] = [DOWN] * 1000
    assert told(server, total_s=0.05) is Delivery.UNDELIVERED
