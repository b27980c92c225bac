"""How a payload ended -> what is reported. Each line of the table in outcome.py, and nothing relabelled."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.outcome import (
    Outcome,
    PayloadFacts,
    StopCause,
    container_error,
    failed,
    judge,
    outcome_from_record,
    outcome_record,
    with_error,
)
from pilot.job.states import JobState

BREACH = Diagnosis(PilotError.PAYLOAD_EXCEEDED_MAX_MEM, "4000 MB used, 3600 MB allowed")


def code_of(outcome: Outcome) -> int | None:
    return outcome.pilot_error.code if outcome.pilot_error else None


def test_exit_code_zero_is_a_success_without_any_error() -> None:
    assert judge(PayloadFacts(exit_code=0)) == Outcome(JobState.FINISHED, trans_exit_code=0)


def test_no_work_is_a_success_with_a_note() -> None:
    outcome = judge(PayloadFacts(exit_code=0, no_work=True))
    assert outcome.state is JobState.FINISHED
    assert outcome.notes == {"noWork": "1"}


@pytest.mark.parametrize("exit_code", [1, 2, 3, 20, 21, 64, 127, 128, 193, 251, 255])
def test_an_exit_code_is_reported_as_it_is(exit_code: int) -> None:
    outcome = judge(PayloadFacts(exit_code=exit_code, first_error="LookupError: no such node"))
    assert outcome.state is JobState.FAILED
    assert code_of(outcome) == 1305
    assert outcome.trans_exit_code == outcome.exe_error_code == exit_code
    assert outcome.exe_error_diag == f"exit code {exit_code}: LookupError: no such node"
    assert "LookupError: no such node" in str(outcome.pilot_error)


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [
        (11, 1328, "SIGSEGV"),
        (9, 1200, "SIGKILL"),
        (15, 1201, "SIGTERM"),
        (7, 1206, "SIGBUS"),
        (24, 1204, "SIGXCPU"),
        (6, 1305, "SIGABRT"),
    ],
)
def test_death_by_a_signal_has_its_own_code_and_name(number: int, code: int, name: str) -> None:
    seen, by_shell = judge(PayloadFacts(signal=number)), judge(PayloadFacts(exit_code=128 + number))
    assert code_of(seen) == code_of(by_shell) == code
    assert seen.trans_exit_code == by_shell.trans_exit_code == 128 + number
    assert name in seen.exe_error_diag
    assert name in by_shell.exe_error_diag


def test_the_kernels_memory_guard_is_named_whatever_the_exit_code() -> None:
    for facts in (PayloadFacts(signal=9, oom_kills=1), PayloadFacts(exit_code=1, oom_kills=2, first_error="X: killed")):
        outcome = judge(facts)
        assert code_of(outcome) == 1212
        assert outcome.notes["oomKills"] == str(facts.oom_kills)


def test_a_success_in_spite_of_the_memory_guard_stays_one_and_says_so() -> None:
    outcome = judge(PayloadFacts(exit_code=0, oom_kills=1))
    assert outcome.state is JobState.FINISHED
    assert outcome.notes == {"oomKills": "1"}


def test_bad_alloc_in_the_first_error_has_its_own_code() -> None:
    assert code_of(judge(PayloadFacts(exit_code=1, first_error="std::bad_alloc"))) == 1223


def test_an_exceeded_limit_wins_over_everything_else() -> None:
    outcome = judge(PayloadFacts(signal=9, breach=BREACH, stop=StopCause.INTERNAL))
    assert outcome.pilot_error == BREACH
    assert outcome.exe_error_code == 137


def test_the_counter_decides_who_ended_a_payload_for_memory() -> None:
    outcome = judge(PayloadFacts(signal=9, breach=BREACH, oom_kills=1))
    assert code_of(outcome) == 1212
    assert BREACH.detail in str(outcome.pilot_error)
    disk = Diagnosis(PilotError.WORKDIR_TOO_LARGE, "20 MB in the work folder")
    assert judge(PayloadFacts(signal=9, breach=disk, oom_kills=1)).pilot_error == disk


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (StopCause.SERVER_KILL, 1144),
        (StopCause.SIGTERM, 1201),
        (StopCause.PREEMPTED, 1379),
        (StopCause.SIGINT, 1208),
        (StopCause.LIFETIME, 1213),
        (StopCause.SERVER_LOST, 1318),
        (StopCause.INTERNAL, 1319),
    ],
)
def test_who_stopped_a_payload_is_told_by_the_code(cause: StopCause, code: int) -> None:
    assert code_of(judge(PayloadFacts(signal=15, stop=cause, stop_detail="why"))) == code


@pytest.mark.parametrize("cause", StopCause)
def test_a_stopped_payload_never_finished_even_if_it_says_so(cause: StopCause) -> None:
    assert judge(PayloadFacts(exit_code=0, stop=cause)).state is JobState.FAILED


def test_a_container_failure_is_not_blamed_on_the_payload() -> None:
    outcome = judge(PayloadFacts(container_message="while opening bind mount /x: no such file"))
    assert code_of(outcome) == 1308
    assert outcome.trans_exit_code is outcome.exe_error_code is None


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "Failed to create user namespace: not allowed to create user namespace",
            PilotError.CONTAINER_USER_NAMESPACE,
        ),
        ("container creation failed: mount source /nowhere doesn't exist", PilotError.CONTAINER_BIND_FAILURE),
        ("could not open image /x.sif: no such file or directory", PilotError.IMAGE_NOT_FOUND),
        ("while mounting image: squashfuse_ll exited: no FUSE", PilotError.CONTAINER_IMAGE_MOUNT_FAILURE),
        ("something new", PilotError.CONTAINER_GENERAL_FAILURE),
    ],
)
def test_the_container_runtimes_words_choose_the_code(words: str, error: PilotError) -> None:
    assert container_error(words) is error


def test_a_payload_that_never_started_failed_in_its_setup() -> None:
    assert code_of(judge(PayloadFacts())) == 1110


def test_the_first_cause_stays_the_diagnosis() -> None:
    late = Diagnosis(PilotError.STAGE_OUT_FAILED, "no such bucket")
    assert code_of(with_error(judge(PayloadFacts(exit_code=3)), late)) == 1305
    turned = with_error(judge(PayloadFacts(exit_code=0)), late)
    assert (turned.state, code_of(turned), turned.trans_exit_code) == (JobState.FAILED, 1137, 0)


facts_of_any_kind = st.builds(
    PayloadFacts,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    oom_kills=st.integers(0, 3),
    stop=st.none() | st.sampled_from(StopCause),
    breach=st.none() | st.just(BREACH),
    container_message=st.none() | st.text(max_size=50),
    first_error=st.none() | st.text(max_size=600),
    no_work=st.booleans(),
)


@given(facts_of_any_kind)
def test_an_outcome_is_finished_or_has_a_diagnosis_never_both(facts: PayloadFacts) -> None:
    outcome = judge(facts)
    assert (outcome.state is JobState.FINISHED) == (outcome.pilot_error is None)
    assert len(str(outcome.pilot_error)) <= 500


@given(facts_of_any_kind)
def test_an_outcome_survives_the_journal(facts: PayloadFacts) -> None:
    outcome = judge(facts)
    assert outcome_from_record(outcome_record(outcome)) == outcome


def test_a_stage_that_fails_before_the_payload_gives_no_exit_codes() -> None:
    outcome = failed(Diagnosis(PilotError.STAGE_IN_FAILED, "x"))
    assert (outcome.state, outcome.trans_exit_code, outcome.exe_error_code) == (JobState.FAILED, None, None)


@dataclass(frozen=True)
class Case:
    """A way a payload can end, and what is to be told of it."""

    what: str
    facts: PayloadFacts
    state: JobState
    code: int | None
    trans: int | None
    sentence: str = ""


FAILED, FINISHED = JobState.FAILED, JobState.FINISHED
MB_LIMIT = Diagnosis(
    PilotError.PAYLOAD_EXCEEDED_MAX_MEM,
    "the payload uses 3712 MB (PSS), 3600 MB allowed (maxrss 1800 MB of queue DOMA_LSST_DEV x 2)",
)
ALGORITHM = "AlgorithmError: no stars in this visit"
TABLE = (
    Case("success", PayloadFacts(exit_code=0), FINISHED, None, 0),
    Case("no work found", PayloadFacts(exit_code=0, no_work=True), FINISHED, None, 0),
    Case(
        "an exception in a task",
        PayloadFacts(exit_code=1, first_error="ValueError: no such detector"),
        FAILED,
        1305,
        1,
        "Failed to execute payload: exit code 1: ValueError: no such detector",
    ),
    Case(
        "a wrong option",
        PayloadFacts(exit_code=2, first_error="Error: No such option: --nonsense"),
        FAILED,
        1305,
        2,
        "Failed to execute payload: exit code 2: Error: No such option: --nonsense",
    ),
    Case("a code of its own", PayloadFacts(exit_code=3), FAILED, 1305, 3, "Failed to execute payload: exit code 3"),
    Case(
        "a repeatable error of the algorithm",
        PayloadFacts(exit_code=20, first_error=ALGORITHM),
        FAILED,
        1305,
        20,
        f"Failed to execute payload: exit code 20: {ALGORITHM}",
    ),
    Case(
        "255 is no signal", PayloadFacts(exit_code=255), FAILED, 1305, 255, "Failed to execute payload: exit code 255"
    ),
    Case(
        "a segmentation fault",
        PayloadFacts(signal=11),
        FAILED,
        1328,
        139,
        "SIGSEGV: Invalid memory reference or a segmentation fault: killed by SIGSEGV",
    ),
    Case(
        "a segmentation fault below a shell",
        PayloadFacts(exit_code=139),
        FAILED,
        1328,
        139,
        "SIGSEGV: Invalid memory reference or a segmentation fault: exit code 139 (SIGSEGV)",
    ),
    Case(
        "it kills itself",
        PayloadFacts(exit_code=137),
        FAILED,
        1200,
        137,
        "Job terminated by unknown kill signal: exit code 137 (SIGKILL)",
    ),
    Case(
        "the same code, and the kernel had struck",
        PayloadFacts(exit_code=137, oom_kills=1),
        FAILED,
        1212,
        137,
        "Payload ran out of memory: the kernel killed 1 of its processes",
    ),
    Case(
        "it asks itself to end",
        PayloadFacts(exit_code=143),
        FAILED,
        1201,
        143,
        "Job killed by signal: SIGTERM: exit code 143 (SIGTERM)",
    ),
    Case(
        "an abort has no code of its own",
        PayloadFacts(exit_code=134),
        FAILED,
        1305,
        134,
        "Failed to execute payload: exit code 134 (SIGABRT)",
    ),
    Case(
        "a MemoryError of its own",
        PayloadFacts(exit_code=1, first_error="MemoryError: unable to allocate 1 TiB"),
        FAILED,
        1223,
        1,
        "Transform failed due to bad_alloc: MemoryError: unable to allocate 1 TiB",
    ),
    Case(
        "bad_alloc",
        PayloadFacts(exit_code=1, first_error="terminate called: std::bad_alloc"),
        FAILED,
        1223,
        1,
        "Transform failed due to bad_alloc: terminate called: std::bad_alloc",
    ),
    Case(
        "stopped at its memory limit",
        PayloadFacts(signal=9, breach=MB_LIMIT),
        FAILED,
        1235,
        137,
        f"Payload exceeded maximum allowed memory: {MB_LIMIT.detail}",
    ),
    Case(
        "it says 0 when it is stopped at a limit",
        PayloadFacts(exit_code=0, breach=MB_LIMIT),
        FAILED,
        1235,
        0,
        f"Payload exceeded maximum allowed memory: {MB_LIMIT.detail}",
    ),
    Case(
        "the server kills it",
        PayloadFacts(exit_code=143, stop=StopCause.SERVER_KILL),
        FAILED,
        1144,
        143,
        "This job was killed by panda server",
    ),
    Case(
        "the node is taken away",
        PayloadFacts(signal=15, stop=StopCause.PREEMPTED),
        FAILED,
        1379,
        143,
        "Job was preempted",
    ),
    Case(
        "the container does not start",
        PayloadFacts(container_message="mount source /nowhere doesn't exist"),
        FAILED,
        1308,
        None,
        "Singularity/Apptainer: Not mounting requested bind point: mount source /nowhere doesn't exist",
    ),
    Case(
        "255 of a payload is not 255 of a container that does not start",
        PayloadFacts(exit_code=255, first_error="sorry"),
        FAILED,
        1305,
        255,
        "Failed to execute payload: exit code 255: sorry",
    ),
)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.what)
def test_every_ending_has_its_state_code_and_sentence(case: Case) -> None:
    outcome = judge(case.facts)
    assert (outcome.state, code_of(outcome), outcome.trans_exit_code) == (case.state, case.code, case.trans)
    assert str(outcome.pilot_error or "") == case.sentence


def test_exit_zero_with_a_missing_output_is_a_failure_that_keeps_the_payloads_own_zero() -> None:
    missing = Diagnosis(PilotError.MISSING_OUTPUT_FILE, "out.fits")
    outcome = with_error(judge(PayloadFacts(exit_code=0)), missing)
    assert (outcome.state, code_of(outcome), outcome.trans_exit_code) == (FAILED, 1165, 0)
    assert str(outcome.pilot_error) == "Local output file is missing: out.fits"
