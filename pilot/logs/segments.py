"""Large logs lie in numbered segments beside their object: every byte is public, though the object shows a part only.

    payload.stdout          while the job runs its end; when it has ended the whole, or of a large one both ends
    payload.stdout.0001     from the beginning on
    payload.stdout.0002     ...

Together the segments hold every byte up to where the object's own text goes on.
"""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

from pilot.runtime.workdir import JobFolder

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger("pilot.logs")

SEGMENT_MAX_BYTES = 64 << 20
LINE_MAX_BYTES = 64 << 10  # a segment ends with a line, unless that is longer

Put = Callable[[str, BinaryIO], None]  # store this under that name; raises StoreError, OSError, Stopped


class Segments:
    """How much of each log lies in segments.

    Remembered in the job's folder, so that a successor pilot goes on with the next number. Where that cannot be, a successor
    begins with the first again, which only costs the bytes.
    """

    def __init__(self, folder: JobFolder) -> None:
        self._path = folder.logs / "segments.json"
        self._lock = threading.Lock()
        self._ends_bytes: dict[str, tuple[int, ...]] = dict(self._remembered())

    @property
    def count(self) -> int:
        """Of all logs together."""
        with self._lock:
            return sum(map(len, self._ends_bytes.values()))

    def end_bytes(self, log: str) -> int:
        """Up to here the log lies in segments."""
        return self._ends_bytes.get(log, (0,))[-1]

    def names(self, log: str) -> tuple[str, ...]:
        """The log's segments, oldest first."""
        return tuple(_name(log, number) for number in range(1, len(self._ends_bytes.get(log, ())) + 1))

    def store(self, log: str, content: BinaryIO, up_to_bytes: int, put: Put) -> None:
        """Put the bytes before ``up_to_bytes`` that lie in no segment yet into further ones. Raises what ``put`` does."""
        while (first := self.end_bytes(log)) < up_to_bytes:
            end = min(first + SEGMENT_MAX_BYTES, up_to_bytes)
            put(_name(log, len(self.names(log)) + 1), cast(BinaryIO, Slice(content, first, end)))
            with self._lock:
                self._ends_bytes[log] = (*self._ends_bytes.get(log, ()), end)
                self._remember()

    def forget(self, log: str) -> None:
        """Its segments are no more."""
        with self._lock:
            if self._ends_bytes.pop(log, None):
                self._remember()

    def _remembered(self) -> Mapping[str, tuple[int, ...]]:
        try:
            found = json.loads(self._path.read_text())
            return {log: tuple(map(int, ends)) for log, ends in found.items() if ends}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _remember(self) -> None:
        try:
            self._path.write_text(json.dumps(self._ends_bytes))
        except OSError as error:
            logger.debug("%s: %s", self._path, error.strerror)


def _name(log: str, number: int) -> str:
    return f"{log}.{number:04d}"


class Slice(io.RawIOBase):
    """Bytes ``first`` to ``end`` of an open file, as a file."""

    def __init__(self, file: BinaryIO, first: int, end: int) -> None:
        self._file, self._first, self._size_bytes = file, first, end - first
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        wanted_bytes = max(0, min(len(view), self._size_bytes - self._position))
        self._file.seek(self._first + self._position)
        block = self._file.read(wanted_bytes)
        view[: len(block)] = block
        self._position += len(block)
        return len(block)


def line_end_before(content: BinaryIO, before_bytes: int) -> int:
    """Where the last whole line before ``before_bytes`` ends; there itself when that line is very long."""
    first = max(0, before_bytes - LINE_MAX_BYTES)
    content.seek(first)
    found = content.read(before_bytes - first).rfind(b"\n")
    return before_bytes if found < 0 else first + found + 1


def line_start_after(content: BinaryIO, after_bytes: int) -> int:
    """Where the first whole line from ``after_bytes`` on begins; there itself when that line is very long."""
    if after_bytes == 0:
        return 0
    content.seek(after_bytes - 1)
    found = content.read(LINE_MAX_BYTES).find(b"\n")
    return after_bytes if found < 0 else after_bytes + found


def part(content: BinaryIO, first: int, end: int) -> bytes:
    """Bytes ``first`` to ``end``."""
    content.seek(first)
    return content.read(max(0, end - first))


def size_of(content: BinaryIO) -> int:
    return os.fstat(content.fileno()).st_size
