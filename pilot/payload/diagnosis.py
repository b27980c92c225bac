"""What an ended payload says of itself: its first error, and whether there was nothing to do.

Read from ``payload-log.json`` (one JSON record a line; the payload's framework writes it) and the end of its stderr. Both
are the payload's and thus hostile: opened without following links, read within bounds, taken only for their text.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilot.payload.environment import PAYLOAD_LOG

MAX_LOG_BYTES = 32 << 20
MAX_LINE_BYTES = 1 << 20
MAX_STDERR_BYTES = 64 << 10
MAX_TEXT_CHARS = 400
MAX_TRACEBACK_CHARS = 20_000

_ERROR_LEVEL = 40  # logging.ERROR
# The framework's closing line says nothing that the first error has not said better.
_EMPTY_WORDS = ("MPGraphExecutorError: One or more tasks failed", "Killed", "Terminated", "Segmentation fault")
_EXCEPTION = re.compile(r"Exception ([A-Za-z_][\w.]*: .+)", re.DOTALL)
_RAISED = re.compile(r"[A-Za-z_][\w.]*(: |$)")
_NO_WORK = ("exited early with no work found", "Nothing to do for task")
# A log line that complains of nothing: level, when and who, then the message. All a dying process may have left.
_PLAIN_RECORD = re.compile(r"(?:TRACE|DEBUG|VERBOSE|INFO)\b.*? - (?P<message>.+)")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_NESTING = re.compile(rb"[\[{]")


@dataclass(frozen=True, slots=True)
class PayloadWords:
    """``first_error``: ``CLASS: MESSAGE`` of the first error record, else the last meaningful line of stderr.

    ``traceback``: the end of the traceback that the record carries, as it is; for people only.
    """

    first_error: str | None = None
    no_work: bool = False
    traceback: str = ""


def read_words(work: Path, stderr: Path, log_name: str = PAYLOAD_LOG) -> PayloadWords:
    """The payload's own words. Never raises: a payload cannot spoil its diagnosis by what it leaves behind."""
    first_error, no_work, traceback = None, False, ""
    for record in _records(work / log_name):
        message = record.get("message")
        if not isinstance(message, str):
            continue
        no_work = no_work or any(phrase in message for phrase in _NO_WORK)
        if first_error is None and _is_error(record):
            first_error = _error_text(message, record.get("exc_info"))
            carried = record.get("exc_info")
            traceback = carried[-MAX_TRACEBACK_CHARS:] if isinstance(carried, str) else ""
    return PayloadWords(first_error or last_meaningful_line(stderr), no_work, traceback)


def last_meaningful_line(stderr: Path) -> str | None:
    """The last line of stderr that says anything; None when there is none, or the file is no ordinary one.

    A line that is no complaint is given as what it is: it tells where the payload was when it died.
    """
    lines = _bytes(stderr, MAX_STDERR_BYTES, from_end=True).decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        text = printable(line)
        if text and not any(words in text for words in _EMPTY_WORDS):
            record = _PLAIN_RECORD.match(text)
            return f"it last said: {record['message']}" if record else text
    return None


def printable(text: str) -> str:
    """One line of text without terminal escapes and control characters, cut to a length people read."""
    bare = without_escapes(text[: MAX_TEXT_CHARS * 8])
    words = "".join(character if character.isprintable() else " " for character in bare).split()
    return " ".join(words)[:MAX_TEXT_CHARS]


def without_escapes(text: str) -> str:
    """The text without what a terminal would obey."""
    return _ESCAPES.sub("", text)


def _is_error(record: dict[str, object]) -> bool:
    level = record.get("levelno")
    return (isinstance(level, int) and level >= _ERROR_LEVEL) or record.get("levelname") in (
        "ERROR",
        "CRITICAL",
        "FATAL",
    )


def _error_text(message: str, traceback: object) -> str:
    """``CLASS: MESSAGE``: of the exception that the message tells, else of the traceback that comes with it."""
    found = _EXCEPTION.search(message[: 64 << 10])
    if found:
        return printable(found.group(1))
    raised = _raised(traceback) if isinstance(traceback, str) else None
    if raised is None:
        return printable(message)
    # "details are in traceback:" and the like say nothing themselves
    return printable(raised if message.rstrip().endswith(":") else f"{raised} ({message})")


def _raised(traceback: str) -> str | None:
    """The exception at the end of a traceback: what stands unindented below its last frame."""
    lines = traceback[-(64 << 10) :].splitlines()
    frames = [position for position, line in enumerate(lines) if line.startswith('  File "')]
    below = [position for position in range(frames[-1], len(lines)) if _RAISED.match(lines[position])] if frames else []
    return "\n".join(lines[below[0] :]) if below else None


def _records(path: Path) -> Iterator[dict[str, object]]:
    """The records of a JSON-lines file; torn, oversized or deeply nested lines are passed over."""
    for line in _bytes(path, MAX_LOG_BYTES).split(b"\n"):
        record = log_record(line)
        if record is not None:
            yield record


def log_record(line: bytes) -> dict[str, object] | None:
    """The record of a JSON log's line; None for one that is torn, oversized, deeply nested or no JSON at all."""
    if not line.startswith(b"{") or len(line) > MAX_LINE_BYTES or _too_deep(line):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _too_deep(line: bytes) -> bool:
    """A cheap upper bound of the nesting, counted before a parser recurses: brackets in texts count too."""
    return len(_NESTING.findall(line)) > 10_000


def _bytes(path: Path, max_bytes: int, from_end: bool = False) -> bytes:
    """The first (or last) bytes of a regular file; nothing when it is missing, a link, a pipe or unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b""
    with os.fdopen(descriptor, "rb") as file:
        try:
            if from_end:
                file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
            return file.read(max_bytes)
        except OSError:
            return b""
