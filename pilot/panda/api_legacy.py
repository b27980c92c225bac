"""``/server/panda``, on the wire: gzip-compressed JSON without Content-Encoding; answers with a ``StatusCode``.

The server decompresses a JSON body without looking at Content-Encoding, and answers 500 to one that is not compressed
(recorded). ``Accept: application/json`` alone decides that the answer is JSON; getStatus answers url-encoded all the same.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from typing import Any

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import LEGACY_NAMES
from pilot.panda import meaning
from pilot.panda.commands import update_answer
from pilot.panda.fields import acquire_fields, update_fields
from pilot.panda.meaning import Accepted, Meaning, NoJobs, Retry
from pilot.panda.wire import JSON_TYPE, WireRequest
from pilot.ports import Acquired, AcquireRequest, JobStatus, NoJob, UpdateAnswer
from pilot.runtime.http import Answer

_HEADERS = {"Accept": JSON_TYPE, "Content-Type": JSON_TYPE, "Accept-Encoding": "identity"}
_UNKNOWN_JOB = "notfound"

_ACQUIRE_NAMES: Mapping[str, str] = {
    "site_name": "siteName",
    "prod_source_label": "prodSourceLabel",
    "memory": "mem",
    "disk_space": "diskSpace",
    "resource_type": "resourceType",
    "computing_element": "computingElement",
    "job_type": "jobType",
    "scheduler_id": "schedulerID",
}

# Names that the report's table leaves out because no report carries them yet.
_MORE_UPDATE_NAMES: Mapping[str, str] = {
    "n_events": "nEvents",
    "n_input_files": "nInputFiles",
    "cpu_conversion_factor": "cpuConversionFactor",
    "corrupted_files": "corruptedFiles",
    "tot_rchar": "totRCHAR",
    "tot_wchar": "totWCHAR",
    "tot_rbytes": "totRBYTES",
    "tot_wbytes": "totWBYTES",
    "rate_rchar": "rateRCHAR",
    "rate_wchar": "rateWCHAR",
    "rate_rbytes": "rateRBYTES",
    "rate_wbytes": "rateWBYTES",
}
UPDATE_NAMES: Mapping[str, str] = {**_MORE_UPDATE_NAMES, **LEGACY_NAMES}


def acquire(request: AcquireRequest) -> WireRequest:
    return _post("getJob", {_ACQUIRE_NAMES.get(name, name): value for name, value in acquire_fields(request).items()})


def update(fields: Mapping[str, Any]) -> WireRequest:
    """``fields`` in v1 names. Raises NotSendable without a job id or a known state."""
    return _post("updateJob", {UPDATE_NAMES.get(name, name): value for name, value in update_fields(fields).items()})


def job_status(attempt: Attempt) -> WireRequest:
    return _post("getStatus", {"ids": str(attempt.panda_id)})


def worker_status(harvester_id: str, worker_id: int, status: str, site: str, node: str) -> WireRequest:
    """``status``: ``started`` or ``finished``."""
    return _post(
        "updateWorkerPilotStatus",
        {"site": site, "workerID": worker_id, "harvesterID": harvester_id, "status": status, "node_id": node},
    )


def access_token(client_name: str, token_key: str) -> WireRequest:
    return _post("get_access_token", {"client_name": client_name, "token_key": token_key})


def is_alive() -> WireRequest:
    return WireRequest("GET", "/server/panda/isAlive", {"Accept": JSON_TYPE, "Accept-Encoding": "identity"})


def _post(method: str, fields: Mapping[str, Any]) -> WireRequest:
    text = json.dumps(fields, sort_keys=True, allow_nan=False)
    # mtime 0: the same fields give the same bytes, so a report can be resent byte for byte.
    return WireRequest("POST", f"/server/panda/{method}", _HEADERS, gzip.compress(text.encode(), mtime=0))


# --- answers ----------------------------------------------------------------------------------------------------------


def acquired(answer: Answer) -> Acquired | NoJob | Meaning:
    """The job at the top level, or the first of ``jobs`` (which is there when several were asked for)."""
    meant = meaning.of_legacy(answer)
    if isinstance(meant, NoJobs):
        return NoJob(meant.message)
    if not isinstance(meant, Accepted):
        return meant
    jobs = meant.data.get("jobs", [meant.data]) if isinstance(meant.data, dict) else None
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        return Retry("the answer to the job request holds no job", in_doubt=True)
    return Acquired(jobs[0], ApiGeneration.LEGACY) if jobs else NoJob("an empty list of jobs")


def updated(answer: Answer) -> UpdateAnswer | Meaning:
    meant = meaning.of_legacy(answer)
    if not isinstance(meant, Accepted):
        return meant
    if meaning.status_code(meant.data) != 0:
        return Retry("the answer to the update holds no StatusCode", in_doubt=True)
    return update_answer(meant.data)


def status_of(answer: Answer) -> JobStatus | Meaning:
    """The first job of a getStatus answer: several are joined by ``+``."""
    meant = meaning.of_legacy(answer)
    if not isinstance(meant, Accepted):
        return meant
    data = meant.data if isinstance(meant.data, dict) else {}
    status, number = data.get("status"), data.get("attemptNr")
    if not isinstance(status, str) or not status:
        return Retry("the answer to the status query holds no status", in_doubt=True)
    first, number = status.split("+")[0], str(number).split("+")[0]
    if first == _UNKNOWN_JOB:
        return JobStatus(None, None)
    return JobStatus(first, int(number) if re.fullmatch(r"\d{1,9}", number) else None)


def token_of(answer: Answer) -> str | Meaning:
    """The token of a renewal; it stands under a name that is older than tokens."""
    meant = meaning.of_legacy(answer)
    if not isinstance(meant, Accepted):
        return meant
    token = meant.data.get("userProxy") if isinstance(meant.data, dict) else None
    return token if isinstance(token, str) else Retry("the answer to the token renewal holds no token")


def bulk_updated(answer: Answer) -> tuple[UpdateAnswer | Meaning, ...] | Meaning:
    """The answers to ``updateJobsInBulk``: each entry is url-encoded, or ``{"type": "json", "content": <JSON text>}``."""
    meant = meaning.of_legacy(answer)
    if not isinstance(meant, Accepted):
        return meant
    if not isinstance(meant.data, list):
        return Retry("the answer to the bulk update is no list", in_doubt=True)
    return tuple(updated(Answer(200, {}, _entry_text(entry).encode())) for entry in meant.data)


def _entry_text(entry: Any) -> str:
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) else ""
