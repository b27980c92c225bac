from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from pilot.check.finding import Finding, Verdict, exit_code, note, ok, refused, unknown, warning, wrong
from pilot.job.errors import ExitCode, PilotCannotWork


def test_a_finding_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ok("disk", "fine").detail = "bad"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ((), 0),
        ((ok("a", ""), note("b", ""), warning("c", "", "do"), unknown("d", "why")), 0),
        ((wrong("a", "", "do"),), 1),
        ((wrong("a", "", "do"), wrong("b", "", "do", ExitCode.SERVER_COMMUNICATION)), 79),
        ((wrong("a", "", "do", ExitCode.CREDENTIALS), wrong("b", "", "do", ExitCode.SERVER_COMMUNICATION)), 68),
    ],
)
def test_the_exit_code_is_what_a_run_would_leave_with_first(findings: tuple[Finding, ...], code: int) -> None:
    assert exit_code(findings) == code


@pytest.mark.parametrize(
    ("sentence", "remedy", "detail", "told"),
    [
        ("queue Q is offline: set it online", "", "queue Q is offline", "set it online"),
        ("a: b: do this", "", "a: b", "do this"),
        ("no colon at all", "", "no colon at all", ""),
        ("a: 'x' is no number", "correct it", "a: 'x' is no number", "correct it"),
    ],
)
def test_a_refusals_sentence_tells_what_and_what_to_do(sentence: str, remedy: str, detail: str, told: str) -> None:
    finding = refused("queue", PilotCannotWork(ExitCode.QUEUE_NOT_ONLINE, sentence), remedy)
    assert finding == Finding("queue", Verdict.WRONG, detail, told, 83)
