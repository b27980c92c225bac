"""The wire of `/api/v1`: strict JSON types, `{success, message, data}`, as the recorded server answers.

Parameter tables read `name:kind` with `!` for required and `=value` for a default; `int|float` behaves as recorded:
a wrong type there trips the server's own check.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from pilot.sandbox.callers import Caller
from pilot.sandbox.columns import COLUMNS
from pilot.sandbox.dispatcher import FAILED, PILOT_STATES, Dispatcher, JobRequest, Update, valid_time
from pilot.sandbox.http_server import Answer, Request
from pilot.sandbox.panda_db import PandaDb
from pilot.sandbox.tokens import RenewalRefused, Renewals
from pilot.sandbox.upload import Uploads, form_fields

NOT_SECURE = "SSL secure connection is required"
NO_ROLE = "production or pilot role required"
NO_ACQUIRE_ROLE = "no production/pilot role in VOMS FQANs or non pilot owner"
_UNION_CRASH = "'types.UnionType' object has no attribute '__name__'"
_INVALID = 50

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (float,),
    "list": (list,),
    "int|float": (int, float),
    "any": (object,),
}


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    kind: str
    required: bool
    default: Any


def _parameters(table: str) -> tuple[_Parameter, ...]:
    parameters = []
    for item in table.split():
        name, _, rest = item.partition(":")
        kind, has_default, default = rest.partition("=")
        value = json.loads(default) if has_default else None
        parameters.append(_Parameter(name, kind.rstrip("!"), kind.endswith("!"), value))
    return tuple(parameters)


def _update_parameters() -> str:
    kinds = {"text": "str", "time": "str", "int": "int", "number": "int|float"}
    rest = [f"{c.v1}:{kinds[c.kind]}" for c in COLUMNS if c.v1 not in ("stdout", "pilot_log")]
    return (
        "job_id:int! job_status:str! attempt_nr:int site_name:str timeout:int=60 "
        'job_output_report:str="" meta_data:str="" pilot_log:str="" stdout:str="" ' + " ".join(rest)
    )


_ACQUIRE = _parameters(
    "site_name:str! timeout:int=60 memory:int disk_space:int prod_source_label:str node:str computing_element:str "
    "prod_user_id:str get_proxy_key:str task_id:int n_jobs:int=1 background:bool resource_type:str harvester_id:str "
    "worker_id:int scheduler_id:str job_type:str via_topic:bool remaining_time:int target_architecture:any"
)
_UPDATE = _parameters(_update_parameters())
_WORKER_NODE = _parameters(
    "site:str! panda_queue:str host_name:str! cpu_model:str! n_logical_cpus:int n_sockets:int cores_per_socket:int "
    "threads_per_core:int cpu_architecture:str cpu_architecture_level:str clock_speed:float total_memory:int "
    "total_local_disk:int"
)
_WORKER_GPU = _parameters(
    "site:str! host_name:str! vendor:str! model:str! count:int! vram:int architecture:str framework:str "
    "framework_version:str driver_version:str"
)


class _Refused(Exception):
    """The call ends with `success: false` and this message."""


class _ServerError(Exception):
    """The call ends with HTTP 500 and this bare text."""


_Call = Callable[[Caller, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class _Method:
    call: _Call
    parameters: tuple[_Parameter, ...] = ()
    verb: str = "POST"
    secure: bool = True
    production: bool = True


class PandaV1:
    """Answers `/api/...` requests for an identified caller."""

    def __init__(self, dispatcher: Dispatcher, db: PandaDb, uploads: Uploads, renewals: Renewals) -> None:
        self._dispatcher = dispatcher
        self._db = db
        self._uploads = uploads
        self._renewals = renewals
        self._methods = {
            "pilot/acquire_jobs": _Method(self._acquire, _ACQUIRE, production=False),
            "pilot/update_job": _Method(self._update, _UPDATE),
            "pilot/update_jobs_bulk": _Method(self._update_bulk, _parameters("job_list:list! harvester_id:str")),
            "pilot/get_job_status": _Method(self._status, _parameters("job_ids:list!"), "GET", production=False),
            "pilot/update_worker_status": _Method(
                self._worker, _parameters("worker_id:any! harvester_id:str! status:str! node_id:str")
            ),
            "pilot/update_worker_node": _Method(lambda *_: _done("Inserted new worker node."), _WORKER_NODE),
            "pilot/update_worker_node_gpu": _Method(lambda *_: _done("Inserted new worker node GPU."), _WORKER_GPU),
            "job/kill": _Method(self._kill, _parameters("job_ids:list! code:int")),
            "job/set_debug_mode": _Method(self._set_debug, _parameters("job_id:int! mode:bool!")),
            "job/set_command": _Method(self._set_command, _parameters("job_id:int! command:str!")),
            "creds/get_proxy": _credential(
                "failed: {} not in authorized users with 'p' in {} to get proxy", "role:str dn:str"
            ),
            "creds/get_access_token": _Method(
                self._access_token, _parameters("client_name:str! token_key:str"), "GET", production=False
            ),
            "creds/get_token_key": _credential("Denied since {} not authorized with 't' in {}", "client_name:str!"),
            "creds/get_key_pair": _credential(
                "Failed since {} not authorized with 'k' in {}", "public_key_name:str! private_key_name:str!"
            ),
            "creds/get_user_secrets": _Method(lambda *_: "{}", _parameters("keys:str"), "GET", production=False),
            "system/is_alive": _Method(lambda *_: None, verb="GET", secure=False, production=False),
            "system/get_user_attributes": _Method(_attributes, verb="GET", secure=False, production=False),
            "file_server/upload_cache_file": _Method(self._upload, _parameters("file:any!"), production=False),
        }

    def handle(self, request: Request, caller: Caller) -> Answer:
        version, module, method = ([*request.path.split("/")[2:], "", "", ""])[:3]
        found = self._methods.get(f"{module}/{method}")
        if version != "v1" or found is None or len(request.path.split("/")) != 5:
            name = method if len(request.path.split("/")) == 5 else ""
            return Answer.text(403, f"ERROR : method {name} is forbidden")
        try:
            arguments = _arguments(request)
            return self._wire(request, self._run(found, request.method, caller, arguments))
        except _ServerError as error:
            return Answer.text(500, str(error))

    def _run(self, method: _Method, verb: str, caller: Caller, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            self._check(method, verb, caller)
            result = method.call(caller, _bound(method.parameters, arguments, cast=verb == "GET"))
        except _Refused as refusal:
            message, data = refusal.args if len(refusal.args) == 2 else (str(refusal), None)
            return {"success": False, "message": message, "data": data}
        if isinstance(result, _Done):
            return {"success": True, "message": result.message, "data": result.data}
        return {"success": True, "message": "", "data": result}

    def _check(self, method: _Method, verb: str, caller: Caller) -> None:
        if method.secure and (caller.dn is None or caller.is_limited):
            raise _Refused(NOT_SECURE)
        if method.production and not caller.has_production_role:
            raise _Refused(NO_ROLE)
        if verb != method.verb:
            raise _Refused(f"expecting {method.verb}, received {verb}")

    def _wire(self, request: Request, result: dict[str, Any]) -> Answer:
        """JSON only when Accept or Content-Type equals application/json, else Python's repr; always text/plain."""
        exact = "application/json" in (request.header("Accept"), request.header("Content-Type"))
        return Answer.text(200, json.dumps(result) if exact else repr(result))

    # pilot

    def _acquire(self, caller: Caller, given: dict[str, Any]) -> Any:
        label = given["prod_source_label"] or ""
        if not caller.has_production_role and label != "user":
            raise _Refused(NO_ACQUIRE_ROLE)
        jobs = self._dispatcher.acquire(
            JobRequest(
                site=given["site_name"],
                label=label,
                memory_mb=given["memory"] or 0,
                disk_mb=given["disk_space"] or 0,
                remaining_time_s=given["remaining_time"] or 0,
                resource_type=given["resource_type"],
                computing_element=given["computing_element"],
                node=given["node"],
                user=given["prod_user_id"] if caller.has_production_role else caller.name,
                task_id=given["task_id"],
                n_jobs=given["n_jobs"],
                scheduler_id=given["scheduler_id"],
            )
        )
        if not jobs:
            raise _Refused("No jobs in PanDA")
        return {"StatusCode": 0, "jobs": jobs}

    def _update(self, _caller: Caller, given: dict[str, Any]) -> Any:
        status = given["job_status"]
        if status not in PILOT_STATES:
            raise _Refused(f"Invalid job status: {status}", {"StatusCode": _INVALID})
        values = {c.v1: given[c.v1] for c in COLUMNS}
        for key in ("start_time", "end_time"):
            values[key] = valid_time(values[key])
        answer = self._dispatcher.update(
            Update(given["job_id"], status, given["attempt_nr"], given["job_output_report"], given["meta_data"], values)
        )
        if answer.status_code == FAILED:
            return _done("Database error", {"StatusCode": FAILED})
        secrets = {"pilotSecrets": "{}"} if answer.debug else {}
        return {"StatusCode": answer.status_code, **secrets, "command": answer.command}

    def _update_bulk(self, caller: Caller, given: dict[str, Any]) -> Any:
        """Entries before a broken one stay applied, as on the real server."""
        results = []
        method = self._methods["pilot/update_job"]
        for entry in given["job_list"]:
            missing = [key for key in ("job_id", "job_status") if key not in entry]
            if missing:
                raise _Refused(f"failed with KeyError '{missing[0]}'", [])
            try:
                results.append(self._run(method, "POST", caller, entry))
            except _ServerError as error:
                raise _Refused(f"failed with AttributeError {error}", []) from None
        return results

    def _status(self, _caller: Caller, given: dict[str, Any]) -> Any:
        return [
            {"job_id": panda_id, "status": status or "not found", "attempt_number": attempt}
            for panda_id, status, attempt, _ in self._dispatcher.statuses(given["job_ids"])
        ]

    def _worker(self, _caller: Caller, given: dict[str, Any]) -> Any:
        if given["status"] not in ("started", "finished"):
            raise _Refused("Invalid worker state. The worker state has to be in ('started', 'finished')")
        if not note_worker(self._db, given["harvester_id"], given["worker_id"], given["status"], given["node_id"]):
            raise _Refused("Failed to update worker status")
        return None

    def _upload(self, caller: Caller, given: dict[str, Any]) -> Any:
        refusal = self._uploads.store(given, caller)
        if refusal:
            raise _Refused(f"ERROR: {refusal}")

    def _access_token(self, caller: Caller, given: dict[str, Any]) -> Any:
        try:
            return {"user_proxy": self._renewals.token(caller.name, given["client_name"], given["token_key"])}
        except RenewalRefused as refusal:
            words = "failed: {} not in authorized users with 'p' in DOMA_PANDAMETA.USERS.GRIDPREF to get access token"
            raise _Refused(refusal.words or words.format(repr(caller.name))) from None

    # operators

    def _kill(self, caller: Caller, given: dict[str, Any]) -> Any:
        return [self._dispatcher.kill(panda_id, caller.dn or "") for panda_id in given["job_ids"]]

    def _set_debug(self, _caller: Caller, given: dict[str, Any]) -> Any:
        self._dispatcher.set_debug(given["job_id"], given["mode"])
        # The recorded server says so and still answers success false.
        raise _Refused("Succeeded")

    def _set_command(self, _caller: Caller, given: dict[str, Any]) -> Any:
        self._dispatcher.set_command(given["job_id"], given["command"])
        return _done("command received")


def note_worker(db: PandaDb, harvester_id: str, worker_id: object, status: str, node_id: str | None) -> bool:
    """Keep a worker's pilot status; False when the worker id is no number."""
    try:
        number = int(str(worker_id))
    except ValueError:
        return False
    times = {"started": 1} if status == "started" else {"ended": 1}
    db.set_worker(harvester_id, number, pilotstatus=status, nodeid=node_id, **times)
    return True


@dataclass(frozen=True, slots=True)
class _Done:
    message: str
    data: Any = None


def _done(message: str, data: Any = None) -> _Done:
    return _Done(message, data)


def _credential(refusal: str, parameters: str) -> _Method:
    def refuse(caller: Caller, _given: dict[str, Any]) -> Any:
        raise _Refused(refusal.format(repr(caller.name), "DOMA_PANDAMETA.USERS.GRIDPREF"))

    return _Method(refuse, _parameters(parameters), "GET", production=False)


def _attributes(caller: Caller, _given: dict[str, Any]) -> _Done:
    raw, fqans, production = caller.dn, list(caller.fqans), caller.has_production_role
    bare, clean = raw, caller.name
    message = (
        f"User DN (raw): {raw}\nUser DN (bare): {bare}\nUser DN (clean): {clean}\nEmail address: None\nFQANs: {fqans}\n"
        f"Production user: {production}\nProduction working groups: []\nPrimary production working group: None\n"
    )
    data = {
        "user_dn_raw": raw,
        "user_dn_clean": clean,
        "fqans": fqans,
        "is_production_user": production,
        "production_working_groups": [],
        "primary_working_group": None,
    }
    return _done(message, data)


def _arguments(request: Request) -> dict[str, Any]:
    """The call's keyword arguments: JSON object, form texts, or the query string's lists of texts."""
    if request.method == "GET":
        return dict(parse_qs(request.query, keep_blank_values=True))
    body = request.body
    if request.header("Content-Encoding") == "gzip":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise _ServerError(str(error)) from None
    if request.header("Content-Type") != "application/json":
        return form_fields(request.header("Content-Type"), body)
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        raise _ServerError(f"ERROR : received invalid JSON : {error}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise _ServerError(str(error)) from None
    if not isinstance(value, dict):
        module, method = request.path.split("/")[3:5]
        kind = type(value).__name__
        raise _ServerError(
            f"pandaserver.api.v1.{module}_api.{method}() argument after ** must be a mapping, not {kind}"
        )
    return value


def _bound(parameters: tuple[_Parameter, ...], given: dict[str, Any], *, cast: bool) -> dict[str, Any]:
    """Arguments bound as the server binds them: missing ones are named first, then unknown ones, then wrong types."""
    for parameter in parameters:
        if parameter.required and parameter.name not in given:
            raise _Refused(f"Argument error: missing a required argument: '{parameter.name}'")
    names = {parameter.name for parameter in parameters}
    for name in given:
        if name not in names:
            raise _Refused(f"Argument error: got an unexpected keyword argument '{name}'")
    return {p.name: _typed(p, given[p.name], cast) if p.name in given else p.default for p in parameters}


def _typed(parameter: _Parameter, value: Any, cast: bool) -> Any:
    if not parameter.required and value == parameter.default:
        return value
    if cast:
        value = _cast(parameter, value)
    if isinstance(value, _TYPES[parameter.kind]):
        return value
    if parameter.kind == "int|float":
        raise _ServerError(_UNION_CRASH)
    raise _Refused(f"Type error: '{parameter.name}' must be of type {parameter.kind}, got {type(value).__name__}.")


def _cast(parameter: _Parameter, values: list[str]) -> Any:
    """A query string's texts as the declared type; the only lists are lists of numbers."""
    try:
        if parameter.kind == "list":
            return [int(value) for value in values]
        return int(values[-1]) if parameter.kind == "int" else values[-1]
    except ValueError:
        kind = "List" if parameter.kind == "list" else parameter.kind
        shown, got = (values, "list") if parameter.kind == "list" else (values[-1], "str")
        message = f"Type error: '{parameter.name}' with value '{shown}' could not be casted to type {kind} from {got}."
        raise _Refused(message) from None
