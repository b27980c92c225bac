"""The engine's uploads: small files in one request, large ones and streams in parts, each taken up again where it was cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pilot.job.model import ChecksumAlgorithm
from pilot.job.report import StoredFile
from pilot.runtime.metrics import TRANSFERRED, counts
from pilot.runtime.probe import Point, probe
from pilot.runtime.progress import board
from pilot.runtime.retry import TRANSFER, RetryPolicy
from pilot.runtime.stop import Deadline, Stop
from pilot.storage.checksum import Checksums
from pilot.storage.store import (
    Changed,
    LocalFileError,
    NotFound,
    ObjectHeaders,
    Parts,
    Refused,
    Store,
    StoredObject,
    StoreError,
    Stores,
    Truncated,
)
from pilot.storage.transfer import (
    SLOWEST,
    Pace,
    Slowest,
    compare,
    counted,
    file_deadline,
    go_on_until_done,
    in_words,
    open_regular,
    repeat_until_right,
)
from pilot.storage.urls import scheme_of, shown

# Parts are multiples of Google's 256 KiB, at least S3's 5 MiB, and so large that 10,000 of them hold any output.
FILE_PART_BYTES = 64 << 20  # a file up to here goes in one request, and is sent anew when it was cut
STREAM_PART_BYTES = 8 << 20  # of a stream; up to here it goes in one request


def send(
    stores: Stores,
    source: Path | BinaryIO,
    url: str,
    stop: Stop,
    *,
    headers: ObjectHeaders | None = None,
    policy: RetryPolicy = TRANSFER,
    slowest: Slowest = SLOWEST,
) -> StoredFile:
    """Upload a file, replacing what is there, and verify it by what the store then says of it.

    ``source``: a path (never followed when it is a symbolic link, never waited for when it is a pipe) or an open binary
    file, which stays open. The bytes there are now are sent; a file that grows meanwhile is fine (a log), one that
    shrinks is an error. Raises a StoreError, or Stopped.
    """
    if isinstance(source, Path):
        with open_regular(source) as file:
            return send(stores, file, url, stop, headers=headers, policy=policy, slowest=slowest)
    store, given = stores.for_url(url), headers or ObjectHeaders()
    size_bytes = source.seek(0, os.SEEK_END)
    deadline = file_deadline(policy, size_bytes)

    def attempt() -> StoredFile:
        content = _HashingSource(source, size_bytes, shown(url), store.upload_checksum, slowest, deadline, stop)
        with board.moving(url.rpartition("/")[2], "out", content.moved):
            if size_bytes <= FILE_PART_BYTES:
                stored = go_on_until_done(lambda: store.write(url, content, given, stop), lambda: 0, policy, stop)
            else:
                stored = _in_parts(store, content, url, given, policy, stop)
        probe(Point.UPLOAD_SENT)
        return _verified(url, content, stored)

    with stores.lanes.taken(), counted("out", policy):
        stored = repeat_until_right(attempt, policy, stop)
    counts.add(TRANSFERRED, "out", scheme_of(url), amount=stored.size_bytes)
    return stored


def _in_parts(
    store: Store, content: _HashingSource, url: str, headers: ObjectHeaders, policy: RetryPolicy, stop: Stop
) -> StoredObject:
    """A large file: each part is read from the file when it is its turn, and again when it has to be sent again."""
    parts = go_on_until_done(lambda: store.write_in_parts(url, headers, stop), lambda: 0, policy, stop)
    try:
        for first in range(0, content.size_bytes, FILE_PART_BYTES):
            end = min(first + FILE_PART_BYTES, content.size_bytes)
            _put(parts, content, first, end, end == content.size_bytes, policy, stop)
        return go_on_until_done(lambda: parts.finish(stop), lambda: 0, policy, stop)
    except StoreError:
        parts.abandon()
        raise


def _put(
    parts: Parts, content: _HashingSource | _Held, first: int, end: int, last: bool, policy: RetryPolicy, stop: Stop
) -> None:
    """One part, from where the store says it has the rest."""
    at, tried = first, False

    def attempt() -> None:
        nonlocal at, tried
        if tried:
            at = _resumed(parts, at, stop)
        tried = True
        if at < end:
            parts.put(_Window(content, at, end), at, last, stop)
            at = end

    go_on_until_done(attempt, lambda: at, policy, stop)


def _resumed(parts: Parts, at: int, stop: Stop) -> int:
    """Where to go on. With a store that has forgotten what it had, one can only begin anew."""
    try:
        stored_bytes = parts.stored_bytes(stop)
    except (NotFound, Refused) as error:
        raise Changed(f"the store has forgotten the upload: {error}") from error
    if stored_bytes < at:
        raise Changed(f"the store has lost what it had taken: {stored_bytes} of {at} bytes are left")
    return stored_bytes


def _verified(url: str, content: _HashingSource, stored: StoredObject) -> StoredFile:
    content.require_all_read()
    if stored.size_bytes is not None and stored.size_bytes != content.size_bytes:
        raise Truncated(f"{shown(url)} holds {stored.size_bytes} bytes, {content.size_bytes} were sent")
    compare(shown(url), content.checksums, stored.checksums)
    return StoredFile(url, content.size_bytes, content.checksums.adler32)


class _HashingSource:
    """The Source of an upload: the bytes a file had when the upload began, each hashed once, when it is first read in order."""

    def __init__(
        self,
        file: BinaryIO,
        size_bytes: int,
        shown_url: str,
        algorithm: ChecksumAlgorithm,
        slowest: Slowest,
        deadline: Deadline,
        stop: Stop,
    ) -> None:
        self._file, self._url, self._stop = file, shown_url, stop
        self._slowest, self._deadline = slowest, deadline
        self._pace = Pace(shown_url, slowest, deadline)
        self._hashed_bytes = 0
        self.size_bytes = size_bytes
        self.checksums = Checksums(dict.fromkeys(("adler32", "crc32c", algorithm)))
        self.seek(0)

    def moved(self) -> tuple[int, int]:
        return self._position, self.size_bytes

    def seek(self, offset: int, /) -> int:
        self._pace = Pace(self._url, self._slowest, self._deadline)  # the wait for the answer before was no trickle
        self._position = self._file.seek(offset)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        self._stop.check()
        left_bytes = self.size_bytes - self._position
        wanted_bytes = left_bytes if size < 0 else min(size, left_bytes)
        if wanted_bytes <= 0:
            return b""
        try:
            block = self._file.read(wanted_bytes)
        except OSError as error:
            raise LocalFileError(f"the file for {self._url} cannot be read: {in_words(error)}") from error
        if not block:
            raise LocalFileError(f"the file for {self._url} shrank from {self.size_bytes} to {self._position} bytes")
        if self._position <= self._hashed_bytes < self._position + len(block):
            self.checksums.update(block[self._hashed_bytes - self._position :])
            self._hashed_bytes = self._position + len(block)
        probe(Point.UPLOAD_BEGUN if self._position == 0 else Point.UPLOAD_MIDWAY)
        self._position += len(block)
        self._pace.moved(len(block))
        return block

    def require_all_read(self) -> None:
        """A store that did not read everything cannot hold everything, whatever it says."""
        if self._hashed_bytes != self.size_bytes:
            raise Truncated(f"only {self._hashed_bytes} of {self.size_bytes} bytes were sent to {self._url}")


class _Window:
    """Bytes ``first`` to ``end`` of a source, as a source."""

    def __init__(self, source: _HashingSource | _Held, first: int, end: int) -> None:
        self._source, self._first, self._end = source, first, end
        self.size_bytes = end - first
        self._left_bytes = self.size_bytes

    def seek(self, offset: int, /) -> int:
        self._left_bytes = self.size_bytes - offset
        self._source.seek(self._first + offset)
        return offset

    def read(self, size: int = -1, /) -> bytes:
        block = self._source.read(self._left_bytes if size < 0 else min(size, self._left_bytes))
        self._left_bytes -= len(block)
        return block


# --- streams ----------------------------------------------------------------------------------------------------------


class _Held:
    """The part of a stream that is being sent: bytes ``first`` and on, in memory, so that they can be sent again."""

    def __init__(self, content: bytes, first: int, stop: Stop) -> None:
        self._content, self._first, self._stop = content, first, stop
        self._position = 0

    def seek(self, offset: int, /) -> int:
        self._position = offset - self._first
        return offset

    def read(self, size: int, /) -> bytes:
        self._stop.check()
        block = self._content[self._position : self._position + size]
        self._position += len(block)
        return block


class StreamUpload:
    """An upload of what is only now being made: write it piece by piece, then ``finish``; nobody sees it before.

    What is shorter than a part goes in one request; else a part at a time is held in memory until the store has it.
    ``write`` and ``finish`` raise a StoreError or Stopped; after that only ``abandon`` is left.
    """

    def __init__(
        self, stores: Stores, url: str, stop: Stop, headers: ObjectHeaders, policy: RetryPolicy = TRANSFER
    ) -> None:
        self._store: Store = stores.for_url(url)
        self._url, self._stop, self._headers, self._policy = url, stop, headers, policy
        self._parts: Parts | None = None
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._sent_bytes = 0
        self.checksums = Checksums(dict.fromkeys(("adler32", "crc32c", self._store.upload_checksum)))

    @property
    def size_bytes(self) -> int:
        """How much was written so far."""
        return self._sent_bytes + self._held_bytes

    def write(self, piece: bytes) -> int:
        self._stop.check()
        self.checksums.update(piece)
        self._pieces.append(piece)
        self._held_bytes += len(piece)
        while self._held_bytes > STREAM_PART_BYTES:  # something is left for the last part
            self._send_a_part()
        return len(piece)

    def finish(self) -> StoredFile:
        """Send the rest; the object is there, verified, when this returns."""
        with counted("out", self._policy):
            stored = self._finish()
        counts.add(TRANSFERRED, "out", scheme_of(self._url), amount=stored.size_bytes)
        return stored

    def _finish(self) -> StoredFile:
        content = b"".join(self._pieces)
        size_bytes = self.size_bytes
        if self._parts is None:
            stored = go_on_until_done(lambda: self._whole(content), lambda: 0, self._policy, self._stop)
        else:
            parts = self._parts
            self._put(parts, content, last=True)
            stored = go_on_until_done(lambda: parts.finish(self._stop), lambda: 0, self._policy, self._stop)
            self._parts = None
        if stored.size_bytes is not None and stored.size_bytes != size_bytes:
            raise Truncated(f"{shown(self._url)} holds {stored.size_bytes} bytes, {size_bytes} were sent")
        compare(shown(self._url), self.checksums, stored.checksums)
        return StoredFile(self._url, size_bytes, self.checksums.adler32)

    def abandon(self) -> None:
        """Let the store forget what it has; harmless after ``finish``."""
        if self._parts is not None:
            self._parts.abandon()

    def _whole(self, content: bytes) -> StoredObject:
        held = _Held(content, 0, self._stop)
        return self._store.write(self._url, _Window(held, 0, len(content)), self._headers, self._stop)

    def _send_a_part(self) -> None:
        if self._parts is None:
            self._parts = go_on_until_done(self._begun, lambda: 0, self._policy, self._stop)
        content = b"".join(self._pieces)
        rest = content[STREAM_PART_BYTES:]
        self._put(self._parts, content[:STREAM_PART_BYTES], last=False)
        self._pieces, self._held_bytes = [rest], len(rest)

    def _begun(self) -> Parts:
        return self._store.write_in_parts(self._url, self._headers, self._stop)

    def _put(self, parts: Parts, content: bytes, *, last: bool) -> None:
        first = self._sent_bytes
        held = _Held(content, first, self._stop)
        _put(parts, held, first, first + len(content), last, self._policy, self._stop)
        self._sent_bytes += len(content)
