"""Google Cloud Logging, where it is switched on: the lines of the payload's JSON logs, and the pilot's own events.

Nobody waits for it. What is to be sent goes into a queue of bounded size, from which one thread takes it; while the service
is out of reach the queue fills, what no longer fits is counted and dropped, and the count is sent when there is room again. The
entries go to the service's REST method ``entries:write`` through the pilot's own sessions (docs/adr/0008).

Names of logs and fields are those that Rubin's queries use: ``Panda-RubinLog`` with TaskID, PandaJobID and
Harvester_WorkerID, and ``Panda-WorkerLog`` with hostname, message, PandaJobID and jobName.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

from pilot.job.model import Job
from pilot.logs.collect import LogFile
from pilot.logs.google_logging import EntriesRefused, ServiceUnreachable
from pilot.runtime.events import log_to, redactor
from pilot.runtime.loops import Helpers
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError

logger = logging.getLogger("pilot.logs")

WORKER_LOG = "Panda-WorkerLog"
POLL_S = 5.0  # how often the payload's files are looked at
GATHER_S = 1.0  # how long entries wait for company
LONGEST_PAUSE_S = 60.0  # between two tries of a service that is out of reach
QUEUE_MAX_BYTES = 8 << 20
BATCH_MAX_BYTES, BATCH_MAX_ENTRIES = 1 << 20, 500
MESSAGE_MAX_CHARS = 50_000  # the service takes entries of 256 KiB; a character has up to four bytes
DEPTH_MAX = 20
EXACT_MAX = 2**53  # the service keeps numbers as doubles
READ_MAX_BYTES = 1 << 20  # of a file at a look
BEHIND_MAX_BYTES = 4 << 20  # a payload that writes faster loses what lies between
FLUSH_S = 2.0
SEVERITIES = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_NAME = re.compile(r"(?!\.\.?$)[^/\0]{1,255}")
_JOB_IN_MESSAGE = re.compile(r"\bjob (\d{1,19})\.\d+:")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it goes over the wire, all but its full log name, which needs the project."""

    log_name: str
    rest: bytes

    def as_json(self, project: str) -> bytes:
        log_name = json.dumps(f"projects/{project}/logs/{quote(self.log_name, safe='')}")
        return b'{"logName": ' + log_name.encode() + b", " + self.rest[1:]


class Waiting:
    """The queue. ``put`` never waits for anybody; what does not fit is counted."""

    def __init__(self, max_bytes: int = QUEUE_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._dropped = 0
        self._number = 0
        self._run = secrets.token_hex(6)
        self._lock = threading.Lock()

    def put(self, log_name: str, severity: str, payload: Mapping[str, Any]) -> None:
        """Queue an entry of this moment; its id lets the service see that a repeated one is the same."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        with self._lock:
            self._number += 1
            number = self._number
        rest = {
            "severity": severity,
            "timestamp": now,
            "insertId": f"{self._run}-{number:09d}",
            "jsonPayload": payload,
        }
        # A lone surrogate would be an error in the whole request; it becomes a question mark.
        entry = Entry(log_name, json.dumps(rest, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace"))
        with self._lock:
            if self._bytes + len(entry.rest) > self._max_bytes:
                self._dropped += 1
                return
            self._entries.append(entry)
            self._bytes += len(entry.rest)

    def batch(self) -> list[Entry]:
        """The first entries, as many as fit into one request; they stay until they are ``done``."""
        batch: list[Entry] = []
        size_bytes = 0
        with self._lock:
            for entry in self._entries:
                size_bytes += len(entry.rest)
                if batch and (size_bytes > BATCH_MAX_BYTES or len(batch) >= BATCH_MAX_ENTRIES):
                    break
                batch.append(entry)
        return batch

    def done(self, batch: Sequence[Entry]) -> None:
        """The batch, which was the queue's first, has been sent, or will never be."""
        with self._lock:
            for _entry in batch:
                self._bytes -= len(self._entries.popleft().rest)

    def count(self, entries: int) -> None:
        """Count entries that were lost elsewhere."""
        with self._lock:
            self._dropped += entries

    def take_dropped(self) -> int:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        return dropped

    @property
    def lost(self) -> int:
        """Entries dropped and not yet told of, those that still wait included."""
        with self._lock:
            return self._dropped + len(self._entries)


class Service(Protocol):
    """Where entries go; for one thread. ``write`` and ``project`` raise ServiceUnreachable, ``write`` also EntriesRefused."""

    def project(self) -> str: ...

    def write(self, entries: Sequence[bytes]) -> None: ...

    def close(self) -> None: ...


class Sender:
    """The loop that empties the queue."""

    def __init__(self, waiting: Waiting, service: Service) -> None:
        self._waiting = waiting
        self._service = service
        self._failures = 0

    def run(self, stop: Stop) -> None:
        """Send until ``stop``, and then once more what there is."""
        while not stop.wait(self._pause_s()):
            self._drain()
        self._drain()
        self._service.close()

    def _pause_s(self) -> float:
        if not self._failures:
            return GATHER_S
        return min(LONGEST_PAUSE_S, GATHER_S * 2.0**self._failures) * random.uniform(0.5, 1.0)

    def _drain(self) -> None:
        while batch := self._waiting.batch():
            try:
                self._service.write([entry.as_json(self._service.project()) for entry in batch])
            except ServiceUnreachable as trouble:
                self._tell(logging.WARNING if not self._failures else logging.DEBUG, "is out of reach: %s", trouble)
                self._failures = min(self._failures + 1, 10)
                return
            except EntriesRefused as refusal:
                self._tell(logging.WARNING, "refuses entries, which are dropped: %s", refusal)
                self._waiting.done(batch)
                self._waiting.count(min(refusal.count, len(batch)))
            else:
                self._waiting.done(batch)
                self._recovered()

    def _recovered(self) -> None:
        self._failures = 0
        dropped = self._waiting.take_dropped()
        if dropped:
            message = f"{dropped} entries of this worker's logs were dropped: more was written than could be sent"
            self._waiting.put(WORKER_LOG, "WARNING", {"message": message, "dropped": dropped})
            logger.info("cloud logging: %s", message)

    @staticmethod
    def _tell(level: int, words: str, trouble: Exception) -> None:
        logger.log(level, f"cloud logging {words}", trouble)


@dataclass(frozen=True, slots=True)
class CloudNames:
    """What entries carry besides their text."""

    hostname: str
    harvester_id: str | None
    worker_id: int | None
    payload_log: str = "Panda-RubinLog"
    files: tuple[str, ...] = ("payload-log.json",)

    def of_worker(self) -> dict[str, str]:
        found = {"Harvester_ID": self.harvester_id, "Harvester_WorkerID": self.worker_id}
        return {name: str(value) for name, value in found.items() if value is not None}


class CloudLogs:
    """The two sources. As a follower of jobs it reads the payload's files; ``events`` takes the pilot's own."""

    name = "cloud-log"

    def __init__(self, names: CloudNames, waiting: Waiting) -> None:
        self._names = names
        self._waiting = waiting
        self._job: Job | None = None

    def follow(self, job: Job, folder: JobFolder, stop: Stop) -> None:
        """Send each line of the payload's JSON logs until ``stop``, the last ones included. Raises nothing."""
        self._job = job
        tails = [Tail(LogFile(name, folder.work)) for name in self._names.files if _NAME.fullmatch(name)]
        fields = {"TaskID": str(job.task_id or ""), "PandaJobID": str(job.panda_id), **self._names.of_worker()}
        try:
            while not stop.wait(POLL_S):
                for tail in tails:
                    self._send(tail, fields)
            for tail in tails:
                while self._send(tail, fields, ended=True):
                    pass
        finally:
            self._job = None

    def _send(self, tail: Tail, fields: Mapping[str, str], *, ended: bool = False) -> bool:
        """Queue what is new in a file; False when that is nothing."""
        try:
            lines, skipped_bytes = tail.read(ended=ended)
        except (LocalFileError, OSError):
            return False  # it is not there yet, or nothing that should be read
        for line in lines:
            severity, payload = line_entry(line)
            self._waiting.put(self._names.payload_log, severity, {**payload, **fields})
        if skipped_bytes:
            words = (
                f"{skipped_bytes} bytes of {tail.name} are left out: the payload writes faster than they can be sent"
            )
            self._waiting.put(self._names.payload_log, "WARNING", {"message": words, **fields})
        return bool(lines)

    def event(self, record: logging.LogRecord) -> None:
        """Queue one of the pilot's own events."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        message = redactor.clean(message)[:MESSAGE_MAX_CHARS]
        fields: dict[str, str] = {
            "hostname": self._names.hostname,
            "message": message,
            "thread": str(record.threadName),
        }
        job, named = self._job, _JOB_IN_MESSAGE.search(message)
        if named:
            fields["PandaJobID"] = named[1]
        elif job is not None:
            fields["PandaJobID"] = str(job.panda_id)
        if job is not None and fields["PandaJobID"] == str(job.panda_id):
            fields["jobName"] = job.name
        severity = record.levelname if record.levelname in SEVERITIES else "DEFAULT"
        self._waiting.put(WORKER_LOG, severity, fields | self._names.of_worker())


class Tail:
    """What is new in a growing file, secrets masked, line by line."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._offset = 0
        self._in_skipped_line = False

    @property
    def name(self) -> str:
        return self._file.name

    def read(self, *, ended: bool = False) -> tuple[list[bytes], int]:
        """The new lines, and how many bytes had to be passed over. Raises LocalFileError, OSError.

        A line without its end waits for it, unless the file has ``ended`` or the line is longer than a look.
        """
        with redactor.reading(self._file.open()) as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            if size_bytes < self._offset:
                self._offset = 0  # written anew
            skipped_bytes = 0
            if size_bytes - self._offset > BEHIND_MAX_BYTES:
                skipped_bytes = size_bytes - READ_MAX_BYTES - self._offset
                self._offset += skipped_bytes
                self._in_skipped_line = True
            opened.seek(self._offset)
            data = opened.read(READ_MAX_BYTES)
        whole, _, rest = data.rpartition(b"\n")
        lines = whole.split(b"\n") if whole or len(rest) < len(data) else []
        whole_file = self._offset + len(data) >= size_bytes
        if rest and ((ended and whole_file) or (not lines and len(data) >= READ_MAX_BYTES)):
            lines, rest = [*lines, rest], b""
        self._offset += len(data) - len(rest)
        if self._in_skipped_line and lines:
            self._in_skipped_line = False
            lines = lines[1:]
        return [line for line in lines if line.strip()], skipped_bytes


def line_entry(line: bytes) -> tuple[str, dict[str, Any]]:
    """Severity and fields of one line of a payload's log: a JSON object's own, anything else as a message."""
    text = line.decode("utf-8", "replace").strip()
    if len(text) > MESSAGE_MAX_CHARS:
        return "DEFAULT", {"message": text[:MESSAGE_MAX_CHARS], "cut_characters": len(text) - MESSAGE_MAX_CHARS}
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        return "DEFAULT", {"message": text}
    level = payload.get("levelname")
    severity = level if isinstance(level, str) and level in SEVERITIES else "DEFAULT"
    return severity, {name: _fitted(value, DEPTH_MAX) for name, value in payload.items()}


def _fitted(value: Any, depth: int) -> Any:
    """The value as the service takes it: one entry that it cannot read would spoil a whole request."""
    if isinstance(value, dict | list) and depth == 0:
        return "..."
    if isinstance(value, dict):
        return {name: _fitted(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_fitted(inner, depth - 1) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > EXACT_MAX:
        return str(value) if value.bit_length() < 10_000 else "..."
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class _Events(logging.Handler):
    def __init__(self, logs: CloudLogs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._logs.event(record)
        except (ValueError, TypeError):
            self.handleError(record)


@contextmanager
def cloud_logs(names: CloudNames, service: Service, stop: Stop, shutdown_s: float) -> Iterator[CloudLogs]:
    """While inside, the pilot's events go to the cloud, and the payload's too through the follower that this gives.

    At the end what is waiting is sent within FLUSH_S, or what ``shutdown_s`` after a stop has left.
    """
    waiting = Waiting()
    logs = CloudLogs(names, waiting)
    helpers = Helpers(Stop())
    with ExitStack() as closing:
        sender = helpers.start("cloud-sender", Sender(waiting, service).run)
        closing.callback(lambda: helpers.finish(sender, stop.left_s(shutdown_s, FLUSH_S)))
        with log_to(_Events(logs)):
            yield logs
    if waiting.lost:
        logger.warning("cloud logging: %d entries are not sent", waiting.lost)
