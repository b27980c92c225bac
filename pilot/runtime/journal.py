"""The journal: append-only records, each checksummed, the important ones durable before the pilot goes on.

A line is ``<crc32 of the rest, 8 hex digits> <JSON object>\\n``. The rule is *append intent, do, append result*. A torn
last line (power cut, full disk) is not an error: it was never acknowledged to anybody. A journal is read up to its first
damaged line and no further.

The worker's journal holds acquire intents; a job's journal begins with ``acquired``. ``final_prepared`` holds the body of
the final report before it is first sent; it is resent unchanged until ``final_acked``: that is the outbox.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pilot.runtime.clock import utc_now
from pilot.runtime.files import sync_folder

MAX_JOURNAL_BYTES = 64 << 20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Event(Enum):
    """What a record says. Names are part of the format: a successor of any later version reads them."""

    ACQUIRE_INTENT = "acquire_intent"
    ACQUIRE_RESULT = "acquire_result"
    ACQUIRED = "acquired"
    STARTING_ACCEPTED = "starting_accepted"
    STAGE_IN_DONE = "stage_in_done"
    PAYLOAD_STARTING = "payload_starting"
    PAYLOAD_PID = "payload_pid"
    PAYLOAD_EXITED = "payload_exited"
    STAGE_OUT_DONE = "stage_out_done"
    LOGS_STORED = "logs_stored"
    FINAL_PREPARED = "final_prepared"
    FINAL_ACKED = "final_acked"
    FINAL_ABANDONED = "final_abandoned"


# A sentence each, without its full stop; docs/reference/journal.md shows them.
MEANINGS: Mapping[Event, str] = {
    Event.ACQUIRE_INTENT: "the server is about to be asked for a job",
    Event.ACQUIRE_RESULT: "it has answered; job says whether a job came",
    Event.ACQUIRED: "a job is ours: from here on it is brought to its end, by this pilot or a successor",
    Event.STARTING_ACCEPTED: "the server knows that the job is starting",
    Event.STAGE_IN_DONE: "all inputs are there",
    Event.PAYLOAD_STARTING: "the payload is about to be started, never to be started again; the mark finds what is left of it",
    Event.PAYLOAD_PID: "it runs, as this process",
    Event.PAYLOAD_EXITED: "it has ended, with what the pilot makes of it and what it used",
    Event.STAGE_OUT_DONE: "the outputs are stored and verified",
    Event.LOGS_STORED: "the logs are stored (nothing writes it today)",
    Event.FINAL_PREPARED: "the final report, as it will be sent and resent",
    Event.FINAL_ACKED: "the server has taken the final report",
    Event.FINAL_ABANDONED: "the server will never take it: the job is no longer ours",
}
# Not among them: payload_starting. A payload is not started on a full disk.
WORTH_THE_RESERVE = frozenset(
    {
        Event.ACQUIRED,
        Event.PAYLOAD_EXITED,
        Event.STAGE_OUT_DONE,
        Event.FINAL_PREPARED,
        Event.FINAL_ACKED,
        Event.FINAL_ABANDONED,
    }
)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a journal. ``at`` is the wall clock (UTC, ISO) for people; order is the order of lines."""

    event: Event
    at: str
    data: dict[str, Any]


class Journal:
    """One file, one writer. Appending is not thread-safe: only the conductor writes."""

    def __init__(self, path: Path, release_reserve: Callable[[], bool] = lambda: False) -> None:
        """Opens or creates the file and cuts off a torn last line. Raises OSError.

        ``release_reserve`` frees the volume's reserve on a full disk; True when that made room.
        """
        self.path = path
        self._release_reserve = release_reserve
        self._torn_at: int | None = None
        created = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if created:
            sync_folder(path.parent)
        else:
            os.ftruncate(self._descriptor, _intact_length(path.read_bytes()))

    def append(self, event: Event, *, durable: bool = True, **data: Any) -> None:
        """Write one record; with ``durable`` it is on the disk when this returns. Raises OSError (a full disk).

        A record that a successor needs to report the job may use the volume's reserve. One that was written and could not be
        made durable stays: while the machine lives a successor reads it, and it is as good there as not.
        """
        try:
            body = json.dumps({"event": event.value, "at": utc_now().isoformat(), **data}, separators=(",", ":"))
        except RecursionError as error:
            raise OSError(errno.EINVAL, "a record is nested too deeply to be written") from error
        line = f"{zlib.crc32(body.encode()):08x} {body}\n".encode()
        self._with_reserve(event, lambda: self._write(line))
        if durable:
            self._with_reserve(event, lambda: os.fsync(self._descriptor))

    def _with_reserve(self, event: Event, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno not in FULL or event not in WORTH_THE_RESERVE or not self._release_reserve():
                raise
            act()

    def _write(self, line: bytes) -> None:
        self._cut_torn()
        before = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            self._torn_at = before
            self._cut_torn()
            raise

    def _cut_torn(self) -> None:
        """Half a record would hide every later one from a reader: nothing is written behind it."""
        if self._torn_at is not None:
            os.ftruncate(self._descriptor, self._torn_at)
            self._torn_at = None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_journal(path: Path) -> list[Record]:
    """The intact records of a journal, up to the first damaged line. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_JOURNAL_BYTES)
    records = []
    for line in data[: _intact_length(data)].splitlines():
        record = _parse_line(line)
        if record is not None:
            records.append(record)
    return records


def _intact_length(data: bytes) -> int:
    """Bytes up to the end of the last line before any damage."""
    length = 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n") or not _checksum_fits(line):
            break
        length += len(line)
    return length


def _checksum_fits(line: bytes) -> bool:
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:-1])


def _parse_line(line: bytes) -> Record | None:
    """None for an event of a later version, which this one does not know."""
    try:
        fields = json.loads(line[9:])
        return Record(Event(fields.pop("event")), fields.pop("at"), fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
