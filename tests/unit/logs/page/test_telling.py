from __future__ import annotations

from dataclasses import replace

import pytest

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, MalformedJob
from pilot.job.outcome import PayloadFacts, failed, judge
from pilot.job.report import StageTimes, Usage
from pilot.logs.page.story import StageSpan, TransferStory
from pilot.logs.page.telling import TAIL_LINES, Known, log_story, tell
from tests.unit.logs.page.stories import COMMAND, JOB, OUTPUTS, known, series

FINE = PayloadFacts(exit_code=0)


def test_stages_follow_each_other_where_nobody_noted_when_they_began() -> None:
    times = StageTimes(
        acquire_s=1.0, setup_s=2.0, stage_in_s=3.0, payload_s=10.0, stage_out_s=4.0, log_s=0.5, report_s=0.25
    )
    story = tell(replace(known(10.0, (), FINE), times=times, begins_s={}))
    assert story.stages == (
        StageSpan("acquire", -1.0, 0.0),
        StageSpan("stage-in", 0.0, 3.0),
        StageSpan("setup", 3.0, 5.0),
        StageSpan("payload", 5.0, 15.0),
        StageSpan("stage-out", 15.0, 19.0),
        StageSpan("logs", 19.0, 19.5),
        StageSpan("report", 19.5, 19.75),
    )
    assert story.payload_began_s == 5.0


def test_a_noted_beginning_holds_and_a_stage_without_an_end_is_not_over() -> None:
    times = StageTimes(stage_in_s=3.0, payload_s=10.0)
    story = tell(
        replace(known(10.0, (), FINE), times=times, begins_s={"stage_in_s": 0.5, "payload_s": 7.0, "log_s": 18.0})
    )
    assert story.stages == (
        StageSpan("stage-in", 0.5, 3.5),
        StageSpan("payload", 7.0, 17.0),
        StageSpan("logs", 18.0, None),
    )


@pytest.mark.parametrize(
    ("times", "guilty"),
    [
        (StageTimes(stage_in_s=1.0), "stage-in"),
        (StageTimes(stage_in_s=1.0, setup_s=1.0), "setup"),
        (StageTimes(stage_in_s=1.0, setup_s=1.0, payload_s=1.0, log_s=1.0), "payload"),
        (StageTimes(setup_s=1.0, payload_s=1.0, stage_out_s=1.0, log_s=1.0), "stage-out"),
    ],
)
def test_of_a_failed_job_the_last_stage_that_can_fail_has_failed(times: StageTimes, guilty: str) -> None:
    outcome = failed(Diagnosis(PilotError.INTERNAL))
    story = tell(replace(known(1.0, (), FINE), outcome=outcome, times=times, begins_s={}))
    assert [stage.name for stage in story.stages if stage.failed] == [guilty]


def test_an_output_is_told_as_it_was_stored_and_a_missing_one_with_the_reason() -> None:
    outcome = failed(Diagnosis(PilotError.STAGE_OUT_FAILED, "src_1228_94.fits: the store answered 503"))
    told = replace(known(9.0, (), FINE), outcome=outcome, outputs=OUTPUTS[:1])
    story = tell(replace(told, times=replace(told.times, stage_out_s=2.0), took_s={"calexp_1228_94.fits": 2.0}))
    stored, missing = story.transfers[2:]
    assert (stored.size_bytes, stored.took_s, stored.checksum) == (301 << 20, 2.0, "adler32:11223344")
    assert missing.problem == "src_1228_94.fits: the store answered 503"


def test_an_output_that_may_be_missing_is_no_problem() -> None:
    job = replace(JOB, allow_no_output=frozenset({"src_1228_94.fits"}))
    story = tell(replace(known(9.0, (), FINE), job=job, outputs=OUTPUTS[:1]))
    assert [moved.name for moved in story.transfers[2:]] == ["calexp_1228_94.fits"]


def test_the_input_that_failed_carries_the_reason_and_its_neighbour_none() -> None:
    outcome = failed(Diagnosis(PilotError.MISSING_INPUT_FILE, "calib_flat_i_94.fits: not found"))
    story = tell(replace(known(0.0, (), FINE), outcome=outcome, times=StageTimes(stage_in_s=1.0)))
    problems = {moved.name: moved.problem for moved in story.transfers}
    assert problems["calib_flat_i_94.fits"] == "calib_flat_i_94.fits: not found"
    assert problems["raw_MiniCam_1228_94.fits"] == "not fetched when the job ended"


def test_the_command_is_shown_in_clear() -> None:
    assert tell(known(1.0, (), FINE)).command == COMMAND
    broken = replace(JOB, parameters="%%%")
    assert tell(replace(known(1.0, (), FINE), job=broken)).command == "bash-c-enc %%%"
    script = replace(JOB, transformation="run.sh", parameters="--go")
    assert tell(replace(known(1.0, (), FINE), job=script)).command == "run.sh --go"


def test_a_job_that_never_had_a_payload_tells_no_use_and_a_malformed_one_no_limits() -> None:
    wrong = Diagnosis(PilotError.SETUP_FAILURE, "no command")
    story = tell(
        Known(Attempt(1, 1), 0.0, job=MalformedJob(Attempt(1, 1), wrong), outcome=failed(wrong), usage=Usage())
    )
    assert story.usage is None and story.stages == () and story.limits.stdout_bytes is None and story.transfers == ()


def test_the_payloads_words_are_passed_on() -> None:
    facts = PayloadFacts(exit_code=1, first_error="E: no")
    told = replace(
        known(1.0, series(5, 1e9), facts),
        first_error="E: no",
        traceback="Traceback\n  x\n\n",
        error_in="payload-log.json",
    )
    story = tell(told)
    assert story.error is not None and story.error.traceback == "Traceback\n  x" and story.outcome == judge(facts)


def test_a_log_is_told_with_its_last_lines_only() -> None:
    tail = b"".join(b"%d\n" % number for number in range(1000))
    log = log_story("payload.stdout", 1 << 30, tail)
    assert len(log.lines) == TAIL_LINES and log.lines[-1] == "999" and log.size_bytes == 1 << 30


def test_thousands_of_files_do_not_make_the_page_endless() -> None:
    job = replace(JOB, inputs=tuple(replace(JOB.inputs[0], lfn=f"f{n}") for n in range(5000)))
    assert len(tell(replace(known(1.0, (), FINE), job=job)).transfers) <= 200
    assert all(isinstance(moved, TransferStory) for moved in tell(known(1.0, (), FINE)).transfers)
