"""The wire of `/server/panda/<method>`, as panda-server 0.8 answers: texts in, url-encoded texts or JSON out.

What the Accept header governs, which calls ignore it, and which mistakes end as HTTP 500 is recorded; see the wire
contract's sections 2 and 3.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode

from pilot.sandbox.callers import Caller
from pilot.sandbox.columns import COLUMNS, Column
from pilot.sandbox.dispatcher import FAILED, PILOT_STATES, Dispatcher, JobRequest, Update, valid_time
from pilot.sandbox.http_server import Answer, Request
from pilot.sandbox.panda_db import PandaDb
from pilot.sandbox.panda_v1 import note_worker
from pilot.sandbox.tokens import RenewalRefused, Renewals
from pilot.sandbox.upload import Uploads, form_fields

SUCCESS, NO_JOBS, NO_ROLE, NO_PERMISSION = 0, 20, 60, 70
_ROLE_TEXT = "no production/pilot role in VOMS FQANs or non pilot owner"
_GRIDPREF = "in DOMA_PANDAMETA.USERS.GRIDPREF"

# Parameters by method; those with `!` are required.
_PARAMETERS = {
    "getJob": "siteName! token timeout cpu mem diskSpace prodSourceLabel node computingElement AtlasRelease prodUserID "
    "getProxyKey countryGroup workingGroup allowOtherCountry taskID nJobs background resourceType harvester_id worker_id "
    "schedulerID jobType viaTopic remaining_time",
    "updateJob": "jobId! state! token attemptNr siteName xml metaData timestamp timeout workdir remainingSpace messageLevel "
    "computingElement " + " ".join(column.legacy for column in COLUMNS),
    "updateJobsInBulk": "jobList! harvester_id",
    "getStatus": "ids! timeout",
    "checkJobStatus": "ids!",
    "updateWorkerPilotStatus": "site! workerID! harvesterID! status! timeout node_id",
    "getProxy": "role dn",
    "getKeyPair": "publicKeyName! privateKeyName!",
    "get_access_token": "client_name! token_key",
    "get_token_key": "client_name!",
    "getResourceTypes": "",
    "isAlive": "",
    "putFile": "file!",
}
_RESOURCE_TYPES = [
    ("Undefined", 1, None, None, None),
    ("SCORE", 1, 1, None, 2000),
    ("SCORE_HIMEM", 1, 1, 2001, None),
    ("MCORE", 2, None, None, 2000),
    ("MCORE_HIMEM", 2, None, 2001, None),
]
# Codes that are dropped silently when they are no numbers; other numeric columns make the database refuse the update.
_LENIENT = ("transExitCode", "pilotErrorCode", "exeErrorCode")


class _PythonError(Exception):
    """The call ends with HTTP 500 and the bare text of a Python exception."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: its caller, arguments, and whether `Accept: application/json` asks for JSON."""

    caller: Caller
    given: dict[str, Any]
    json: bool

    def answer(self, values: dict[str, Any]) -> Answer:
        if self.json:
            return _json(values)
        return Answer.text(200, _url_encoded(values))

    def refusal(self, code: int, text: str) -> Answer:
        return self.answer({"StatusCode": code, **({"errorDialog": text} if self.json else {})})


class PandaLegacy:
    """Answers `/server/panda/...` requests for an identified caller."""

    def __init__(self, dispatcher: Dispatcher, db: PandaDb, uploads: Uploads, renewals: Renewals) -> None:
        self._dispatcher = dispatcher
        self._db = db
        self._uploads = uploads
        self._renewals = renewals
        self._methods: dict[str, Callable[[_Call], Answer]] = {
            "getJob": self._get_job,
            "updateJob": self._update_job,
            "updateJobsInBulk": self._update_bulk,
            "getStatus": self._get_status,
            "checkJobStatus": self._check_status,
            "updateWorkerPilotStatus": self._worker_status,
            "getProxy": _get_proxy,
            "getKeyPair": _get_key_pair,
            "get_access_token": self._get_access_token,
            "get_token_key": _get_token_key,
            "getResourceTypes": _resource_types,
            "isAlive": lambda _: Answer.text(200, "alive=yes"),
            "putFile": self._put_file,
        }

    def handle(self, request: Request, caller: Caller) -> Answer:
        rest = request.path.removeprefix("/server/panda/").split("/")
        name = rest[0] if len(rest) == 1 else ""
        if name not in self._methods:
            return forbidden(name)
        try:
            given = _arguments(request)
            _check_names(name, given)
            call = _Call(caller, given, request.header("Accept") == "application/json")
            return self._methods[name](call)
        except _PythonError as error:
            return Answer.text(500, str(error))

    def _get_job(self, call: _Call) -> Answer:
        given, caller = call.given, call.caller
        label = str(given.get("prodSourceLabel", ""))
        if caller.dn is None or (not caller.is_legacy_pilot and label != "user"):
            return call.refusal(NO_ROLE, _ROLE_TEXT)
        jobs = self._dispatcher.acquire(
            JobRequest(
                site=str(given["siteName"]),
                label=label,
                memory_mb=_int(given.get("mem") or 0),
                disk_mb=_int(given.get("diskSpace") or 0),
                remaining_time_s=_int(given.get("remaining_time") or 0),
                resource_type=given.get("resourceType"),
                computing_element=given.get("computingElement"),
                node=given.get("node"),
                user=given.get("prodUserID") if caller.is_legacy_pilot else caller.name,
                task_id=_int(given["taskID"]) if given.get("taskID") else None,
                n_jobs=_int(given.get("nJobs") or 1),
                scheduler_id=given.get("schedulerID"),
            )
        )
        if not jobs:
            return call.refusal(NO_JOBS, "no jobs in PanDA")
        return call.answer({"StatusCode": SUCCESS, "jobs": jobs} if "nJobs" in given else jobs[0])

    def _update_job(self, call: _Call) -> Answer:
        if not call.caller.is_legacy_pilot:
            return call.refusal(NO_ROLE, _ROLE_TEXT)
        return call.answer(self._updated(call.given))

    def _updated(self, given: dict[str, Any]) -> dict[str, Any]:
        status = str(given["state"])
        if given["jobId"] == "NULL" or status not in PILOT_STATES:
            return {"StatusCode": SUCCESS}
        panda_id = _int(given["jobId"])
        values = {c.v1: value for c in COLUMNS if (value := _column_value(c, given.get(c.legacy))) is not None}
        report, metadata = str(given.get("xml", "")), str(given.get("metaData", ""))
        answer = self._dispatcher.update(
            Update(panda_id, status, _int_or_none(given.get("attemptNr")), report, metadata, values)
        )
        if answer.status_code == FAILED:
            return {"StatusCode": FAILED}
        secrets = {"pilotSecrets": "{}"} if answer.debug else {}
        return {"StatusCode": answer.status_code, "command": answer.command, **secrets}

    def _update_bulk(self, call: _Call) -> Answer:
        """`[bool, list]` as text; each answer is a JSON text inside JSON, or a url-encoded text."""
        if not call.caller.is_legacy_pilot:
            return call.refusal(NO_ROLE, _ROLE_TEXT)
        try:
            answers = [self._bulk_entry(call, dict(entry)) for entry in json.loads(call.given["jobList"])]
        except (KeyError, ValueError, TypeError, _PythonError) as error:
            kind = "ValueError" if isinstance(error, _PythonError) else type(error).__name__
            return _text([False, f"updateJobsInBulk {call.given.get('harvester_id')} failed with {kind} {error}"])
        return _text([True, answers])

    def _bulk_entry(self, call: _Call, entry: dict[str, Any]) -> Any:
        for key in ("jobId", "state"):
            if key not in entry:
                raise KeyError(key)
        _check_names("updateJob", entry)
        values = self._updated(entry)
        return {"type": "json", "content": json.dumps(values)} if call.json else _url_encoded(values)

    def _get_status(self, call: _Call) -> Answer:
        """Url-encoded whatever is accepted, and open to anybody."""
        rows = self._dispatcher.statuses(_int(text) for text in str(call.given["ids"]).split())
        joined = {
            "StatusCode": SUCCESS,
            "status": "+".join(row[1] or "notfound" for row in rows),
            "attemptNr": "+".join(str(row[2]) for row in rows),
        }
        return Answer.text(200, _url_encoded(joined))

    def _check_status(self, call: _Call) -> Answer:
        rows = self._dispatcher.statuses(_int(text) for text in str(call.given["ids"]).split(","))
        data = [{"command": command, "status": status or "unknown"} for _, status, _, command in rows]
        return _json({"StatusCode": SUCCESS, "data": data})

    def _worker_status(self, call: _Call) -> Answer:
        given, caller = call.given, call.caller
        if caller.dn is None:
            return Answer.text(200, "failed to retrieve DN")
        if not caller.is_legacy_pilot:
            return Answer.text(200, "production or pilot role is required")
        if given["status"] not in ("started", "finished"):
            return Answer.text(200, "Invalid worker state. The worker state has to be in ('started', 'finished')")
        known = note_worker(
            self._db, str(given["harvesterID"]), given["workerID"], given["status"], given.get("node_id")
        )
        return call.answer({"StatusCode": SUCCESS if known else FAILED})

    def _get_access_token(self, call: _Call) -> Answer:
        given, name = call.given, call.caller.name
        try:
            token = self._renewals.token(name, given["client_name"], given.get("token_key"))
        except RenewalRefused as refusal:
            who = f"'{name}' not in the authorized user list who have 'p' {_GRIDPREF}"
            return call.refusal(NO_PERMISSION, refusal.words or f"failed since {who} to get access token")
        return call.answer({"StatusCode": SUCCESS, "userProxy": token})

    def _put_file(self, call: _Call) -> Answer:
        refusal = self._uploads.store(call.given, call.caller)
        return Answer.text(200, f"ERROR : {refusal}" if refusal else "True")


def forbidden(method: str) -> Answer:
    return Answer.text(403, f"ERROR : method {method} is forbidden")


def _get_proxy(call: _Call) -> Answer:
    """Always JSON."""
    text = f"failed since '{call.caller.name}' not in the authorized user list who have 'p' {_GRIDPREF} to get proxy"
    if call.caller.dn is None:
        text = "Cannot extract DN from proxy. not HTTPS?"
    return _json({"StatusCode": NO_PERMISSION, "errorDialog": text})


def _get_key_pair(call: _Call) -> Answer:
    names = f"{call.given['publicKeyName']}/{call.given['privateKeyName']}"
    text = f"getKeyPair {names} json={call.json}: failed since '{call.caller.name}' not authorized with 'k' {_GRIDPREF}"
    return call.refusal(NO_PERMISSION, text)


def _get_token_key(call: _Call) -> Answer:
    return call.refusal(NO_PERMISSION, f"denied since '{call.caller.name}' not authorized with 't' {_GRIDPREF}")


def _resource_types(call: _Call) -> Answer:
    keys = ("resource_name", "mincore", "maxcore", "minrampercore", "maxrampercore")
    types = [dict(zip(keys, row, strict=True)) for row in _RESOURCE_TYPES]
    return call.answer({"StatusCode": SUCCESS, "Returns": 0, "ResourceTypes": types})


def _arguments(request: Request) -> dict[str, Any]:
    """Query string, form, or JSON, which is unzipped without asking whether it was zipped."""
    if request.method == "GET":
        return {name: values[-1] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
    content_type = request.header("Content-Type")
    if content_type != "application/json":
        return form_fields(content_type, request.body)
    try:
        value = json.loads(gzip.decompress(request.body))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise _PythonError(str(error)) from None
    if not isinstance(value, dict):
        raise _PythonError(f"'{type(value).__name__}' object has no attribute 'items'")
    return {name: str(item) if isinstance(item, bool) else item for name, item in value.items()}


def _check_names(method: str, given: dict[str, Any]) -> None:
    """Python's own complaints about arguments, which the server shows as they are."""
    table = _PARAMETERS[method].split()
    known = {name.rstrip("!") for name in table}
    for name in given:
        if name not in known:
            raise _PythonError(f"{method}() got an unexpected keyword argument '{name}'")
    required = [name.rstrip("!") for name in table if name.endswith("!")]
    missing = [f"'{name}'" for name in required if name not in given]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        names = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
        if len(missing) > 2:
            names = f"{', '.join(missing[:-1])}, and {missing[-1]}"
        raise _PythonError(f"{method}() missing {len(missing)} required positional argument{plural}: {names}")


def _column_value(column: Column, value: Any) -> Any:
    """A text as its column's kind; what is no number is dropped, refused by the database, or a Python error."""
    if value is None or value == "":
        return None
    if column.kind == "text":
        return str(value)
    if column.kind == "time":
        return valid_time(value)
    if column.legacy.startswith("avg"):
        return _float(value)
    number = _number_or_none(value)
    # The text goes on to the database, which refuses it.
    return number if number is not None or column.legacy in _LENIENT else str(value)


def _number_or_none(value: Any) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(value)
        except (TypeError, ValueError):
            continue
    return None


def _int_or_none(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _int(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise _PythonError(str(error)) from None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise _PythonError(str(error)) from None


def _url_encoded(values: dict[str, Any]) -> str:
    flat = {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in values.items()}
    return urlencode(flat)


def _json(value: object) -> Answer:
    return Answer.text(200, json.dumps(value), "application/json")


def _text(value: object) -> Answer:
    return Answer.text(200, json.dumps(value))
