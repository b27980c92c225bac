"""The checker sees each broken promise, and nothing in a run where all was kept."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from pilot.runtime.probe import Point
from tests.faults.checker import Evidence, violations
from tests.faults.plan import Fault, Plan, Strike

STORED = {"s3/data/out.dat": b"stars", "gcs/logs/log.tgz": b"words"}


def entry(
    seq: int, status: str, committed: float | None = 1.0, fault: str | None = None, **fields: Any
) -> dict[str, Any]:
    body = json.dumps({"job_id": 7, "job_status": status, **fields})
    answer = json.dumps({"success": True, "data": {"StatusCode": 0, "command": "NULL"}})
    path = "/api/v1/pilot/update_job"
    return {"seq": seq, "path": path, "body": body, "answer": answer, "committed": committed, "fault": fault}


def file_entry(content: bytes) -> dict[str, Any]:
    return {"guid": "g", "fsize": len(content), "adler32": f"{zlib.adler32(content):08x}"}


def final(seq: int, status: str = "finished", **fields: Any) -> dict[str, Any]:
    report = {"out.dat": file_entry(b"stars"), "log.tgz": file_entry(b"words")}
    told = {"trans_exit_code": 0, "job_output_report": json.dumps(report), "job_metrics": ""}
    return entry(seq, status, **{**told, **fields})


def kept(**changes: Any) -> Evidence:
    """A run in which every promise was kept, and what is changed of it."""
    plan = Plan("p", 1, (Strike(changes.pop("point", Point.PREPARED), Fault.KILL),))
    evidence = Evidence(
        plan=plan,
        panda_id=7,
        job={"status": "finished", "fields": {}},
        ledger=[entry(1, "starting"), entry(2, "running"), final(3)],
        payload_notes=["start", "done"],
        outputs={"out.dat": "s3/data/out.dat"},
        log_object=("log.tgz", "gcs/logs/log.tgz"),
        stored=STORED.get,
        processes=[],
        folders=[],
        strikes_done=1,
        hung=[],
    )
    return replace(evidence, **changes)


FAILED = {"status": "failed", "fields": {}}
GIVEN_UP = {"status": "failed", "fields": {"jobdispatchererrorcode": 102}}
BROKEN = {
    "started 2 times": kept(payload_notes=["start", "start", "done"]),
    "2 different final reports": kept(ledger=[final(1), final(2, end_time="later")]),
    "2 different final reports were": kept(ledger=[final(1, committed=None, fault="reset", a=1), final(2)]),
    "'running' was reported after": kept(ledger=[final(1), entry(2, "running")]),
    "out.dat is not in its store": kept(stored=lambda name: None if "out" in name else STORED[name]),
    "log.tgz is not in its store": kept(stored=lambda name: None if "log" in name else STORED[name]),
    "out.dat is stored with": kept(stored=lambda name: b"other" if "out" in name else STORED[name]),
    "without out.dat": kept(ledger=[final(1, job_output_report=json.dumps({"log.tgz": file_entry(b"words")}))]),
    "without the payload's exit code": kept(ledger=[final(1, trans_exit_code=1)]),
    "the payload noted": kept(payload_notes=["start"]),
    "without a pilot error code": kept(ledger=[final(1, "failed")], job=FAILED),
    "the job is running in the end": kept(job={"status": "running", "fields": {}}),
    "reported was finished": kept(job=FAILED),
    "nobody reported so": kept(ledger=[entry(1, "running")]),
    "taken no final report": kept(ledger=[entry(1, "starting")], job=FAILED),
    "taken no final report of it": kept(ledger=[], payload_notes=[], job=GIVEN_UP, point=Point.FOLDER_MADE),
    "and the server has taken no": kept(ledger=[], payload_notes=["start"], job=GIVEN_UP, point=Point.ACQUIRE_ANSWERED),
    "several batch ids": kept(ledger=[entry(1, "starting", batch_id="a"), final(2, batch_id="b")]),
    "a process is left": kept(processes=["sleep 30"]),
    "folder is left": kept(folders=["7.0"]),
    "did not leave by itself": kept(hung=["pilot 1"]),
}
KEPT = {
    "a finished job": kept(),
    "a report sent twice": kept(ledger=[final(1, committed=None, fault="reset"), final(2)]),
    "a log whose loss is said": kept(
        ledger=[final(1, job_metrics="logStored=0")], stored=lambda name: None if "log" in name else STORED[name]
    ),
    "a failure with its code": kept(ledger=[final(1, "failed", pilot_error_code=1099)], job=FAILED),
    "a job whose answer was lost": kept(ledger=[], payload_notes=[], job=GIVEN_UP, point=Point.ACQUIRE_ANSWERED),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_promise_is_named(words: str) -> None:
    assert any(words in problem for problem in violations(BROKEN[words])), violations(BROKEN[words])


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_promise_is_no_violation(name: str) -> None:
    assert violations(KEPT[name]) == []
