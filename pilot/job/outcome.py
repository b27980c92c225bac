"""How a job ended: the facts of its payload -> Outcome (state, codes, diagnosis). Pure, total, and nothing relabelled.

The server's retry rules match on the codes. A payload's exit code is reported as it is in ``trans_exit_code`` and
``exe_error_code``; the pilot's own code says what the pilot knows beyond it, in this order:

    a limit was exceeded                1235, 1213, 1104, 1106, 1124, 1150, 1305   (breach); of memory: 1212 when the
                                        kernel was quicker than the pilot
    somebody stopped it                 1144, 1201 or 1379, 1208, 1213, 1318
    the container never started         1306, 1308, 1309, 1345, 1360   (container_message)
    exit code 0                         finished, with a note when there was no work to do
    the kernel ran out of memory        1212
    bad_alloc or MemoryError            1223
    SIGSEGV, other signals              1328, 1200 to 1207
    any other exit code                 1305, with the payload's own first error
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.states import JobState

SIGNAL_EXIT_BASE = 128  # what shells, containers and the payload's own launcher make of death by a signal
HIGHEST_SIGNAL = 64


class StopCause(Enum):
    """Who stopped the payload before it ended by itself."""

    SIGTERM = "the pilot received SIGTERM"
    PREEMPTED = "the pod is being taken away"
    SIGINT = "the pilot received SIGINT"
    LIFETIME = "the pilot's lifetime is over"
    SERVER_KILL = "the PanDA server asked to kill the job"
    SERVER_LOST = "the PanDA server was out of reach for too long"
    INTERNAL = "a part of the pilot failed"


_STOP_ERRORS: Mapping[StopCause, PilotError] = {
    StopCause.SIGTERM: PilotError.SIGTERM,
    StopCause.PREEMPTED: PilotError.PREEMPTION,
    StopCause.SIGINT: PilotError.SIGINT,
    StopCause.LIFETIME: PilotError.REACHED_MAX_TIME,
    StopCause.SERVER_KILL: PilotError.PANDA_KILL,
    StopCause.SERVER_LOST: PilotError.COMMUNICATION_FAILURE,
    StopCause.INTERNAL: PilotError.INTERNAL,
}

_SIGNAL_NAMES: Mapping[int, str] = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    10: "SIGUSR1",
    11: "SIGSEGV",
    13: "SIGPIPE",
    15: "SIGTERM",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    31: "SIGSYS",
}

# Deaths that have a code of their own. Only a death that was seen, or one whose 128+n is never chosen by a program
# itself, is given one; the rest stays 1305 with the number in words.
_SIGNAL_ERRORS: Mapping[int, PilotError] = {
    2: PilotError.SIGINT,
    3: PilotError.SIGQUIT,
    7: PilotError.SIGBUS,
    9: PilotError.KILL_SIGNAL,
    10: PilotError.SIGUSR1,
    11: PilotError.PAYLOAD_SIGSEGV,
    15: PilotError.SIGTERM,
    24: PilotError.SIGXCPU,
}


@dataclass(frozen=True, slots=True)
class PayloadFacts:
    """What is known of an ended payload.

    ``exit_code`` and ``signal`` are the main process's own; at most one is set, neither means it never started.
    ``first_error``: the payload's own words on its first error. ``container_message``: the container runtime's words when
    it, and not the payload, failed.
    """

    exit_code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    stop: StopCause | None = None
    stop_detail: str = ""
    breach: Diagnosis | None = None
    container_message: str | None = None
    first_error: str | None = None
    no_work: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is reported. ``pilot_error`` is None exactly when nothing is wrong. ``notes`` go to the metrics."""

    state: JobState
    trans_exit_code: int | None = None
    pilot_error: Diagnosis | None = None
    exe_error_code: int | None = None
    exe_error_diag: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


def judge(facts: PayloadFacts) -> Outcome:
    """The outcome of a payload, before stage-out: ``finished`` here still has to be proven by stored outputs."""
    code = _shell_code(facts)
    notes = _notes(facts)
    if _succeeded(facts):
        return Outcome(JobState.FINISHED, trans_exit_code=0, notes=notes)
    return Outcome(
        JobState.FAILED,
        trans_exit_code=code,
        pilot_error=_diagnosis(facts, code),
        exe_error_code=code if facts.container_message is None else None,
        exe_error_diag=_exe_diag(facts) if facts.container_message is None else "",
        notes=notes,
    )


def failed(diagnosis: Diagnosis) -> Outcome:
    """The outcome of a job that a stage ended before its payload ran."""
    return Outcome(JobState.FAILED, pilot_error=diagnosis)


def with_error(outcome: Outcome, diagnosis: Diagnosis) -> Outcome:
    """The outcome after a later stage failed too. The first cause stays the diagnosis; the payload's codes stay."""
    if outcome.pilot_error is not None:
        return outcome
    return Outcome(
        JobState.FAILED,
        outcome.trans_exit_code,
        diagnosis,
        outcome.exe_error_code,
        outcome.exe_error_diag,
        outcome.notes,
    )


def outcome_record(outcome: Outcome) -> dict[str, object]:
    """The outcome as a journal holds it."""
    error = outcome.pilot_error
    return {
        "state": outcome.state.value,
        "trans_exit_code": outcome.trans_exit_code,
        "pilot_error": [error.error.code, error.detail] if error else None,
        "exe_error_code": outcome.exe_error_code,
        "exe_error_diag": outcome.exe_error_diag,
        "notes": dict(outcome.notes),
    }


def outcome_from_record(record: Mapping[str, Any]) -> Outcome:
    """The outcome a journal holds; a code this version does not know becomes 1319 with the number in words."""
    error = record["pilot_error"]
    return Outcome(
        JobState(record["state"]),
        record["trans_exit_code"],
        _known_diagnosis(*error) if error else None,
        record["exe_error_code"],
        record["exe_error_diag"],
        record["notes"],
    )


def _known_diagnosis(code: int, detail: str) -> Diagnosis:
    for error in PilotError:
        if error.code == code:
            return Diagnosis(error, detail)
    return Diagnosis(PilotError.INTERNAL, f"code {code}: {detail}")


def container_error(message: str) -> PilotError:
    """The code that names what the container runtime complains about; 1306 when it is none of the known complaints."""
    text = message.lower()
    if "user namespace" in text or ("namespaces" in text and "not allowed" in text):
        return PilotError.CONTAINER_USER_NAMESPACE
    if ("no such file" in text and "image" in text) or "could not open image" in text:
        return PilotError.IMAGE_NOT_FOUND
    if "bind" in text or "mount source" in text:
        return PilotError.CONTAINER_BIND_FAILURE
    if any(word in text for word in ("squashfs", "squashfuse", "image format", "mount image", "loop device", "rootfs")):
        return PilotError.CONTAINER_IMAGE_MOUNT_FAILURE
    return PilotError.CONTAINER_GENERAL_FAILURE


def _succeeded(facts: PayloadFacts) -> bool:
    """Exit 0 of a payload nobody stopped: one that was told to stop may well say 0 with its work half done."""
    return facts.exit_code == 0 and facts.container_message is None and facts.breach is None and facts.stop is None


def _shell_code(facts: PayloadFacts) -> int | None:
    if facts.container_message is not None:
        return None
    return facts.exit_code if facts.signal is None else SIGNAL_EXIT_BASE + facts.signal


def _notes(facts: PayloadFacts) -> dict[str, str]:
    notes = {"noWork": "1"} if facts.no_work else {}
    if facts.oom_kills:
        notes["oomKills"] = str(facts.oom_kills)
    return notes


def _diagnosis(facts: PayloadFacts, code: int | None) -> Diagnosis:
    if facts.breach is not None:
        return _out_of_memory(facts, facts.breach)
    if facts.stop is not None:
        return Diagnosis(_STOP_ERRORS[facts.stop], facts.stop_detail)
    if facts.container_message is not None:
        return Diagnosis(container_error(facts.container_message), facts.container_message)
    if code is None:
        return Diagnosis(PilotError.SETUP_FAILURE, "the payload was never started")
    if facts.oom_kills:  # whatever the payload made of it: shells and launchers turn such a death into any exit code
        return Diagnosis(PilotError.PAYLOAD_OUT_OF_MEMORY, f"the kernel killed {facts.oom_kills} of its processes")
    if facts.first_error and _is_failed_allocation(facts.first_error):
        return Diagnosis(PilotError.BAD_ALLOC, facts.first_error)
    return _by_code(facts, code)


def _out_of_memory(facts: PayloadFacts, breach: Diagnosis) -> Diagnosis:
    """The breach; of memory, the control group's counter tells whether the pilot (1235) or the kernel (1212) ended it."""
    if breach.error is not PilotError.PAYLOAD_EXCEEDED_MAX_MEM or not facts.oom_kills:
        return breach
    text = f"the kernel killed {facts.oom_kills} of its processes before the pilot could stop it: {breach.detail}"
    return Diagnosis(PilotError.PAYLOAD_OUT_OF_MEMORY, text)


def _is_failed_allocation(words: str) -> bool:
    """C++'s bad_alloc, and what Python and numpy call the same."""
    name = words.partition(":")[0].rpartition(".")[2].strip()
    return "bad_alloc" in words or name in ("MemoryError", "_ArrayMemoryError")


def _by_code(facts: PayloadFacts, code: int) -> Diagnosis:
    number = _signal(code)
    if number is None or number not in _SIGNAL_ERRORS:
        return Diagnosis(PilotError.PAYLOAD_EXECUTION_FAILURE, _exe_diag(facts))
    return Diagnosis(_SIGNAL_ERRORS[number], _exe_diag(facts))


def _signal(code: int) -> int | None:
    """The signal a shell's exit code tells of, or None. 255 and its like are exit codes, not signals."""
    number = code - SIGNAL_EXIT_BASE
    return number if 0 < number <= HIGHEST_SIGNAL else None


def _exe_diag(facts: PayloadFacts) -> str:
    """What the payload said, and how it ended: for people."""
    number = facts.signal or (_signal(facts.exit_code) if facts.exit_code is not None else None)
    ending = f"exit code {facts.exit_code}"
    if number is not None:
        name = _SIGNAL_NAMES.get(number, f"signal {number}")
        ending = f"killed by {name}" if facts.signal else f"exit code {facts.exit_code} ({name})"
    return f"{ending}: {facts.first_error}" if facts.first_error else ending
