"""The sandbox against recordings of two real PanDA servers: each request is sent again, each answer and the jobs' rows
afterwards must be the recorded ones. PandaIDs are bound by the order of their first appearance."""

from __future__ import annotations

import ast
import gzip
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from pilot.sandbox.certs import PILOT_DN
from pilot.sandbox.world import World

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "panda-wire").glob("*.json"))
USER_DN = "/DC=org/DC=example/OU=People/CN=Jane Doe"

# Jobs that were in the queue before the first request, though they appear only later.
WAITING_FROM_THE_START = ("v1-acquire-filters", "v1-acquire-jobs-bulk", "legacy-getjob-bulk")
# Jobs that existed but never came out of an acquire.
NEVER_ACQUIRED = {"v1-get-job-status": (147,), "legacy-getstatus": (108,), "v1-killed-before-start": (121,)}
# What the sandbox does not do as recorded: (scenario, request number) -> why.
NOT_REPRODUCED: dict[tuple[str, int], str] = {}
# Made up by the server for each job, so not comparable: the GUID of an output that was not reported yet.
_UNREPORTED = ("unknown",)


@dataclass
class Replay:
    """One scenario: what it needs from the world, and what happened so far."""

    world: World
    recording: dict[str, Any]
    contexts: dict[str, ssl.SSLContext]
    tokens: dict[str, str]
    ours: dict[int, int] = field(default_factory=dict)
    snapshots: list[list[dict[str, Any]]] = field(default_factory=list)

    def run(self) -> None:
        self.world.panda.set_apis("v1" if self.recording["api"] == "v1" else "both")
        definitions = self._definitions()
        if self.recording["scenario"] in WAITING_FROM_THE_START:
            for recorded_id in sorted(definitions):
                self._seed(recorded_id, definitions)
        for number, request in enumerate(self.recording["requests"]):
            if "after the Adder" in (request.get("comment") or ""):
                self._add()
            for recorded_id in sorted(definitions):
                if _mentions(request, recorded_id):
                    self._seed(recorded_id, definitions)
            self._compare(number, request)
            self._snapshot()
        self._add()

    def _definitions(self) -> dict[int, dict[str, Any]]:
        """The recorded PandaIDs with the job definitions the server sent for them."""
        found: dict[int, dict[str, Any]] = {i: {} for i in NEVER_ACQUIRED.get(self.recording["scenario"], ())}
        for request in self.recording["requests"]:
            for job in _jobs_in(_meaning(request["response_body"])):
                found[int(job["PandaID"])] = job
        return found

    def _seed(self, recorded_id: int, definitions: dict[int, dict[str, Any]]) -> None:
        if recorded_id in self.ours:
            return
        job = {"transformation": "bash-c", **definitions[recorded_id]}
        # In the url-encoded form numbers are texts and null is None.
        job = {
            k: None if v == "None" else int(v) if k in _INTEGERS and isinstance(v, str) else v for k, v in job.items()
        }
        self.ours[recorded_id] = self.world.sandbox.submit([{"job": job}])[0]

    def _compare(self, number: int, request: dict[str, Any]) -> None:
        status, content_type, body = self._send(request)
        here = f"{self.recording['scenario']} request {number} ({request['path']}, {request.get('comment')})"
        assert status == request["status"], f"{here}: {body}"
        assert content_type == request["response_headers"].get("Content-Type"), here
        if (self.recording["scenario"], number) in NOT_REPRODUCED:
            return
        assert _meaning(body) == _meaning(self._bound(request["response_body"])), here

    def _send(self, request: dict[str, Any]) -> tuple[int, str | None, str]:
        plain = request["transport"] == "http"
        port = self.world.listeners["plain" if plain else "panda"].port
        who = "user" if USER_DN in request["client_auth"] else "pilot" if PILOT_DN in request["client_auth"] else "none"
        connection = (
            http.client.HTTPConnection("localhost", port, timeout=10)
            if plain
            else http.client.HTTPSConnection("localhost", port, context=self.contexts[who], timeout=10)
        )
        headers = {name: self._header(value) for name, value in request["headers"].items() if name != "Content-Length"}
        connection.request(request["method"], self._bound(request["path"]), self._body(request), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.getheader("Content-Type"), text

    def _header(self, value: str) -> str:
        for name, token in self.tokens.items():
            value = value.replace(f"<{name}>", token)
        return value

    def _body(self, request: dict[str, Any]) -> bytes | None:
        body, encoding = request["body"], request["body_encoding"]
        if encoding == "none":
            return None
        text = self._bound(body if isinstance(body, str) else json.dumps(body))
        return gzip.compress(text.encode()) if encoding.startswith("gzip") else text.encode()

    def _bound(self, text: str) -> str:
        """The text with recorded PandaIDs replaced by ours."""
        for recorded_id, our_id in self.ours.items():
            text = re.sub(_number(recorded_id), str(our_id), text)
        return text

    def _add(self) -> None:
        self.world.run_adder()
        self._snapshot()

    def _snapshot(self) -> None:
        wanted = set(self.ours.values())
        self.snapshots.append([job for job in self.world.sandbox.jobs() if job["panda_id"] in wanted])

    # the rows afterwards

    def check_states(self) -> None:
        """The recorded rows must occur in their order among ours; file rows are those of the end."""
        position = 0
        for label, state in (self.recording.get("server_state_after") or {}).items():
            if label == "worker":
                assert [_worker(row) for row in self.world.db.workers() if row["worker_id"] == 4711] == [state]
                continue
            rows = state if "table" in state else state.get("job") if isinstance(state, dict) else None
            if rows is not None:
                position = self._find(label, rows, position)
            files = state.get("files") if isinstance(state, dict) else state if label == "files" else None
            if files is not None:
                self._check_files(files)

    def _find(self, label: str, recorded: dict[str, Any], position: int) -> int:
        wanted = _comparable_row({k: self._bound(v) if isinstance(v, str) else v for k, v in recorded.items()})
        nearest: list[dict[str, Any]] = []
        for later, snapshot in enumerate(self.snapshots[position:], position):
            rows = [_comparable_row(_our_row(job)) for job in snapshot]
            if wanted in rows:
                return later
            nearest = rows
        raise AssertionError(f"{self.recording['scenario']}, {label}: expected {wanted}, at the end there is {nearest}")

    def _check_files(self, recorded: list[dict[str, Any]]) -> None:
        ours = [[_comparable_file(row) for row in job["files"]] for job in self.snapshots[-1]]
        assert [_comparable_file(row) for row in recorded] in ours


_INTEGERS = ("PandaID", "attemptNr", "minRamCount", "maxDiskCount", "maxWalltime", "currentPriority", "taskID")


def _number(panda_id: int) -> str:
    """A pattern for a PandaID that stands alone, and not inside a GUID or a base64 text."""
    return rf"(?:(?<![0-9A-Za-z-])|(?<=%2C)){panda_id}(?![0-9A-Za-z-])"


def _mentions(request: dict[str, Any], panda_id: int) -> bool:
    where = f"{request['path']} {json.dumps(request['body'])}"
    in_answer = any(int(job["PandaID"]) == panda_id for job in _jobs_in(_meaning(request["response_body"])))
    return in_answer or re.search(_number(panda_id), where) is not None


def _jobs_in(answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, dict):
        return []
    inner = answer["data"] if isinstance(answer.get("data"), dict) else answer
    jobs = inner.get("jobs", [inner])
    return [job for job in jobs if isinstance(job, dict) and "PandaID" in job]


def _meaning(text: str) -> Any:
    """What a body says, whatever its form: JSON, Python's repr, url-encoded, or bare text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    if re.match(r"StatusCode=", text):
        values = {name: found[-1] for name, found in parse_qs(text, keep_blank_values=True).items()}
        return {name: json.loads(value) if value.startswith("[{") else value for name, value in values.items()}
    return text


def _our_row(job: dict[str, Any]) -> dict[str, Any]:
    return {
        **job["fields"],
        "table": job["table"],
        "jobstatus": job["status"],
        "attemptnr": job["attempt_nr"],
        "commandtopilot": job["command"],
    }


def _comparable_row(row: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if name in _recorded_columns() and value is not None}
    return {name: _timeless(value) if isinstance(value, str) else value for name, value in known.items()}


def _timeless(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text)


_columns: set[str] = set()


def _recorded_columns() -> set[str]:
    """Every column that occurs in some recorded row."""
    if not _columns:
        pending = [json.loads(path.read_text()).get("server_state_after") or {} for path in RECORDINGS]
        while pending:
            value = pending.pop()
            if isinstance(value, dict):
                _columns.update(value if "table" in value else ())
                pending += value.values()
    return _columns


def _comparable_file(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("lfn", "type", "status", "guid", "fsize", "md5sum", "checksum", "dataset", "destinationse")
    made_up = row["type"] == "output" and row["status"] in _UNREPORTED
    return {key: None if key == "guid" and made_up else row[key] for key in keys}


def _worker(row: dict[str, Any]) -> dict[str, Any]:
    flags = {"started": bool(row["started"]), "ended": bool(row["ended"])}
    return {"status": row["status"], "pilotstatus": row["pilotstatus"], "nodeid": row["nodeid"], **flags}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("recorded"), stores=False, adder_delay_s=None) as world:
        # The one worker the recorded server knew.
        world.db.set_worker("harvester-test", 4711, status="running")
        yield world


@pytest.fixture(scope="module")
def contexts(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ssl.SSLContext]:
    user = world.authority.client(USER_DN)
    user_file = tmp_path_factory.mktemp("user") / "user.pem"
    user_file.write_bytes(user.proxy_pem)
    chosen = {"none": None, "user": user_file, "pilot": world.state_dir / "proxy.pem"}
    found = {}
    for name, file in chosen.items():
        context = ssl.create_default_context(cafile=str(world.ca_path))
        if name == "pilot":
            context.load_cert_chain(world.state_dir / "client.crt", world.state_dir / "client.key")
        elif file:
            context.load_cert_chain(file)
        found[name] = context
    return found


@pytest.fixture(scope="module")
def tokens(world: World) -> dict[str, str]:
    return {
        "pilot-jwt": world.issuer.token(),
        "user-jwt": world.issuer.token("jane doe", ("Rubin",), "jane"),
        "expired-jwt": world.issuer.token(lifetime_s=-3600),
        "garbage": "garbage",
    }


def _empty_the_queue(world: World) -> None:
    for job in world.db.jobs("archived = 0"):
        world.db.set_job(job["panda_id"], status="closed", archived=1)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_sandbox_speaks_as_recorded(
    path: Path, world: World, contexts: dict[str, ssl.SSLContext], tokens: dict[str, str]
) -> None:
    _empty_the_queue(world)
    replay = Replay(world, json.loads(path.read_text()), contexts, tokens)
    replay.run()
    replay.check_states()


def test_all_recordings_are_here() -> None:
    assert len(RECORDINGS) == 52
