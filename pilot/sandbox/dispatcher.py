"""The rules of the job dispatcher, the same under both API generations: who gets which job, what an update does.

Each rule is one of the wire contract's sections 5, 6 and 8; the recordings are replayed against it in
`tests/contract`. The database does the storing, the Adder decides the final status.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pilot.sandbox.columns import COLUMNS, INITIAL_FIELDS, ColumnError, fitted
from pilot.sandbox.panda_db import PandaDb
from pilot.sandbox.submission import DEFAULT_QUEUE, Entry, file_rows, filled_definition, job_columns

PILOT_STATES = ("starting", "running", "holding", "transferring", "finished", "failed")
FINAL_REPORTS = ("finished", "failed")
FINISHED_STATES = ("finished", "failed", "cancelled", "closed")

SUCCESS, FAILED = 0, 30

_MANAGED = ("managed", "test", "prod_test", "install")
_LABELS = {
    "managed": _MANAGED,
    "": _MANAGED,
    "user": ("user", "panda", "install"),
    "unified": ("managed", "test", "prod_test", "install", "user", "panda"),
}


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a pilot asks for; 0 or None filters nothing. Memory and disk in MB, time in s."""

    site: str
    label: str = ""
    memory_mb: int = 0
    disk_mb: int = 0
    remaining_time_s: int = 0
    resource_type: str | None = None
    computing_element: str | None = None
    node: str | None = None
    user: str | None = None
    task_id: int | None = None
    n_jobs: int = 1
    scheduler_id: str | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """One heartbeat or final report; `values` are by v1 parameter name, `attempt_nr` None when it was not sent."""

    panda_id: int
    status: str
    attempt_nr: int | None = None
    report: str = ""
    metadata: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateAnswer:
    status_code: int
    command: str | None = None
    debug: bool = False


class Dispatcher:
    """The state machine over the database. `wake` is called when there is work for the Adder."""

    def __init__(self, db: PandaDb, queue_status: Callable[[str], str | None], wake: Callable[[], None]) -> None:
        self._db = db
        self._queue_status = queue_status
        self._wake = wake
        self.changed = threading.Condition()

    # submitting

    def submit(self, entries: Iterable[Entry]) -> list[int]:
        """Store checked entries; those without parents are activated at once. Gives the new PandaIDs in order."""
        entries = list(entries)
        ids: list[int] = []
        with self._db.transaction():
            for entry in entries:
                site = str(entry.job.get("computingSite") or DEFAULT_QUEUE)
                blank = job_columns(filled_definition(entry.job, 0), site)
                row = {**blank, "status": "defined", "label": entry.label, "pseudo_input": entry.pseudo_input}
                ids.append(self._db.insert_job(row))
            for entry, panda_id in zip(entries, ids, strict=True):
                definition = filled_definition(entry.job, panda_id)
                fields = {**INITIAL_FIELDS, "corecount": definition["coreCount"]}
                parents = [ids[parent] for parent in entry.parents]
                status = "defined" if parents else "activated"
                self._db.set_job(panda_id, definition=definition, fields=fields, parents=parents, status=status)
                for row in file_rows(definition, panda_id):
                    self._db.insert_file(row)
        self._notify()
        return ids

    # the pilot's calls

    def acquire(self, request: JobRequest) -> list[dict[str, Any]]:
        """Activated jobs that fit, by priority and then age; each becomes `sent`. Not idempotent, as on the real server."""
        with self._db.transaction():
            fitting = (job for job in self._activated(request) if _fits(job, request))
            chosen = list(islice(fitting, max(request.n_jobs, 0)))
            for job in chosen:
                self._mark_sent(job, request)
            n_sent = self._db.count_sent(request.site)
            answers = [_answer(job, n_sent) for job in chosen]
        if answers:
            self._notify()
        return answers

    def _activated(self, request: JobRequest) -> Iterator[dict[str, Any]]:
        label = request.label
        if self._queue_status(request.site) == "test" and label in ("user", "managed", "unified"):
            label = "test"
        jobs = self._db.waiting_jobs(request.site)
        if label == "test" and request.computing_element:
            return (job for job in jobs if _is_test(job))
        wanted = _LABELS.get(label, (label,))
        return (job for job in jobs if job["prod_source_label"] in wanted)

    def _mark_sent(self, job: dict[str, Any], request: JobRequest) -> None:
        fields = dict(job["fields"])
        if request.scheduler_id:
            fields["schedulerid"] = request.scheduler_id
        if request.node:
            fields["modificationhost"] = request.node
        self._db.set_job(job["panda_id"], status="sent", fields=fields)

    def update(self, update: Update) -> UpdateAnswer:
        """Apply an update by the rules of section 8; the status was checked by the wire."""
        with self._db.transaction():
            job = self._db.job(update.panda_id)
            stale = job is not None and update.attempt_nr not in (None, job["attempt_nr"])
            if job is None or job["archived"] or stale or job["status"] in ("defined", "activated"):
                return UpdateAnswer(SUCCESS, "tobekilled")
            answer = self._update_active(job, update)
        self._notify()
        return answer

    def _update_active(self, job: dict[str, Any], update: Update) -> UpdateAnswer:
        known = UpdateAnswer(SUCCESS, _command_text(job), bool(job["debug"]))
        if job["status"] in ("holding", "transferring"):
            reported = not job["fields"].get("jobdispatchererrordiag")
            if update.status in FINAL_REPORTS and reported:
                return UpdateAnswer(SUCCESS, "alreadydone")
            if update.status not in FINAL_REPORTS:
                return known
        if _another_pilot(job["fields"].get("batchid"), update.values.get("batch_id")):
            return UpdateAnswer(FAILED)
        try:
            fields = _merged_fields(job["fields"], update)
        except ColumnError:
            return UpdateAnswer(FAILED)
        self._store(job, update, fields)
        return known

    def _store(self, job: dict[str, Any], update: Update, fields: dict[str, Any]) -> None:
        panda_id, status = job["panda_id"], update.status
        fields.pop("jobdispatchererrordiag", None)
        if status in FINAL_REPORTS:
            self._db.file_report(panda_id, update.attempt_nr or 0, status, update.report)
            status = "holding"
            self._wake()
        elif status in ("holding", "transferring"):
            fields["jobdispatchererrordiag"] = f"set to {status} by the pilot at {_now_text()}"
        elif status == "starting" and job["status"] == "running":
            status = "running"
        self._db.set_job(panda_id, status=status, fields=fields)

    def statuses(self, panda_ids: Iterable[int]) -> list[tuple[int, str | None, int, str | None]]:
        """(PandaID, status or None when unknown, attempt, command) for each id, in order."""
        rows = []
        for panda_id in panda_ids:
            job = self._db.job(panda_id)
            found = (job["status"], job["attempt_nr"], job["command"]) if job else (None, 0, None)
            rows.append((panda_id, *found))
        return rows

    # the operator's calls

    def kill(self, panda_id: int, dn: str) -> bool:
        """Kill a job: one no pilot runs yet is cancelled at once, a running one gets `tobekilled` with its next update."""
        with self._db.transaction():
            job = self._db.job(panda_id)
            if job is None or job["archived"]:
                return False
            fields = {**job["fields"], "taskbuffererrordiag": f"killed by {dn}"}
            if job["status"] in ("defined", "activated", "sent"):
                fields["taskbuffererrorcode"] = 100
                self._db.set_job(panda_id, status="cancelled", archived=1, command="tobekilled", fields=fields)
                self._wake()
            else:
                self._db.set_job(panda_id, touch=False, command="tobekilled", fields=fields)
        self._notify()
        return True

    def set_debug(self, panda_id: int, on: bool) -> bool:
        if self._db.job(panda_id) is None:
            return False
        self._db.set_job(panda_id, touch=False, debug=int(on))
        return True

    def set_command(self, panda_id: int, command: str) -> bool:
        if self._db.job(panda_id) is None:
            return False
        self._db.set_job(panda_id, touch=False, command=command)
        return True

    def notify(self) -> None:
        """Wake those who wait for a job's state."""
        self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()


def _is_test(job: dict[str, Any]) -> bool:
    return job["prod_source_label"] in ("prod_test", "test", "install") or job["processing_type"] == "gangarobot"


def _fits(job: dict[str, Any], request: JobRequest) -> bool:
    walltime = job["max_walltime_s"]
    return (
        (request.memory_mb <= 0 or job["min_ram_mb"] <= request.memory_mb)
        and (request.disk_mb <= 0 or job["max_disk_mb"] <= request.disk_mb)
        and (request.remaining_time_s <= 0 or walltime is None or walltime <= request.remaining_time_s)
        and (not request.resource_type or job["resource_type"] == request.resource_type)
        and (not request.user or job["prod_user_id"] == request.user)
        and (request.task_id is None or job["task_id"] == request.task_id)
    )


def _answer(job: dict[str, Any], n_sent: int) -> dict[str, Any]:
    answer = {"StatusCode": SUCCESS, "PandaID": job["panda_id"], **job["definition"], "nSent": n_sent}
    return {**answer, "debug": "True"} if job["debug"] else answer


def _command_text(job: dict[str, Any]) -> str:
    parts = (["debug"] if job["debug"] else []) + ([job["command"]] if job["command"] else [])
    return ",".join(parts) or "NULL"


def _another_pilot(stored: str | None, sent: object) -> bool:
    """Two different batch ids mean two pilots, unless they are numeric. Both recorded servers then fail with code 30."""
    if not stored or not sent or stored == str(sent)[: len(stored)]:
        return False
    return not (re.fullmatch(r"[\d.]+", stored) or re.fullmatch(r"[\d.]+", str(sent)))


def _merged_fields(fields: dict[str, Any], update: Update) -> dict[str, Any]:
    merged = dict(fields)
    for column in COLUMNS:
        if column.v1 in update.values:
            value = fitted(column, update.values[column.v1])
            if value is not None:
                merged[column.db] = value
    # Metadata is kept once, and not for failed jobs.
    if update.metadata and update.status != "failed":
        merged.setdefault("metadata", update.metadata)
    return merged


def valid_time(text: object) -> str | None:
    """`YYYY-MM-DD HH:MM:SS`; anything else is dropped silently."""
    try:
        dt.datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    return str(text)


def _now_text() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
