"""``/api/v1``, on the wire: plain JSON with strict types; answers ``{"success", "message", "data"}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pilot.job.model import ApiGeneration, Attempt
from pilot.panda import meaning
from pilot.panda.commands import update_answer
from pilot.panda.fields import acquire_fields, update_fields
from pilot.panda.meaning import Accepted, Meaning, NoJobs, Retry
from pilot.panda.wire import JSON_TYPE, WireRequest
from pilot.ports import Acquired, AcquireRequest, JobStatus, NoJob, UpdateAnswer
from pilot.runtime.http import Answer

_POST_HEADERS = {"Accept": JSON_TYPE, "Content-Type": JSON_TYPE, "Accept-Encoding": "identity"}
_GET_HEADERS = {"Accept": JSON_TYPE, "Accept-Encoding": "identity"}
_UNKNOWN_JOB = "not found"


def acquire(request: AcquireRequest) -> WireRequest:
    return _post("acquire_jobs", acquire_fields(request))


def update(fields: Mapping[str, Any]) -> WireRequest:
    """``fields`` in v1 names. Raises NotSendable without a job id or a known state."""
    return _post("update_job", update_fields(fields))


def job_status(attempt: Attempt) -> WireRequest:
    return WireRequest("GET", f"/api/v1/pilot/get_job_status?{urlencode({'job_ids': attempt.panda_id})}", _GET_HEADERS)


def worker_status(harvester_id: str, worker_id: int, status: str, node: str) -> WireRequest:
    """``status``: ``started`` or ``finished``. There is no site parameter: the server refuses one."""
    return _post(
        "update_worker_status",
        {"worker_id": worker_id, "harvester_id": harvester_id, "status": status, "node_id": node},
    )


def access_token(client_name: str, token_key: str) -> WireRequest:
    """The key goes in the query: the server takes it nowhere else."""
    query = urlencode({"client_name": client_name, "token_key": token_key})
    return WireRequest("GET", f"/api/v1/creds/get_access_token?{query}", _GET_HEADERS)


def is_alive() -> WireRequest:
    return WireRequest("GET", "/api/v1/system/is_alive", _GET_HEADERS)


def user_attributes() -> WireRequest:
    return WireRequest("GET", "/api/v1/system/get_user_attributes", _GET_HEADERS)


def _post(method: str, fields: Mapping[str, Any]) -> WireRequest:
    body = json.dumps(fields, sort_keys=True, allow_nan=False).encode()
    return WireRequest("POST", f"/api/v1/pilot/{method}", _POST_HEADERS, body)


# --- answers ----------------------------------------------------------------------------------------------------------


def acquired(answer: Answer) -> Acquired | NoJob | Meaning:
    """The first job of the list; a Meaning when the answer is no job and not "no job"."""
    meant = meaning.of_v1(answer)
    if isinstance(meant, NoJobs):
        return NoJob(meant.message)
    if not isinstance(meant, Accepted):
        return meant
    jobs = meant.data.get("jobs") if isinstance(meant.data, dict) else None
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        return Retry("the answer to the job request holds no list of jobs", in_doubt=True)
    return Acquired(jobs[0], ApiGeneration.V1) if jobs else NoJob("an empty list of jobs")


def updated(answer: Answer) -> UpdateAnswer | Meaning:
    """The commands of an update's answer. Success alone is not enough: ``data.StatusCode`` must be there and 0."""
    meant = meaning.of_v1(answer)
    if not isinstance(meant, Accepted):
        return meant
    if meaning.status_code(meant.data) != 0:
        return Retry("the answer to the update holds no StatusCode", in_doubt=True)
    return update_answer(meant.data)


def status_of(answer: Answer, attempt: Attempt) -> JobStatus | Meaning:
    meant = meaning.of_v1(answer)
    if not isinstance(meant, Accepted):
        return meant
    entries = [e for e in meant.data if isinstance(e, dict)] if isinstance(meant.data, list) else []
    for entry in entries:
        if entry.get("job_id") == attempt.panda_id and isinstance(entry.get("status"), str):
            return _job_status(entry)
    return Retry("the answer to the status query does not name the job", in_doubt=True)


def _job_status(entry: Mapping[str, Any]) -> JobStatus:
    if entry["status"] == _UNKNOWN_JOB:
        return JobStatus(None, None)
    number = entry.get("attempt_number")
    return JobStatus(entry["status"], number if isinstance(number, int) else None)


def token_of(answer: Answer) -> str | Meaning:
    """The token of a renewal; it stands under a name that is older than tokens."""
    meant = meaning.of_v1(answer)
    if not isinstance(meant, Accepted):
        return meant
    token = meant.data.get("user_proxy") if isinstance(meant.data, dict) else None
    return token if isinstance(token, str) else Retry("the answer to the token renewal holds no token")


def user_of(answer: Answer) -> str | Meaning:
    """The caller's name as the server sees it, empty when it says none."""
    meant = meaning.of_v1(answer)
    if not isinstance(meant, Accepted):
        return meant
    name = meant.data.get("user_dn_clean") if isinstance(meant.data, dict) else None
    return "".join(char for char in name if char.isprintable())[:200] if isinstance(name, str) else ""


def bulk_updated(answer: Answer) -> tuple[UpdateAnswer | Meaning, ...] | Meaning:
    """The answers to ``update_jobs_bulk`` in order: each is an ``update_job`` answer of its own."""
    meant = meaning.of_v1(answer)
    if not isinstance(meant, Accepted):
        return meant
    if not isinstance(meant.data, list):
        return Retry("the answer to the bulk update is no list", in_doubt=True)
    return tuple(updated(Answer(200, {}, json.dumps(entry).encode())) for entry in meant.data)
