"""Scripted misbehaviour: the next N requests that match go wrong in a named way."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

from pilot.sandbox.http_server import Answer, Request

# What each kind does with a request; `commit` says whether the server acts on it first.
KINDS = {
    "status": "answer with `status` and do nothing",
    "hang": "say nothing for `delay_s`, then reset",
    "reset": "end the connection with a TCP reset",
    "garbage": "answer 200 with bytes that are no JSON",
    "html": "answer `status` with a page of a proxy in between",
    "empty": "answer 200 with an empty body",
    "slow": "answer rightly after `delay_s`",
    "drip": "answer rightly, one byte each `delay_s`",
    "huge": "answer 200 with `size_bytes` of blanks",
    "database": "answer that the database failed and nothing was stored (StatusCode 30)",
    "truncated": "answer rightly with half of the body and cut the connection",
}
_ALIASES = {"reset-before": ("reset", False), "reset-after-commit": ("reset", True)}
_ALWAYS_COMMIT = ("slow", "drip", "truncated")
_HTML = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Fault:
    """`path` is a part of the request path, `contains` a part of its body, `server` one listener's name; empty: any."""

    kind: str
    path: str = ""
    contains: str = ""
    server: str = ""
    count: int = 1
    skip: int = 0
    commit: bool = False
    status: int = 503
    delay_s: float = 3600.0
    size_bytes: int = 1024 * 1024

    def matches(self, request: Request, text: str) -> bool:
        return self.path in request.path and self.server in ("", request.server) and self.contains in text

    def answer(self, request: Request, right: Answer | None) -> Answer:
        """The wrong answer, made from the right one where there is one."""
        if self.kind == "hang":
            return Answer(200, delay_s=self.delay_s, reset=True)
        if self.kind == "reset":
            return Answer(200, reset=True)
        if self.kind == "garbage":
            return Answer(200, b'{"success": tru\xff\xfe\x00', "application/json")
        if self.kind == "html":
            return Answer.text(self.status, _HTML, "text/html")
        if self.kind == "empty":
            return Answer(200)
        if self.kind == "database":
            return _database_error(request)
        if self.kind == "huge":
            return Answer(200, b" " * self.size_bytes)
        if right is None:
            return Answer.text(self.status, f"refused by the sandbox with {self.status}")
        if self.kind == "slow":
            return replace(right, delay_s=self.delay_s)
        if self.kind == "drip":
            return replace(right, drip_s=self.delay_s)
        return replace(right, truncated=True)


def make_fault(kind: str, **options: Any) -> Fault:
    """A Fault from its name and options; ValueError with a sentence when they make no sense."""
    if kind in _ALIASES:
        kind, options["commit"] = _ALIASES[kind]
    if kind not in KINDS:
        raise ValueError(f"There is no fault {kind!r}; known are {', '.join([*KINDS, *_ALIASES])}.")
    if kind in _ALWAYS_COMMIT:
        options["commit"] = True
    try:
        return Fault(kind, **options)
    except TypeError as error:
        raise ValueError(f"Fault {kind}: {error}.") from None


def _database_error(request: Request) -> Answer:
    failed = {"StatusCode": 30}
    if request.path.startswith("/api/"):
        return Answer.text(200, json.dumps({"success": True, "message": "Database error", "data": failed}))
    if request.header("Accept") == "application/json":
        return Answer.text(200, json.dumps(failed), "application/json")
    return Answer.text(200, "StatusCode=30")


class Faults:
    """The faults to come, first in first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def pending(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._pending]

    def take(self, request: Request, text: str) -> Fault | None:
        """The fault for this request with the decoded body `text`, used up by one; None when it shall go right."""
        with self._lock:
            for i, fault in enumerate(self._pending):
                if not fault.matches(request, text):
                    continue
                if fault.skip:
                    self._pending[i] = replace(fault, skip=fault.skip - 1)
                    return None
                if fault.count > 1:
                    self._pending[i] = replace(fault, count=fault.count - 1)
                else:
                    del self._pending[i]
                return fault
        return None
