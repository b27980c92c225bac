"""What the final report says of a job."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pilot.job.account import Account, final_fields, proven
from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, FileSpec, Job, MalformedJob, Resources
from pilot.job.outcome import Outcome, PayloadFacts, failed, judge
from pilot.job.report import DIAG_MAX_CHARS, FileReport, StageTimes, Usage
from pilot.job.states import JobState

ATTEMPT = Attempt(4711, 2)
JOB = Job(ATTEMPT, 9, "isr", "trf", "", "managed", Resources(core_count=4), log=FileSpec("log.tgz"))
LOG = FileReport("log.tgz", "guid", 11, "0a0b0c0d", "gs://bucket/log.tgz")
FINISHED = judge(PayloadFacts(exit_code=0))


def test_a_finished_job_reports_its_use_its_times_and_its_files() -> None:
    output = FileReport("out", "g", 5, "01020304", "gs://o", took_s=3.0)
    account = Account(
        ATTEMPT,
        JOB,
        usage=Usage(cpu_s=7.4, max_pss_bytes=3 << 20, pss_is_rss=True),
        times=StageTimes(acquire_s=1, stage_in_s=2, payload_s=60, stage_out_s=3, log_s=1),
        isolation="A:apptainer",
        outputs=(output,),
    )
    fields = final_fields(account, FINISHED, LOG)
    assert (fields["core_count"], fields["cpu_consumption_time"], fields["max_pss"]) == (4, 7, 3072)
    assert fields["pilot_timing"] == "1|2|60|4|0|0" and fields["trans_exit_code"] == 0
    assert fields["job_metrics"] == "isolation=A:apptainer pssIsRss=1"
    assert json.loads(str(fields["job_output_report"])) == {
        "log.tgz": {"guid": "guid", "fsize": 11, "adler32": "0a0b0c0d", "surl": "gs://bucket/log.tgz"},
        "out": {"guid": "g", "fsize": 5, "adler32": "01020304", "surl": "gs://o"},
    }
    assert not {"pilot_error_code", "exe_error_code"} & set(fields)


def test_a_failed_job_reports_its_codes_and_a_long_diagnosis_is_cut() -> None:
    outcome = replace(judge(PayloadFacts(exit_code=3, first_error="E: no")), exe_error_diag="x" * 2000)
    fields = final_fields(Account(ATTEMPT, JOB), outcome, None)
    assert (fields["trans_exit_code"], fields["exe_error_code"], fields["pilot_error_code"]) == (3, 3, 1305)
    assert len(str(fields["exe_error_diag"])) == DIAG_MAX_CHARS and "job_output_report" not in fields


def test_a_malformed_job_reports_what_is_wrong_and_no_cores() -> None:
    wrong = Diagnosis(PilotError.SETUP_FAILURE, "no command")
    fields = final_fields(Account(ATTEMPT, MalformedJob(ATTEMPT, wrong)), failed(wrong), None)
    assert fields["pilot_error_code"] == 1110 and "core_count" not in fields and "trans_exit_code" not in fields


def test_a_log_that_lies_nowhere_in_public_is_told_as_such() -> None:
    fields = final_fields(Account(ATTEMPT, JOB), FINISHED, replace(LOG, surl=None))
    assert fields["job_metrics"] == "logStored=0"


@pytest.mark.parametrize(
    ("outcome", "job", "log", "state"),
    [
        (FINISHED, JOB, LOG, JobState.FINISHED),
        (FINISHED, JOB, replace(LOG, surl=None), JobState.FINISHED),
        (FINISHED, JOB, None, JobState.FAILED),
        (FINISHED, replace(JOB, log=None), None, JobState.FINISHED),
        (failed(Diagnosis(PilotError.INTERNAL)), JOB, None, JobState.FAILED),
    ],
)
def test_a_finished_job_needs_its_bundle(outcome: Outcome, job: Job, log: FileReport | None, state: JobState) -> None:
    last = proven(outcome, job, log, "the disk is full")
    assert last.state is state
    assert last is outcome or str(last.pilot_error).endswith("the disk is full")
