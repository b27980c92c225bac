"""Reading a ledger: whose update is whose, which request brought which job, and how late a beat is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bench.ledger import acquires, lateness_s, per_second, turns


def asked(arrived: float) -> dict[str, Any]:
    path = "/api/v1/pilot/acquire_jobs"
    return {"path": path, "arrived": arrived, "committed": arrived + 0.25, "body": "{}", "answer": "{}"}


def told(panda_id: int, state: str, arrived: float, answer: str = "{}", lost: bool = False) -> dict[str, Any]:
    body = json.dumps({"job_id": panda_id, "job_status": state})
    committed = None if lost else arrived + 0.5
    path = "/api/v1/pilot/update_job"
    return {"path": path, "arrived": arrived, "committed": committed, "body": body, "answer": answer}


TWO_JOBS = [
    asked(1.0),
    asked(10.0),
    told(7, "starting", 11.0),
    told(7, "running", 12.0),
    told(7, "finished", 14.0),
    asked(15.0),
    told(8, "starting", 16.0),
    told(8, "failed", 18.0),
    asked(19.0),
    asked(99.0),
]


def test_a_turn_goes_from_the_request_that_brought_the_job_to_the_next_one() -> None:
    first, second = turns(TWO_JOBS)
    assert (first.panda_id, first.state, first.acquired_at, first.running_at) == (7, "finished", 10.25, 12.0)
    assert (first.final_at, first.acknowledged_at, first.next_asked_at) == (14.0, 14.5, 15.0)
    assert (second.panda_id, second.state, second.acquired_at, second.running_at) == (8, "failed", 15.25, None)
    assert (second.final_at, second.next_asked_at) == (18.0, 19.0)


def test_a_final_report_counts_when_it_was_taken() -> None:
    lost_first = [asked(1.0), told(7, "starting", 2.0), told(7, "finished", 3.0, lost=True), told(7, "finished", 5.0)]
    (turn,) = turns(lost_first)
    assert (turn.final_at, turn.acknowledged_at, turn.next_asked_at) == (5.0, 5.5, None)


def test_the_kill_counts_from_the_answer_that_told_it() -> None:
    killed = '{"data": {"command": "tobekilled"}}'
    entries = [asked(1.0), told(7, "running", 2.0), told(7, "running", 3.0, killed), told(7, "failed", 4.0, killed)]
    (turn,) = turns(entries)
    assert (turn.kill_told_at, turn.final_at) == (3.5, 4.0)


def test_a_job_without_an_end_has_none() -> None:
    (turn,) = turns([asked(1.0), told(7, "starting", 2.0)])
    assert (turn.final_at, turn.acknowledged_at, turn.state, turn.told_at) == (None, None, "starting", (2.0,))


def test_requests_of_both_generations_are_requests() -> None:
    legacy = {**asked(5.0), "path": "/server/panda/getJob"}
    assert acquires([*TWO_JOBS, legacy])[-1] is legacy


def test_a_beat_is_late_beyond_the_longest_wait_that_jitter_allows() -> None:
    late = lateness_s([0.0, 1.0, 2.1, 4.1, 4.2], interval_s=1.0, jitter=0.1)
    assert late == pytest.approx([0.0, 0.0, 0.9, 0.0])
    assert lateness_s([3.0], 1.0, 0.1) == []


def test_moments_are_counted_by_the_second() -> None:
    assert per_second([9.9, 10.0, 10.5, 12.99, 13.0], first=10.0, last=13.0) == [2, 0, 1]
