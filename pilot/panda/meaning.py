"""What an answer of the server means: the one place that decides it, for both API generations.

HTTP 200 says nothing: authentication trouble, "no job", database errors and type errors all arrive with it (panda-wire,
sections 3, 4 and 8). The classes below are closed: every answer, however broken, is one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pilot.runtime.http import Answer

WHY_MAX_CHARS = 300


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server did what was asked. ``data``: v1 ``data``; legacy the whole answer."""

    data: Any


@dataclass(frozen=True, slots=True)
class NoJobs:
    """There is no job for us; ``message`` is the server's word."""

    message: str


@dataclass(frozen=True, slots=True)
class Retry:
    """It may work later: network, 5xx, database error, an answer that is none. ``retry_after_s``: the server's wish.

    ``in_doubt``: an unreadable 200, or a gateway that lost the server's answer: what was asked may have been done.
    """

    why: str
    retry_after_s: float | None = None
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class CredentialProblem:
    """The server does not take our proxy or token: renew it and try again."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The request itself is wrong, a bug of ours: the same request will be refused again."""

    why: str


@dataclass(frozen=True, slots=True)
class WrongGeneration:
    """This server does not offer the method: it speaks the other API generation, or the URL is not PanDA's."""

    why: str


Meaning = Accepted | NoJobs | Retry | CredentialProblem | Refused | WrongGeneration

# StatusCode (both generations, panda-wire section 4).
_SUCCESS, _NO_JOBS = 0, 20
_RETRYABLE_CODES = {10: "the server timed out", 30: "the server had a database error"}
_CREDENTIAL_CODES = {60: "the production or pilot role is missing", 70: "the server denies permission"}

_NESTED_NAMES = frozenset({"jobs", "data", "ResourceTypes"})
_NO_JOB_MESSAGES = ("no jobs in panda", "timed out")
_CREDENTIAL_WORDS = (
    "ssl secure connection is required",
    "role required",
    "role is required",
    "no production/pilot role",
    "failed to retrieve dn",
    "token authentication failed",
    "is banned",
    "not authorized with",
    "not in authorized users",
    "not in the authorized user list",
)
# Texts by which the server says that the request is malformed; it will say so again.
_REFUSAL = re.compile(
    r"^Argument error|^Type error|^Invalid job status|^Invalid worker state|^expecting [A-Z]+, received"
    r"|failed with (KeyError|JSONDecodeError|AttributeError 'types.UnionType')"
    r"|missing \d+ required positional argument|got an unexpected keyword argument|argument after \*\* must be a mapping"
    r"|^'types.UnionType' object has no attribute|^invalid literal for int\(\)|^could not convert string to float"
    r"|^Not a gzipped file|^'utf-8' codec can't decode",
)
# A 4xx that is a request problem. 408, 425, 429 pass with time; 401, 403 and 404 have meanings of their own.
_PASSING_STATUSES = frozenset({408, 425, 429})
_IN_DOUBT_STATUSES = frozenset({502, 504})


def of_v1(answer: Answer) -> Meaning:
    """The meaning of an ``/api/v1`` answer. The answer's Content-Type is always text/plain and tells nothing."""
    if answer.status != 200:
        return _of_status(answer)
    body = _json(answer)
    if not isinstance(body, dict) or not isinstance(body.get("success"), bool):
        return _undecodable(answer)
    data, message = body.get("data"), _words(body.get("message"))
    code = status_code(data)
    if code is not None and code != _SUCCESS:
        return _of_code(code, message)
    return Accepted(data) if body["success"] else _of_failure(message)


def of_legacy(answer: Answer) -> Meaning:
    """The meaning of a ``/server/panda`` answer: JSON, url-encoded, or bare words."""
    if answer.status != 200:
        return _of_status(answer)
    body = legacy_body(answer)
    if isinstance(body, dict):
        code = status_code(body)
        if code == _SUCCESS or body.get("alive") == "yes":
            return Accepted(body)
        return _undecodable(answer) if code is None else _of_code(code, _words(body.get("errorDialog")))
    if _is_bulk(body):
        return Accepted(body[1]) if body[0] else _of_failure(_words(body[1]))
    text = _words(answer.text())
    if _credential_words(text):
        return CredentialProblem(text)
    return Refused(text) if _REFUSAL.search(text) else _undecodable(answer)


def legacy_body(answer: Answer) -> Any:
    """A legacy body as values: JSON if it is JSON, else url-encoded text (``None`` is None, ``jobs`` is decoded)."""
    body = _json(answer)
    if body is not None:
        return body
    text = answer.text()
    if not re.match(r"[A-Za-z]\w*=", text):
        return None
    return {name: _url_value(name, value) for name, value in parse_qsl(text, keep_blank_values=True)}


def status_code(data: Any) -> int | None:
    """``StatusCode`` of an answer's data, a number or (url-encoded) digits; None when there is none."""
    code = data.get("StatusCode") if isinstance(data, Mapping) else None
    if isinstance(code, str) and re.fullmatch(r"\d{1,4}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _url_value(name: str, text: str) -> Any:
    if text == "None":
        return None
    # Only the values known to be nested: a job parameter that looks like JSON must stay the text it is.
    return _decoded(text) if name in _NESTED_NAMES else text


def _json(answer: Answer) -> Any:
    """The body as JSON, None when it is not JSON (or absurdly nested)."""
    return _decoded(answer.text())


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_bulk(body: Any) -> bool:
    """``[true, [answers]]`` or ``[false, "why"]``, as updateJobsInBulk answers."""
    if not (isinstance(body, list) and len(body) == 2 and isinstance(body[0], bool)):
        return False
    return isinstance(body[1], list if body[0] else str)


def _of_code(code: int, message: str) -> Meaning:
    if code == _NO_JOBS:
        return NoJobs(message or "no jobs in PanDA")
    if code in _RETRYABLE_CODES:
        return Retry(f"{_RETRYABLE_CODES[code]} (StatusCode {code})")
    if code in _CREDENTIAL_CODES:
        return CredentialProblem(message or _CREDENTIAL_CODES[code])
    return Refused(f"StatusCode {code}: {message}" if message else f"StatusCode {code}")


def _of_failure(message: str) -> Meaning:
    """``success: false``: the message is all there is to tell the cases apart (server rule)."""
    if message.lower().startswith(_NO_JOB_MESSAGES):
        return NoJobs(message)
    if _credential_words(message):
        return CredentialProblem(message)
    if _REFUSAL.search(message):
        return Refused(message)
    return Retry(f"the server failed: {message or 'without a word'}")


def _of_status(answer: Answer) -> Meaning:
    status, words = answer.status, _words(answer.text())
    if status in (403, 404) and ("is forbidden" in words or status == 404):
        return WrongGeneration(_not_offered(answer, words))
    if status in (401, 403) or _credential_words(words) or (status == 400 and "certificate" in words.lower()):
        return CredentialProblem(f"HTTP {status}: {_described(answer, words)}")
    if _REFUSAL.search(words) and not is_html(answer):
        return Refused(f"HTTP {status}: {words}")
    if status < 400 or status >= 500 or status in _PASSING_STATUSES:
        return Retry(
            f"HTTP {status}: {_described(answer, words)}", _retry_after_s(answer), status in _IN_DOUBT_STATUSES
        )
    return Refused(f"HTTP {status}: {_described(answer, words)}")


def _not_offered(answer: Answer, words: str) -> str:
    return f"HTTP {answer.status}: {_described(answer, words)}"


def _undecodable(answer: Answer) -> Retry:
    return Retry(_described(answer, _words(answer.text())), in_doubt=True)


def _described(answer: Answer, words: str) -> str:
    """What a body is, for people: HTML and empty bodies are named, others quoted."""
    if is_html(answer):
        return "an HTML page instead of an answer of PanDA"
    if not words:
        return "an empty answer"
    if words.startswith("{'"):
        return "the Python text of a dictionary instead of JSON"
    return f"unexpected words: {words}" if answer.status == 200 else words


def is_html(answer: Answer) -> bool:
    """True when the body is a web page: a proxy, an ingress or a login portal answered, not PanDA."""
    return answer.body[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _credential_words(text: str) -> bool:
    lower = text.lower()
    return any(words in lower for words in _CREDENTIAL_WORDS)


def _words(value: Any) -> str:
    """A server's text on one line, without control characters, bounded: it goes into logs and diagnoses."""
    if not isinstance(value, str):
        return ""
    head = value[: 4 * WHY_MAX_CHARS]
    return " ".join("".join(c if c.isprintable() else " " for c in head).split())[:WHY_MAX_CHARS]


def _retry_after_s(answer: Answer) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    return float(text) if re.fullmatch(r"\d{1,5}", text) else None
