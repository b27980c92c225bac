"""The Adder and the Watcher: what turns `holding` into a final status, and what fails the jobs nobody hears of.

The Adder's rules are section 7 of the wire contract, the Watcher's limits section 8.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from pilot.sandbox.panda_db import PandaDb

_NO_REPORT = "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"
_DDM_FAILED = 200

SENT_TIMEOUT_S = 1800.0
HEARTBEAT_TIMEOUT_S = 7200.0
HOLDING_TIMEOUT_S = 48 * 3600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a report makes of a job: its final status, the ddm error if any, and what is known of each file."""

    status: str
    diagnosis: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def judge(status: str, report: str, files: list[dict[str, Any]], *, killed: bool, has_error_code: bool) -> Verdict:
    """The final status of a job whose pilot reported `status` with the text `report`, by the Adder's rules."""
    known = _read_report(report, {row["lfn"] for row in files if row["type"] == "input"})
    if status == "failed":
        silent = known is None and not has_error_code
        return Verdict("cancelled" if killed else "failed", _NO_REPORT if silent else None, known or {})
    expected = [row["lfn"] for row in files if row["type"] != "input"]
    if not files:
        return Verdict("finished")
    if known is None:
        return Verdict("failed", _NO_REPORT)
    missing = [lfn for lfn in expected if lfn not in known]
    if missing:
        return Verdict("failed", f"expected output {missing[0]} is missing in pilot JSON", known)
    surplus = [lfn for lfn in known if lfn not in {row["lfn"] for row in files}]
    if surplus:
        return Verdict("failed", f"pilot produced {surplus[0]} inconsistently with jobdef", known)
    return Verdict("finished", None, known)


def _read_report(report: str, inputs: set[str]) -> dict[str, dict[str, Any]] | None:
    """The report by LFN with what the file rows keep, or None when it is missing, no JSON or an entry is incomplete."""
    try:
        entries = json.loads(report)
        return {lfn: _file_values(entry, lfn in inputs) for lfn, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _file_values(entry: dict[str, Any], is_input: bool) -> dict[str, Any]:
    values: dict[str, Any] = {"guid": str(entry["guid"])}
    if is_input and "fsize" not in entry:
        return values
    values["fsize"] = int(entry["fsize"])
    if "adler32" in entry:
        values["checksum"] = f"ad:{entry['adler32']}"
    elif re.fullmatch(r"[0-9a-fA-F]{32}", str(entry.get("md5sum"))):
        values |= {"md5sum": entry["md5sum"], "checksum": f"md5:{entry['md5sum']}"}
    elif not is_input:
        raise KeyError("md5sum")
    return values


class Adder:
    """Works off filed reports, activates children, and fails what is silent. `time_scale` shortens the server's limits."""

    def __init__(self, db: PandaDb, *, delay_s: float, time_scale: float) -> None:
        self._db = db
        self._delay_s = delay_s
        self._time_scale = time_scale

    def run_once(self, *, ignore_delay: bool = False) -> bool:
        """One round over everything that is due; True when some job's state changed."""
        now = time.time()
        with self._db.transaction():
            changed = False
            for filed in self._db.reports(now if ignore_delay else now - self._delay_s / self._time_scale):
                changed |= self._add(filed)
            changed |= self._watch(now)
            changed |= self._activate()
        return changed

    def _add(self, filed: dict[str, Any]) -> bool:
        self._db.drop_report(filed["seq"])
        job = self._db.job(filed["panda_id"])
        # A report filed under another attempt is thrown away and leaves the job in holding.
        if job is None or job["archived"] or job["attempt_nr"] != filed["attempt_nr"]:
            return False
        fields = job["fields"]
        files = self._db.files(job["panda_id"])
        coded = bool(fields.get("piloterrorcode")) or fields.get("transexitcode") not in (None, "0")
        killed = job["command"] is not None and "tobekilled" in job["command"]
        verdict = judge(filed["status"], filed["report"], files, killed=killed, has_error_code=coded)
        if verdict.diagnosis:
            fields = {**fields, "ddmerrorcode": _DDM_FAILED, "ddmerrordiag": verdict.diagnosis}
        self._db.set_job(job["panda_id"], status=verdict.status, archived=1, fields=fields)
        for row in files:
            if row["type"] != "input":
                state = "ready" if verdict.status == "finished" else "failed"
                self._db.set_file(job["panda_id"], row["lfn"], status=state, **verdict.files.get(row["lfn"], {}))
        return True

    def _watch(self, now: float) -> bool:
        changed = False
        for job in self._db.jobs(
            "archived = 0 AND status IN ('sent', 'starting', 'running', 'holding', 'transferring')"
        ):
            code, diagnosis = _silence(job, (now - job["modified"]) * self._time_scale)
            if code:
                fields = {**job["fields"], "jobdispatchererrorcode": code, "jobdispatchererrordiag": diagnosis}
                self._db.set_job(job["panda_id"], status="failed", archived=1, fields=fields)
                changed = True
        return changed

    def _activate(self) -> bool:
        """Activate jobs whose parents are finished; close those whose parent ended otherwise."""
        changed = False
        for job in self._db.jobs("status = 'defined' AND archived = 0"):
            parents = [self._db.job(parent) for parent in job["parents"]]
            states = ["closed" if parent is None else parent["status"] for parent in parents]
            dead = [p for p, s in zip(job["parents"], states, strict=True) if s in ("failed", "cancelled", "closed")]
            if dead:
                fields = {**job["fields"], "taskbuffererrordiag": f"closed: its parent {dead[0]} did not finish"}
                self._db.set_job(job["panda_id"], status="closed", archived=1, fields=fields)
            elif all(state == "finished" for state in states):
                self._db.set_job(job["panda_id"], status="activated")
            else:
                continue
            changed = True
        return changed


def _silence(job: dict[str, Any], silent_s: float) -> tuple[int, str]:
    """The Watcher's error code and text for a job unheard of for `silent_s` server seconds; code 0: it may go on."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job["modified"]))
    if job["status"] == "sent" and silent_s > SENT_TIMEOUT_S:
        return 102, "Sent job didn't receive reply from pilot within 30 min"
    if job["status"] in ("starting", "running") and silent_s > HEARTBEAT_TIMEOUT_S:
        return 100, f"lost heartbeat : {since}"
    if job["status"] in ("holding", "transferring") and silent_s > HOLDING_TIMEOUT_S:
        with_error = bool(job["fields"].get("piloterrordiag"))
        return (101, "job recovery failed") if with_error else (103, f"not transitioned from {job['status']} : {since}")
    return 0, ""
