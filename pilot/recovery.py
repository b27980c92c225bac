"""What an earlier pilot left on this volume is brought to its end: fold each journal, go on from the first intent without
a result.

| last durable record       | what is done                                                                          |
| ------------------------- | ------------------------------------------------------------------------------------- |
| none                      | nothing: the acquire answer was never durable here; the server's 30-minute rule has it |
| acquired .. stage_in_done | report failed: the pilot was restarted before the payload                              |
| payload_starting          | end what is left of it, upload the logs, report failed with the true cause             |
| payload_exited            | resume stage-out (uploads are idempotent), logs, report                                |
| final_prepared            | send the same bytes until they are acknowledged                                        |
| final_acked               | remove the folder                                                                      |

A payload is never started again: ``payload_starting`` is durable before exec. Before anything is told of a job without a prepared
report the server is asked (outbox.told_before): on a broken disk a report may have been delivered that no record tells of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilot.job.model import ApiGeneration, Attempt, Job, MalformedJob
from pilot.job.outcome import Outcome, outcome_from_record
from pilot.job.report import FileReport, Usage
from pilot.job.states import JobState
from pilot.ports import LogsStored
from pilot.runtime.files import replace_atomically
from pilot.runtime.journal import Event, Record, read_journal
from pilot.runtime.workdir import JobFolder

logger = logging.getLogger("pilot.recovery")


SECRETS = "secrets.json"


def keep_secrets(folder: JobFolder, texts: Iterable[str]) -> None:
    """A job's secrets, for the pilot alone, as long as its folder: a successor stores the logs they may stand in."""
    if kept := list(texts):
        replace_atomically(folder.control / SECRETS, json.dumps(kept).encode(), mode=0o600)


def kept_secrets(folder: JobFolder) -> list[str]:
    """What ``keep_secrets`` kept. Raises OSError: it is there and cannot be read."""
    try:
        kept = json.loads((folder.control / SECRETS).read_bytes())
    except (FileNotFoundError, ValueError):  # there were none, or the pilot died before its payload could tell them
        return []
    return [text for text in kept if isinstance(text, str)] if isinstance(kept, list) else []


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job as its journal tells it. ``outcome``: None until the payload had ended. ``body``: the prepared final report."""

    attempt: Attempt
    api: ApiGeneration
    definition: Mapping[str, Any]
    batch_id: str | None
    payload_started: bool = False
    payload: Mapping[str, Any] = field(default_factory=dict)  # pid, boot id, PID namespace, start time, OOM count
    isolation: str = ""
    outcome: Outcome | None = None
    usage: Usage = field(default_factory=Usage)
    outputs: tuple[FileReport, ...] | None = None
    body: Mapping[str, Any] | None = None
    settled: bool = False
    last_at: str = ""


def read_unfinished(folder: JobFolder) -> Unfinished | None:
    """The state of a job folder; None when nothing durable says that there was a job. Raises OSError: it cannot be read."""
    try:
        return fold(read_journal(folder.journal))
    except FileNotFoundError:
        return None


def fold(records: list[Record]) -> Unfinished | None:
    """The records of a journal, folded. Total over every prefix a crash can leave."""
    found: dict[str, Any] = {}
    for record in records:
        if record.event is Event.ACQUIRED or found:
            try:
                found |= _folded(record, found)
            except (KeyError, TypeError, ValueError) as error:  # written by another version: as good as not there
                logger.warning("a record %s cannot be understood (%r) and is passed over", record.event.value, error)
                continue
            found["last_at"] = record.at
    return Unfinished(**found) if found else None


def _folded(record: Record, found: Mapping[str, Any]) -> dict[str, Any]:
    """What one record adds to what was found before it."""
    data = record.data
    match record.event:
        case Event.ACQUIRED:
            return {
                "attempt": Attempt(*data["attempt"]),
                "api": ApiGeneration(data["api"]),
                "definition": data["definition"],
                "batch_id": data.get("batch_id"),
            }
        case Event.PAYLOAD_STARTING:
            return {"payload_started": True, "isolation": data.get("isolation", ""), "payload": data}
        case Event.PAYLOAD_PID:
            return {
                "payload": {**found.get("payload", {}), **data}
            }  # beside the marks by which its processes are known
        case Event.PAYLOAD_EXITED:
            return {"outcome": outcome_from_record(data["outcome"]), "usage": Usage(**data.get("usage", {}))}
        case Event.STAGE_OUT_DONE:
            return {"outputs": tuple(FileReport(**file) for file in data.get("files", ()))}
        case Event.FINAL_PREPARED:
            JobState(data["body"]["job_status"])  # a body without one could not be sent
            return {"body": data["body"], "api": ApiGeneration(data["api"])}
        case Event.FINAL_ACKED | Event.FINAL_ABANDONED:
            return {"settled": True}
        case _:
            return {}


def told_logs(body: Mapping[str, Any], job: Job | MalformedJob) -> LogsStored:
    """What a prepared report says of the job's log: one without an address was not stored, and must not go with the folder."""
    if isinstance(job, MalformedJob) or job.log is None:
        return LogsStored(None)
    try:
        entry = json.loads(body["job_output_report"])[job.log.lfn]
        bundle = FileReport(job.log.lfn, entry["guid"], entry["fsize"], entry["adler32"], entry.get("surl"))
    except (KeyError, TypeError, ValueError, AttributeError):
        return LogsStored(None)
    return LogsStored(bundle)
