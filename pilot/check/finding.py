"""A finding: one thing that was looked at, in frozen words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pilot.job.errors import ExitCode, PilotCannotWork


class Verdict(Enum):
    """How it stands with one thing."""

    OK = "ok"
    NOTE = "note"  # worth knowing, and no trouble
    WARNING = "warning"  # a run would work; trouble may come of it
    WRONG = "wrong"  # a run would leave, or its jobs or their logs would suffer
    UNKNOWN = "unknown"  # not looked at: something it takes is wrong itself


SUFFERING = 1  # the exit code of what a run would not leave for


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy``: what to do, empty where nothing is to be done. ``exit_code``: of a wrong one, what a run would leave with;
    1 when it would start all the same, and its jobs or their logs would suffer.
    """

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    exit_code: int = 0


def ok(name: str, detail: str) -> Finding:
    return Finding(name, Verdict.OK, detail)


def note(name: str, detail: str, remedy: str = "") -> Finding:
    return Finding(name, Verdict.NOTE, detail, remedy)


def warning(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, Verdict.WARNING, detail, remedy)


def wrong(name: str, detail: str, remedy: str, exit_code: int = SUFFERING) -> Finding:
    return Finding(name, Verdict.WRONG, detail, remedy, int(exit_code))


def unknown(name: str, why: str) -> Finding:
    return Finding(name, Verdict.UNKNOWN, f"not looked at: {why}")


def refused(name: str, refusal: PilotCannotWork, remedy: str = "") -> Finding:
    """What would end a run, in its own sentence. Without ``remedy``, what to do stands in that behind its last colon."""
    detail, _, told = str(refusal).rpartition(": ")
    if remedy or not detail:
        detail, told = str(refusal), remedy
    return wrong(name, detail, told, refusal.exit_code)


def exit_code(findings: Iterable[Finding]) -> int:
    """What ``--check`` leaves with: 0 when a run would work, else what the run would leave with, else 1.

    The findings are in the order in which a run comes to them.
    """
    codes = [finding.exit_code for finding in findings if finding.verdict is Verdict.WRONG]
    return next((code for code in codes if code != SUFFERING), SUFFERING if codes else int(ExitCode.OK))
