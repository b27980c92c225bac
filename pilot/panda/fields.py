"""The parameters the server knows, their types and column widths; values are fitted to them before they are sent.

v1 refuses a whole update over one unknown name, one wrong type or one null (panda-wire, section 6). A report must not
be lost over such a field: what can be converted keeps its meaning, what cannot is left out with a word in the log.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pilot.job.states import JobState
from pilot.panda.wire import NotSendable
from pilot.ports import AcquireRequest

log = logging.getLogger(__name__)

FieldType = Literal["int", "number", "text", "time"]

ACQUIRE_FIELDS: Mapping[str, FieldType] = {
    "site_name": "text",
    "prod_source_label": "text",
    "memory": "int",
    "disk_space": "int",
    "remaining_time": "int",
    "resource_type": "text",
    "computing_element": "text",
    "node": "text",
    "prod_user_id": "text",
    "task_id": "int",
    "n_jobs": "int",
    "job_type": "text",
    "scheduler_id": "text",
    "harvester_id": "text",
    "worker_id": "int",
}

_INTS = "job_id attempt_nr core_count mean_core_count cpu_consumption_time n_events n_input_files trans_exit_code"
_MORE_INTS = "pilot_error_code exe_error_code timeout"
_NUMBERS = "cpu_conversion_factor max_rss max_vmem max_swap max_pss avg_rss avg_vmem avg_swap avg_pss"
_IO_NUMBERS = "tot_rchar tot_wchar tot_rbytes tot_wbytes rate_rchar rate_wchar rate_rbytes rate_wbytes"
_TEXTS = "job_status site_name node scheduler_id pilot_id batch_id job_sub_status"
_MORE_TEXTS = "cpu_consumption_unit cpu_architecture_level job_metrics pilot_timing pilot_error_diag exe_error_diag"
_LONG_TEXTS = "job_output_report meta_data pilot_log stdout corrupted_files grid source_site destination_site"

UPDATE_FIELDS: Mapping[str, FieldType] = {
    **dict.fromkeys(f"{_INTS} {_MORE_INTS}".split(), "int"),
    **dict.fromkeys(f"{_NUMBERS} {_IO_NUMBERS}".split(), "number"),
    **dict.fromkeys(("start_time", "end_time"), "time"),
    **dict.fromkeys(f"{_TEXTS} {_MORE_TEXTS} {_LONG_TEXTS}".split(), "text"),
}

# Columns the server does not cut: one character more and the whole update fails (pilot_timing recorded, the others read
# in the server). Texts it cuts itself are left to it.
_MAX_CHARS: Mapping[str, int] = {"pilot_timing": 100, "scheduler_id": 128, "cpu_consumption_unit": 128}
_SENDABLE_STATES = frozenset(state.value for state in JobState)
_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_MAX_INT = 2**63 - 1  # a larger number is a database error for the whole update


def acquire_fields(request: AcquireRequest) -> dict[str, Any]:
    """A job request in v1 names. Raises NotSendable without a queue."""
    fields = fitted(
        {
            "site_name": request.site_name,
            "prod_source_label": request.prod_source_label,
            "memory": request.memory_mb,
            "disk_space": request.disk_space_mb,
            "remaining_time": request.remaining_time_s,
            "resource_type": request.resource_type,
            "computing_element": request.computing_element,
            "node": request.node,
            "job_type": request.job_type,
            "scheduler_id": request.scheduler_id,
            "harvester_id": request.harvester_id,
            "worker_id": request.worker_id,
        },
        ACQUIRE_FIELDS,
    )
    _require(fields, "site_name")
    return fields


def update_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An update in v1 names, as the server takes it. Raises NotSendable without a job id or a state the server knows."""
    body = fitted(fields, UPDATE_FIELDS)
    _require(body, "job_id", "job_status")
    if body["job_status"] not in _SENDABLE_STATES:
        raise NotSendable(f"{body['job_status']!r} is no state the PanDA server takes in an update")
    return body


def fitted(fields: Mapping[str, Any], known: Mapping[str, FieldType]) -> dict[str, Any]:
    """The fields with the server's types; unknown, null and unconvertible ones are left out (and logged, names only)."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        wanted = known.get(name)
        fit = None if wanted is None or value is None else _fit(value, wanted)
        if fit is None:
            if value is not None:
                log.warning("field %s (%s) is left out: the server would refuse it", name, type(value).__name__)
            continue
        out[name] = fit[: _MAX_CHARS[name]] if name in _MAX_CHARS else fit
    return out


def _require(fields: Mapping[str, Any], *names: str) -> None:
    """Raise NotSendable when a field without which the server refuses the request is missing."""
    missing = [name for name in names if name not in fields]
    if missing:
        raise NotSendable(f"the request to the PanDA server lacks {', '.join(missing)}")


def _fit(value: Any, wanted: FieldType) -> Any:
    if wanted == "text":
        return _text(value)
    if wanted == "time":  # anything else is dropped by the server without a word
        return value if isinstance(value, str) and re.fullmatch(_TIME, value) else None
    number = _number(value)
    if number is None or abs(number) > _MAX_INT:
        return None
    return round(number) if wanted == "int" else number


def _text(value: Any) -> str | None:
    """Text without NUL and lone surrogates, neither of which the server's database takes."""
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    text = value if isinstance(value, str) else str(value)
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        try:
            value = float(value) if not value.strip().lstrip("-").isdecimal() else int(value[:32])
        except ValueError:
            return None
    if isinstance(value, int):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else None
