"""Debug mode as two real servers were recorded with it: what the pilot makes of each answer, and tells with the next update."""

from __future__ import annotations

import pytest

from pilot.debug import DebugMode
from pilot.panda import api_legacy, api_v1
from pilot.ports import Question, UpdateAnswer
from tests.contract.recordings import Exchange, parameters, recordings

SCENARIOS = ("v1-debug-mode", "legacy-debug-mode")
TAIL, NAMED = "usual tail", "> tail payload.log\ntail of payload.log"


def updates(scenario: str) -> list[Exchange]:
    return [e for e in recordings()[scenario].exchanges if e.sent.path.endswith(("/update_job", "/updateJob"))]


def heard(exchange: Exchange) -> tuple[str, ...]:
    """The words of a recorded answer, read as the pilot reads it."""
    answer = (api_v1 if "/api/v1/" in exchange.sent.path else api_legacy).updated(exchange.answer)
    assert isinstance(answer, UpdateAnswer)
    return answer.commands


def looked(question: Question, _most_bytes: int) -> str:
    return f"{question.sight.value} of {question.name}" if question.name else TAIL


# After each answer: whether an update goes out at once, and what the updates tell from then on.
EXPECTED = {
    "v1-debug-mode": [(False, None), (True, TAIL), (True, NAMED), (False, NAMED), (False, NAMED)],
    "legacy-debug-mode": [(False, None), (True, TAIL), (True, NAMED), (False, None), (False, None)],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_recorded_answer_is_followed(scenario: str) -> None:
    mode, told = DebugMode(on=False), []
    for exchange in updates(scenario):
        at_once = mode.hear(heard(exchange))
        told.append((at_once, mode.answer(looked)))
    assert told[: len(EXPECTED[scenario])] == EXPECTED[scenario]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_secrets_that_come_with_the_mode_are_dropped_and_a_kill_beside_it_is_heard(scenario: str) -> None:
    answers = [exchange.answer.text() for exchange in updates(scenario)]
    assert any("pilotSecrets" in answer for answer in answers)
    assert not any("ecret" in word for exchange in updates(scenario) for word in heard(exchange))
    if scenario.startswith("v1"):
        assert UpdateAnswer(heard(updates(scenario)[3])).kill


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_takes_the_answer_under_the_name_it_was_recorded_with(scenario: str) -> None:
    recorded = [parameters(e.sent) for e in updates(scenario)]
    assert any(values.get("stdout") == "last lines of the payload log" for values in recorded)
