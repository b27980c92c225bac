"""What is noted of a job while it lives, and what is told from the notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, MalformedJob
from pilot.job.outcome import failed
from pilot.job.parse import parse_job
from pilot.job.report import FileReport, Identity, StagedFile, StageTimes
from pilot.job.states import JobState
from pilot.jobnotes import JobNotes
from pilot.outbox import Delivery
from pilot.ports import LogsStored
from pilot.runtime.payload_end import PayloadEnd
from pilot.runtime.progress import board
from tests.unit.parts import definition

IDENTITY = Identity("QUEUE", "node", "1.2.3")
ATTEMPT = Attempt(4711, 2)


@pytest.fixture
def notes() -> JobNotes:
    return JobNotes(ATTEMPT, parse_job(definition()), IDENTITY, "https://logs/4711", StageTimes(acquire_s=0.25))


def test_the_time_of_a_stage_is_noted_although_it_failed(notes: JobNotes) -> None:
    def fails() -> None:
        assert board.job is not None and board.job.stage == "stage_in"
        raise OSError("no")

    with board.job_in_hand(notes.at(Path("/logs"))), pytest.raises(OSError, match="no"):
        notes.timed("stage_in_s", fails)
    assert notes.timed("setup_s", lambda: 7) == 7
    account = notes.account(failed(Diagnosis(PilotError.INTERNAL, "")))
    assert account.times.acquire_s == 0.25 and account.times.stage_in_s > 0
    assert 0 <= account.begins_s["stage_in_s"] <= account.begins_s["setup_s"]


def test_every_update_says_who_where_and_since_when(notes: JobNotes) -> None:
    fields = notes.fields(JobState.RUNNING)
    assert (fields["job_id"], fields["job_status"], fields["pilot_id"]) == (4711, "running", fields["pilot_id"])
    assert "https://logs/4711" in str(fields["pilot_id"])
    assert notes.fields(JobState.FAILED)["start_time"] == fields["start_time"]


def test_files_in_and_out_and_what_happened_are_in_the_account(notes: JobNotes) -> None:
    notes.inputs = (StagedFile("in", 1, 0.5),)
    notes.outputs = (FileReport("out", "guid", 2, "adler", "gs://out", 1.5),)
    notes.happened("the server asked to kill the job")
    account = notes.account(failed(Diagnosis(PilotError.INTERNAL, "")))
    assert account.took_s == {"in": 0.5, "out": 1.5} and account.outputs == notes.outputs
    assert [text for _at_s, text in account.events] == ["the server asked to kill the job"]


@pytest.mark.parametrize(
    ("traceback", "first_error", "found_in"),
    [("Traceback", "boom", "payload-log.json"), ("", "boom", "payload.stderr"), ("", "", "")],
)
def test_where_the_payloads_first_error_was_found_is_told(
    notes: JobNotes, traceback: str, first_error: str, found_in: str
) -> None:
    notes.end = PayloadEnd(1, None, notes.usage, 2.0, "A:apptainer", first_error=first_error, traceback=traceback)
    account = notes.account(failed(Diagnosis(PilotError.INTERNAL, "")))
    assert (account.error_in, account.first_error) == (found_in, first_error)


def test_of_a_job_that_was_not_understood_its_attempt_is_told() -> None:
    outcome = failed(Diagnosis(PilotError.INTERNAL, "not understood"))
    assert outcome.pilot_error is not None
    notes = JobNotes(ATTEMPT, MalformedJob(ATTEMPT, outcome.pilot_error), IDENTITY, "", StageTimes())
    assert notes.job is None and notes.at(Path("/logs")).task_id is None
    record = notes.record(outcome, Delivery.ACKNOWLEDGED, LogsStored(None), ("log-pump",))
    assert (record.task_id, record.abandoned_helpers) == (None, ("log-pump",))
    assert record.summary()["state"] == "failed"
