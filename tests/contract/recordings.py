"""The recorded conversations with real PanDA servers, and a checker of requests made from nothing but them.

A request that a server acted on teaches what may be sent: verb, path, headers, encoding, names, kinds of values, the
words of a vocabulary. A refusal teaches what must be there. `Checker.problems` then says what is wrong with a request.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from pilot.runtime.http import Answer

FOLDER = Path(__file__).parent.parent / "data" / "panda-wire"
RECORDED_SCENARIOS = 52

# Columns whose width was found by an over-long value only: the limit itself is read from the server's schema.
MAX_CHARS = {"pilot_timing": 100, "pilotTiming": 100}
MAX_INT = 2**63 - 1
# A small set of words each; everything else is ignored or refused by the server.
VOCABULARIES = {"job_status", "state", "status"}
# Bulk calls: the parameter that holds the list, and the call each entry is one of.
BULK = {
    "/server/panda/updateJobsInBulk": ("jobList", "/server/panda/updateJob"),
    "/api/v1/pilot/update_jobs_bulk": ("job_list", "/api/v1/pilot/update_job"),
}
# Known to both servers by their source (the contract's tables, sections 5 and 6), used by no recorded request.
KNOWN_FROM_SOURCE: Mapping[str, Mapping[str, str]] = {
    "/server/panda/getJob": {"remaining_time": "int", "resourceType": "str", "harvester_id": "str", "worker_id": "int"},
    "/api/v1/pilot/acquire_jobs": {"harvester_id": "str", "worker_id": "int"},
    "/server/panda/updateJob": {
        "meanCoreCount": "int",
        "nInputFiles": "int",
        "pilotLog": "str",
        "cpu_architecture_level": "str",
    },
    "/api/v1/pilot/update_job": {"pilot_log": "str", "corrupted_files": "str", "avg_rss": "int"},
}


@dataclass(frozen=True)
class Sent:
    """A request as bytes on the wire, without server and credentials; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


@dataclass(frozen=True)
class Exchange:
    """One recorded request with its answer."""

    scenario: str
    index: int
    sent: Sent
    answer: Answer
    comment: str

    def __str__(self) -> str:
        return f"{self.scenario}[{self.index}] {self.sent.method} {self.sent.path}"


@dataclass(frozen=True)
class Recording:
    """A recorded scenario."""

    scenario: str
    exchanges: tuple[Exchange, ...]


@cache
def recordings() -> Mapping[str, Recording]:
    """All scenarios by name."""
    return {path.stem: _recording(path) for path in sorted(FOLDER.glob("*.json"))}


@cache
def exchanges() -> tuple[Exchange, ...]:
    return tuple(exchange for recording in recordings().values() for exchange in recording.exchanges)


def _recording(path: Path) -> Recording:
    raw = json.loads(path.read_text())
    parts = (_exchange(path.stem, index, request) for index, request in enumerate(raw["requests"]))
    return Recording(path.stem, tuple(parts))


def _exchange(scenario: str, index: int, raw: Mapping[str, Any]) -> Exchange:
    headers = {name.lower(): value for name, value in raw["headers"].items()}
    sent = Sent(raw["method"], raw["path"], headers, _body(raw))
    answer_headers = {name.lower(): value for name, value in raw["response_headers"].items()}
    answer = Answer(raw["status"], answer_headers, raw["response_body"].encode())
    return Exchange(scenario, index, sent, answer, raw.get("comment") or "")


def _body(raw: Mapping[str, Any]) -> bytes:
    """The bytes of a recorded body; files hold JSON bodies as values and gzip bodies as what was compressed."""
    body, encoding = raw["body"], raw["body_encoding"]
    if encoding in ("none",) or body is None:
        return b""
    if encoding in ("form", "raw"):
        return str(body).encode()
    text = (body if isinstance(body, str) else json.dumps(body)).encode()
    return gzip.compress(text) if encoding.startswith("gzip") else text


# --- what a server made of a request ----------------------------------------------------------------------------------

_MALFORMED = re.compile(
    r"Argument error|Type error|Invalid job status|Invalid worker state|expecting [A-Z]+, received|failed with "
    r"|Failed to update worker status"
)


def verdict(exchange: Exchange) -> str:
    """`taken`: acted on; `malformed`: never right; `denied`: who asked, not what; `state`: right, but not now; `elsewhere`."""
    answer = exchange.answer
    text = answer.text()
    if answer.status == 500:
        return "malformed"
    if answer.status != 200:
        return _of_refusal(exchange, text)
    if text.startswith("{'") or _MALFORMED.search(text):
        return "malformed"
    if (
        '"StatusCode": 60' in text
        or "StatusCode=60" in text
        or re.search("SSL secure|role.* required|retrieve DN", text)
    ):
        return "denied"
    if "no production/pilot role" in text or "authorized" in text or "Cannot extract DN" in text:
        return "denied"
    if '"StatusCode": 30' in text:
        return "state" if exchange.scenario.endswith("batchid-mismatch") else "malformed"
    return "malformed" if _ignored(exchange, text) else "taken"


def _of_refusal(exchange: Exchange, text: str) -> str:
    if "Token authentication failed" in text:
        return "denied"
    if exchange.scenario.startswith("v1") and exchange.sent.path.startswith("/server/panda/"):
        return "elsewhere"  # right on the other generation of servers
    return "malformed"


def _ignored(exchange: Exchange, text: str) -> bool:
    """Answered as a success, but nothing was done with the request or with a part of it."""
    no_command = exchange.sent.path.endswith("/updateJob") and "command" not in text
    return no_command or "dropped" in exchange.comment


# --- the checker ------------------------------------------------------------------------------------------------------


@dataclass
class Rules:
    """What was learned on one path."""

    methods: set[str] = field(default_factory=set)
    kinds: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    words: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    required: set[str] = field(default_factory=set)


class Checker:
    """Accepts or refuses requests as the recorded servers would."""

    def __init__(self, known: Iterable[Exchange]) -> None:
        self.rules: dict[str, Rules] = {}
        self.forms: set[tuple[str, ...]] = set()
        learned = tuple(known)
        for exchange in learned:
            if verdict(exchange) == "taken":
                self._learn(exchange.sent)
        for exchange in learned:
            self._learn_required(exchange)
        for path, names in KNOWN_FROM_SOURCE.items():
            for name, kind in names.items():
                self.rules[path].kinds[name].add(kind)

    def _learn(self, sent: Sent) -> None:
        rules = self.rules.setdefault(sent.path, Rules())
        rules.methods.add(sent.method)
        self.forms.add(form(sent))
        for name, value in parameters(sent).items():
            rules.kinds[name].add(kind(value))
            if name in VOCABULARIES:
                rules.words[name].add(str(value))

    def _learn_required(self, exchange: Exchange) -> None:
        missing = re.search(r"missing (?:a|\d+) required (?:positional )?arguments?: (.*)", exchange.answer.text())
        if missing and exchange.sent.path in self.rules:
            self.rules[exchange.sent.path].required.update(re.findall(r"'(\w+)'", missing[1]))

    def problems(self, sent: Sent) -> list[str]:
        """Why a server would not act on the request; empty when it would."""
        rules = self.rules.get(sent.path)
        if rules is None:
            return [f"no recorded request to {sent.path} was acted on"]
        if sent.method not in rules.methods:
            return [f"{sent.method} {sent.path}: expected {' or '.join(sorted(rules.methods))}"]
        if form(sent) not in self.forms:
            return [f"headers and encoding {form(sent)} were never acted on"]
        try:
            values = parameters(sent)
        except ValueError as error:
            return [f"body cannot be decoded: {error}"]
        bulk = BULK.get(sent.path)
        if bulk:
            return self._bulk_problems(sent.path, values.get(bulk[0]), bulk[1])
        return self._parameter_problems(rules, values)

    def _bulk_problems(self, path: str, entries: Any, single_path: str) -> list[str]:
        """A bulk request is a list (legacy: its JSON text) of the parameters of single ones."""
        try:
            jobs = json.loads(entries) if path.startswith("/server/") else entries
        except ValueError:
            jobs = None
        if not isinstance(jobs, list):
            return ["the list of jobs is no list"]
        return [problem for job in jobs for problem in self._parameter_problems(self.rules[single_path], job)]

    def _parameter_problems(self, rules: Rules, values: Mapping[str, Any]) -> list[str]:
        missing = [f"{name} is missing" for name in sorted(rules.required - set(values))]
        return missing + [p for name, value in values.items() for p in self._value_problems(rules, name, value)]

    def _value_problems(self, rules: Rules, name: str, value: Any) -> Iterable[str]:
        if name not in rules.kinds:
            yield f"{name} is unknown"
        elif not compatible(kind(value), rules.kinds[name]):
            yield f"{name} is {kind(value)}, acted on were {sorted(rules.kinds[name])}"
        if name in rules.words and str(value) not in rules.words[name]:
            yield f"{name} {value!r} is not one of {sorted(rules.words[name])}"
        if len(str(value)) > MAX_CHARS.get(name, len(str(value))):
            yield f"{name} is longer than {MAX_CHARS[name]}"
        if isinstance(value, int) and abs(value) > MAX_INT:
            yield f"{name} is too large for the database"


@cache
def checker() -> Checker:
    """The checker made from every recording."""
    return Checker(exchanges())


def form(sent: Sent) -> tuple[str, ...]:
    """What of headers and encoding decides how a server reads the body and writes the answer."""
    api = "legacy" if sent.path.startswith("/server/") else "v1"
    accept = "json" if sent.headers.get("accept") == "application/json" else "other"
    content_type = sent.headers.get("content-type", "")
    return api, sent.method, accept, content_type, sent.headers.get("content-encoding", ""), _shape(sent.body)


def _shape(body: bytes) -> str:
    if not body:
        return "empty"
    if body[:2] == b"\x1f\x8b":
        return "gzip"
    try:
        return "json" if isinstance(json.loads(body), dict) else "json, but no object"
    except ValueError:
        return "form" if b"=" in body else "noise"


def parameters(sent: Sent) -> dict[str, Any]:
    """The parameters of a request as the server sees them. Raises ValueError for a body that is no object."""
    shape = _shape(sent.body)
    if shape == "form":
        pairs = parse_qsl(sent.body.decode(), keep_blank_values=True, strict_parsing=True)
        # v1 converts nothing in a form: every value stays a text.
        return {name: value if sent.path.startswith("/api") else _untyped(value) for name, value in pairs}
    if shape in ("json", "gzip"):
        text = gzip.decompress(sent.body) if shape == "gzip" else sent.body
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no object")
        return values
    query = parse_qs(urlsplit(sent.target).query, keep_blank_values=True)
    return {
        name: [_untyped(v) for v in values] if name == "job_ids" else _untyped(values[0])
        for name, values in query.items()
    }


def _untyped(text: str) -> Any:
    """A value of a form or query: digits are a number, which the server converts."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def kind(value: Any) -> str:
    """The kind of a value as far as servers tell values apart."""
    if isinstance(value, list) and value:
        return f"list of {kind(value[0])}"
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", value):
        return "time"
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return "digits"
    return type(value).__name__


def compatible(found: str, learned: set[str]) -> bool:
    """Digits and times may stand where texts may, and numbers where a form's text was digits, which are numbers there."""
    return found in learned or (found in ("time", "digits") and "str" in learned)
