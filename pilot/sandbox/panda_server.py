"""Routing: which part of the world answers a request, with the ledger and the faults around it."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable
from urllib.parse import parse_qs

from pilot.sandbox.callers import Callers
from pilot.sandbox.control_server import ControlServer
from pilot.sandbox.cric_server import Cric
from pilot.sandbox.dispatcher import Dispatcher
from pilot.sandbox.faults import Faults
from pilot.sandbox.http_server import Answer, Request
from pilot.sandbox.monitor import Monitor
from pilot.sandbox.panda_db import PandaDb
from pilot.sandbox.panda_legacy import PandaLegacy, forbidden
from pilot.sandbox.panda_v1 import PandaV1
from pilot.sandbox.tokens import Google, Renewals
from pilot.sandbox.upload import Uploads

API_CHOICES = ("both", "v1", "legacy")
STORE_FRONTS = ("gcs", "s3")
LARGEST_LEDGER_TEXT = 1_000_000

_NOT_FOUND = (
    '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">\n<html><head>\n'
    "<title>404 Not Found</title>\n</head><body>\n<h1>Not Found</h1>\n"
    "<p>The requested URL was not found on this server.</p>\n</body></html>\n"
)
_BASH_C = """#!/bin/bash
# Runs its one argument as a command line.
exec /bin/bash -c "$1"
"""
_BASH_C_ENC = """#!/bin/bash
# Runs its one argument, a base64 text, as a command line.
command=$(printf %s "$1" | base64 -d) || { echo "bash-c-enc: the argument is not base64" >&2; exit 2; }
exec /bin/bash -c "$command"
"""
TRANSFORMS = {"bash-c": _BASH_C, "bash-c-enc": _BASH_C_ENC, "bash-c-enc-new": _BASH_C_ENC}


class PandaServer:
    """One `answer` for every listener; what a listener serves depends on its name."""

    def __init__(
        self,
        db: PandaDb,
        dispatcher: Dispatcher,
        callers: Callers,
        faults: Faults,
        cric: Cric,
        google: Google,
        uploads: Uploads,
        renewals: Renewals,
        control: ControlServer,
        monitor: Monitor,
        apis: str,
    ) -> None:
        self._db = db
        self._callers = callers
        self._faults = faults
        self._cric = cric
        self._google = google
        self._uploads = uploads
        self._control = control
        self._monitor = monitor
        self._v1 = PandaV1(dispatcher, db, uploads, renewals)
        self._legacy = PandaLegacy(dispatcher, db, uploads, renewals)
        self._store_routes: dict[str, Callable[[Request], Answer]] = {}
        self.set_apis(apis)

    def add_store(self, name: str, route: Callable[[Request], Answer]) -> None:
        """Serve the listener `name`, one of STORE_FRONTS, by `route`."""
        self._store_routes[name] = route

    def set_apis(self, apis: str) -> None:
        """Which API generations the server speaks: "both", "v1" (a 1.0 server) or "legacy" (one without `/api/v1`)."""
        if apis not in API_CHOICES:
            raise ValueError(f"apis must be one of {', '.join(API_CHOICES)}, not {apis!r}.")
        self._apis = apis

    def answer(self, request: Request) -> Answer:
        if request.path.startswith("/sandbox/"):
            return self._control.answer(request)
        if f"{request.path}/".startswith(("//", "/monitor/")) and request.server in ("panda", "plain"):
            return self._monitor.answer(request)
        return self._recorded(request)

    def _recorded(self, request: Request) -> Answer:
        """Answer with an entry in the ledger and the fault that is due."""
        text = decoded_body(request)
        # Signed assertions, access tokens and stored data have no business in the ledger.
        quiet = request.server in STORE_FRONTS or "token" in request.path or "entries" in request.path
        fault = self._faults.take(request, text)
        seq = self._db.open_entry(
            server=request.server,
            method=request.method,
            path=f"{request.path}?{request.query}" if request.query else request.path,
            caller=request.dn or ("bearer token" if request.header("Authorization") else None),
            body=f"({len(request.body)} bytes)" if quiet else text,
            fault=fault.kind if fault else None,
        )
        right = self._routed(request) if fault is None or fault.commit else None
        committed = time.time() if right else None
        answer = fault.answer(request, right) if fault else right
        if answer is None:
            raise AssertionError("without a fault there is always the right answer")
        shown = "" if quiet else (right or answer).body[:LARGEST_LEDGER_TEXT].decode("utf-8", "replace")
        self._db.complete_entry(seq, committed=committed, status=answer.status, answer=shown)
        return answer

    def _routed(self, request: Request) -> Answer:
        routes: dict[str, Callable[[Request], Answer]] = {
            "panda": self._panda,
            "cric": self._cric.answer,
            "google": self._google_answer,
            "plain": self._plain,
            **self._store_routes,
        }
        return routes[request.server](request)

    def _panda(self, request: Request) -> Answer:
        parts = request.path.split("/")
        if request.path.startswith("/cache/schedconfig/"):
            return self._cric.schedconfig(parts[-1])
        if request.path.startswith("/cache/"):
            content = self._uploads.read(parts[-1])
            return _not_found() if content is None else Answer(200, content)
        if request.path.startswith("/api/") and self._apis != "legacy":
            caller = self._callers.identify(request)
            return caller if isinstance(caller, Answer) else self._v1.handle(request, caller)
        if request.path.startswith("/server/panda/"):
            caller = self._callers.identify(request)
            if isinstance(caller, Answer):
                return caller
            # A 1.0 server knows the path and no method under it.
            return forbidden(parts[-1]) if self._apis == "v1" else self._legacy.handle(request, caller)
        return _not_found()

    def _google_answer(self, request: Request) -> Answer:
        if request.path == "/oauth/token":
            return self._google.token_endpoint(request)
        if request.path == "/v2/entries:write" and request.method == "POST":
            return self._google.write_log_entries(request)
        name = request.path.removeprefix("/transforms/")
        if request.path.startswith("/transforms/") and name in TRANSFORMS:
            return Answer.text(200, TRANSFORMS[name], "application/octet-stream")
        return _not_found()

    def _plain(self, request: Request) -> Answer:
        if request.path.startswith("/computeMetadata"):
            return self._google.metadata(request)
        return self._panda(request)


def _not_found() -> Answer:
    return Answer.text(404, _NOT_FOUND, "text/html; charset=iso-8859-1")


def decoded_body(request: Request) -> str:
    """A request's body as readable text for the ledger: unzipped, forms as JSON, cut where it is enormous."""
    body = request.body
    if body[:2] == b"\x1f\x8b":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error):
            pass
    text = body[:LARGEST_LEDGER_TEXT].decode("utf-8", "replace")
    if request.header("Content-Type") == "application/x-www-form-urlencoded":
        return json.dumps({name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()})
    return text
