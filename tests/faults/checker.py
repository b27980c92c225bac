"""What must hold of a run, judged from the outside alone: the servers' ledger and rows, the payload's own note of its
starts, what lies in the object stores, and what is left on the machine. It knows nothing of the pilot.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pilot.runtime.probe import Point
from tests.faults.plan import Plan

FINAL_REPORTS = ("finished", "failed")
FINAL_STATES = ("finished", "failed", "cancelled", "closed")
SENT_RULE = "102"  # jobDispatcherErrorCode: sent, and nothing heard for 30 minutes


@dataclass(frozen=True, slots=True)
class Evidence:
    """One run as everybody but the pilot saw it."""

    plan: Plan
    panda_id: int
    job: dict[str, Any]  # the server's row
    ledger: list[dict[str, Any]]  # requests to the PanDA server, in the order they arrived
    payload_notes: list[str]  # "start" and "done", as the payload told the ledger
    outputs: dict[str, str]  # declared LFN: its object, "store/bucket/name"
    log_object: tuple[str, str]  # LFN and object of the log bundle
    stored: Callable[[str], bytes | None]  # what lies in a store under an object's name
    processes: list[str]  # alive after the run
    folders: list[str]  # job folders left on the volume
    strikes_done: int
    hung: list[str]  # pilots that had to be killed by the laboratory, in words


@dataclass(frozen=True, slots=True)
class Told:
    """One update in the words of either API generation."""

    seq: int
    status: str
    raw: str
    fields: dict[str, Any]
    taken: bool  # the server acted
    heard: bool  # and its answer arrived as it was meant

    def field(self, v1: str, legacy: str) -> Any:
        return self.fields.get(v1, self.fields.get(legacy))


def violations(evidence: Evidence) -> list[str]:
    """Each broken promise as a sentence; empty when the run held."""
    told = updates(evidence.ledger, evidence.panda_id)
    return [
        *_lived(evidence),
        *_starts(evidence),
        *_one_outcome(told),
        *_silent_afterwards(told),
        *_one_batch(told),
        *_success_is_proven(evidence, told),
        *_failure_is_named(told),
        *_ended(evidence, told),
        *_left_behind(evidence),
    ]


def updates(ledger: list[dict[str, Any]], panda_id: int) -> list[Told]:
    """The updates of a job, in the order they arrived."""
    found = []
    for entry in ledger:
        if entry["path"].split("?")[0] not in ("/api/v1/pilot/update_job", "/server/panda/updateJob"):
            continue
        fields = json.loads(entry["body"])
        if int(fields.get("job_id", fields.get("jobId", 0))) != panda_id:
            continue
        taken = entry["committed"] is not None and _accepted(entry["answer"])
        status = str(fields.get("job_status", fields.get("state")))
        heard = taken and entry["fault"] in (None, "slow", "drip")
        found.append(Told(entry["seq"], status, entry["body"], fields, taken, heard))
    return found


def _accepted(answer: str) -> bool:
    try:
        content = json.loads(answer)
    except ValueError:
        return answer.startswith("StatusCode=0")
    data = content.get("data", content)
    return isinstance(data, dict) and data.get("StatusCode") == 0


def _lived(evidence: Evidence) -> list[str]:
    return [f"a pilot did not leave by itself: {words}" for words in evidence.hung]


def _starts(evidence: Evidence) -> list[str]:
    starts = evidence.payload_notes.count("start")
    return [f"the payload was started {starts} times"] if starts > 1 else []


def _one_outcome(told: list[Told]) -> list[str]:
    bodies = list(dict.fromkeys(update.raw for update in told if update.status in FINAL_REPORTS))
    if len(bodies) < 2:
        return []
    return [f"{len(bodies)} different final reports were sent: {' /// '.join(body[:600] for body in bodies)}"]


def _silent_afterwards(told: list[Told]) -> list[str]:
    """Nothing but the same final report after a final report has arrived (identity is another promise's matter)."""
    finals = [update.seq for update in told if update.status in FINAL_REPORTS]
    late = [update for update in told if finals and update.seq > finals[0] and update.status not in FINAL_REPORTS]
    return [f"{update.status!r} was reported after a final report had been sent" for update in late]


def _one_batch(told: list[Told]) -> list[str]:
    """The server takes another batch id for another pilot's (its rule), so a job keeps its first one."""
    ids = list(dict.fromkeys(str(update.field("batch_id", "batchID")) for update in told))
    return [f"a job was reported under several batch ids: {', '.join(ids)}"] if len(ids) > 1 else []


def _success_is_proven(evidence: Evidence, told: list[Told]) -> list[str]:
    finals = [update for update in told if update.status == "finished"]
    if not finals:
        return ["the server has it finished, nobody reported so"] if evidence.job["status"] == "finished" else []
    final, problems = finals[0], []
    if evidence.payload_notes.count("done") != 1:
        problems.append(f"reported finished, but the payload noted {evidence.payload_notes}")
    if final.field("trans_exit_code", "transExitCode") not in (0, "0"):
        problems.append("reported finished without the payload's exit code 0")
    report = json.loads(final.field("job_output_report", "xml") or "{}")
    for lfn, name in evidence.outputs.items():
        problems += _as_reported(report.get(lfn), lfn, evidence.stored(name))
    lfn, name = evidence.log_object
    admitted = "logStored=0" in str(final.field("job_metrics", "jobMetrics"))
    if not admitted:
        problems += _as_reported(report.get(lfn), lfn, evidence.stored(name))
    return problems


def _as_reported(entry: dict[str, Any] | None, lfn: str, content: bytes | None) -> list[str]:
    if entry is None:
        return [f"reported finished without {lfn} in the report"]
    if content is None:
        return [f"reported finished, but {lfn} is not in its store"]
    found = (len(content), f"{zlib.adler32(content):08x}")
    said = (int(entry["fsize"]), entry.get("adler32"))
    return [] if found == said else [f"{lfn} is stored with {found}, reported with {said}"]


def _failure_is_named(told: list[Told]) -> list[str]:
    for update in told:
        if update.status == "failed" and not int(update.field("pilot_error_code", "pilotErrorCode") or 0):
            return ["reported failed without a pilot error code"]
    return []


def _ended(evidence: Evidence, told: list[Told]) -> list[str]:
    """Final by the report that was made; or the answer with the job never was durable here and the server gave it up."""
    job, finals = evidence.job, [update for update in told if update.status in FINAL_REPORTS]
    if job["status"] not in FINAL_STATES:
        return [f"the job is {job['status']} in the end"]
    if any(update.taken for update in finals):
        expected = {"finished"} if finals[0].status == "finished" else {"failed", "cancelled"}
        return [] if job["status"] in expected else [f"the job is {job['status']}, reported was {finals[0].status}"]
    if evidence.plan.at(Point.KILL_RECEIVED) and job["status"] == "cancelled" and finals:
        return []
    by_the_rule = str(job["fields"].get("jobdispatchererrorcode")) == SENT_RULE
    struck_before = any(evidence.plan.at(point) for point in (Point.ACQUIRE_ASKING, Point.ACQUIRE_ANSWERED))
    if by_the_rule and struck_before and not told and not evidence.payload_notes:
        return []
    return [f"the job is {job['status']} in the end, and the server has taken no final report of it"]


def _left_behind(evidence: Evidence) -> list[str]:
    problems = [f"a process is left: {words}" for words in evidence.processes]
    return problems + [f"a settled job's folder is left: {name}" for name in evidence.folders]
