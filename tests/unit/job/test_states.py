from __future__ import annotations

import pytest

from pilot.job.states import LEGAL_MOVES, SETTLED_STATUSES, JobState, may_move


def test_the_states_are_the_servers_and_no_others() -> None:
    assert {state.value for state in JobState} == {
        "starting",
        "running",
        "holding",
        "transferring",
        "finished",
        "failed",
    }


def test_finished_and_failed_are_final_and_nothing_follows_them() -> None:
    finals = {state for state in JobState if state.final}
    assert finals == {JobState.FINISHED, JobState.FAILED}
    assert not any(may_move(final, state) for final in finals for state in JobState)


def test_every_state_has_its_moves_and_all_can_fail() -> None:
    assert set(LEGAL_MOVES) == {None, *JobState}
    assert all(may_move(before, JobState.FAILED) for before in LEGAL_MOVES if before is None or not before.final)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, JobState.RUNNING),
        (None, JobState.FINISHED),
        (JobState.STARTING, JobState.FINISHED),
        (JobState.RUNNING, JobState.STARTING),
        (JobState.TRANSFERRING, JobState.RUNNING),
    ],
)
def test_nothing_is_skipped_and_nothing_goes_back(before: JobState | None, after: JobState) -> None:
    assert not may_move(before, after)


def test_no_state_a_heartbeat_brings_counts_as_a_report_the_server_has() -> None:
    beaten = {JobState.STARTING, JobState.RUNNING}
    assert not SETTLED_STATUSES & {state.value for state in beaten}
    assert {"holding", "finished", "failed", "cancelled"} <= SETTLED_STATUSES
