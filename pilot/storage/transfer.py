"""The engine that moves one file: every store, every caller, the same guarantees.

A download lies under a temporary name until its size and checksum agree, then gets its final name in one step. An upload
counts only when the store's own size and checksum of it agree with what was read. What may pass is retried; a stopped
scope ends a transfer at its next block.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.job.report import StoredFile
from pilot.runtime.clock import monotonic_s
from pilot.runtime.probe import Point, probe
from pilot.runtime.retry import TRANSFER, RetryableError, RetryPolicy, retry_call
from pilot.runtime.stop import Stop, StopReason
from pilot.storage.checksum import Checksums
from pilot.storage.store import (
    ChecksumMismatch,
    LocalFileError,
    LocalFileMissing,
    NoSpace,
    ObjectHeaders,
    SizeMismatch,
    Store,
    StoredObject,
    StoreError,
    Stores,
    TimedOut,
    TooLarge,
    Truncated,
)
from pilot.storage.urls import shown

logger = logging.getLogger("pilot.storage")

T = TypeVar("T")

HELD_BYTES = 256 << 10
SPARE_DISK_BYTES = 16 << 20  # left free on a disk we write to, so that logs and the journal can still be written


@dataclass(frozen=True, slots=True)
class Slowest:
    """A transfer that stays below ``bytes_per_s`` for ``for_s`` seconds is given up."""

    bytes_per_s: int = 1024
    for_s: float = 30.0


SLOWEST = Slowest()


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A downloaded file, verified."""

    path: Path
    size_bytes: int
    adler32: str


def fetch(
    stores: Stores,
    url: str,
    target: Path,
    stop: Stop,
    *,
    checksum: Checksum | None = None,
    size_bytes: int | None = None,
    max_bytes: int | None = None,
    policy: RetryPolicy = TRANSFER,
    slowest: Slowest = SLOWEST,
) -> FetchedFile:
    """Download ``url`` (gs, s3, https, file or an absolute path) to ``target``, whose folder exists.

    ``checksum`` and ``size_bytes`` are verified when given; what the store itself says of the object always is. More than
    ``max_bytes`` is refused. An existing ``target`` is replaced. Raises a StoreError, or Stopped.
    """
    store = stores.for_url(url)
    if size_bytes is not None and max_bytes is not None and size_bytes > max_bytes:
        raise TooLarge(f"{shown(url)} has {size_bytes} bytes, more than the {max_bytes} allowed")
    require_free_disk(target.parent, size_bytes or 0)
    wanted = _Wanted(shown(url), checksum, size_bytes, max_bytes, slowest)
    return _retried(lambda: _fetch_once(store, url, target, wanted, stop), policy, stop)


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
    store = stores.for_url(url)

    def attempt() -> StoredFile:
        content = _HashingSource(source, shown(url), store.upload_checksum, slowest, stop)
        return _send_once(store, content, url, headers or ObjectHeaders())

    return _retried(attempt, policy, stop)


def open_regular(path: Path | str, dir_fd: int | None = None) -> BinaryIO:
    """Open a regular file for reading without following a symbolic link or waiting at a pipe.

    Raises LocalFileMissing, or LocalFileError for what is there but no regular file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=dir_fd)
    except FileNotFoundError as error:
        raise LocalFileMissing(f"{path} does not exist") from error
    except OSError as error:
        raise LocalFileError(f"{path} cannot be read: {_words(error)}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LocalFileError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def require_free_disk(folder: Path, needed_bytes: int) -> None:
    """Raise NoSpace unless the disk below ``folder`` can take this many bytes and some to spare."""
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise LocalFileError(f"{folder} cannot be written to: {_words(error)}") from error
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < needed_bytes + SPARE_DISK_BYTES:
        raise NoSpace(
            f"{folder} has {free_bytes >> 20} MiB free, {(needed_bytes + SPARE_DISK_BYTES) >> 20} MiB are needed"
        )


def _retried(attempt: Callable[[], T], policy: RetryPolicy, stop: Stop) -> T:
    seen: set[str] = set()

    def once() -> T:
        stop.check()
        try:
            return attempt()
        except ChecksumMismatch as error:
            if str(error) in seen:
                raise _SameAgain(error) from error
            seen.add(str(error))
            logger.warning("%s", error)
            raise
        except RetryableError as error:
            logger.warning("%s", error)
            raise

    try:
        return retry_call(once, policy, stop)
    except RetryableError:
        stop.check()
        raise
    except _SameAgain as error:
        raise error.mismatch from error


class _SameAgain(Exception):
    """The same wrong checksum a second time: the object itself is not what it should be, and asking again is waste."""

    def __init__(self, mismatch: ChecksumMismatch) -> None:
        super().__init__(str(mismatch))
        self.mismatch = mismatch


class _Pace:
    """Gives up a transfer that trickles: a peer that sends a byte now and then keeps every socket time-out at bay."""

    def __init__(self, url: str, slowest: Slowest) -> None:
        self._url, self._slowest = url, slowest
        self._since_s: float | None = None
        self._moved_bytes = 0

    def moved(self, size_bytes: int) -> None:
        now_s = monotonic_s()
        if self._since_s is None:
            self._since_s = now_s
        self._moved_bytes += size_bytes
        if now_s - self._since_s < self._slowest.for_s:
            return
        if self._moved_bytes < self._slowest.bytes_per_s * self._slowest.for_s:
            raise TimedOut(f"{self._url} moved only {self._moved_bytes} bytes in {now_s - self._since_s:.0f} s")
        self._since_s, self._moved_bytes = now_s, 0


# --- down -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a download must be; ``url`` is for messages."""

    url: str
    checksum: Checksum | None
    size_bytes: int | None
    max_bytes: int | None
    slowest: Slowest

    def check_size(self, size_bytes: int) -> None:
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            raise TooLarge(f"{self.url} has more than the {self.max_bytes} bytes allowed")
        if self.size_bytes is not None and size_bytes > self.size_bytes:
            raise SizeMismatch(f"{self.url} has more than the expected {self.size_bytes} bytes")

    def check_whole(self, size_bytes: int) -> None:
        if self.size_bytes is not None and size_bytes != self.size_bytes:
            raise SizeMismatch(f"{self.url} has {size_bytes} bytes, {self.size_bytes} were expected")


def _fetch_once(store: Store, url: str, target: Path, wanted: _Wanted, stop: Stop) -> FetchedFile:
    with _PartFile(target, wanted, stop) as part:
        try:
            store.download(url, part)
        except (StoreError, ValueError) as error:
            # ValueError: a socket that was shut under the library's hands, by the stop.
            stop.check()
            if part.failure is not None:
                raise part.failure from error
            raise
        part.verify()
        probe(Point.DOWNLOAD_VERIFIED)
        part.publish()
        return FetchedFile(target, part.size_bytes, part.checksums.adler32)


class _PartFile:
    """The Sink of a download: a file without its final name, until ``publish``."""

    def __init__(self, target: Path, wanted: _Wanted, stop: Stop) -> None:
        self._target, self._wanted, self._stop = target, wanted, stop
        self._pace = _Pace(wanted.url, wanted.slowest)
        self._announced = StoredObject()
        self._name = f".{secrets.token_hex(8)}.part"
        self._folder = self._file = -1
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.size_bytes = 0
        self.checksums = _checksums_for(wanted.checksum, ())
        self.failure: BaseException | None = None  # what ``write`` raised: libraries wrap what comes out of a callback

    def __enter__(self) -> _PartFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._file = os.open(self._name, flags, 0o644, dir_fd=self._folder)
        except OSError as error:
            self._close()
            raise _local_error(self._target, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._name:
            try:
                os.unlink(self._name, dir_fd=self._folder)
            except FileNotFoundError:
                pass
        self._close()

    def _close(self) -> None:
        for descriptor in (self._file, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._folder = -1

    @contextmanager
    def interruptible(self, shut: Callable[[], object]) -> Iterator[None]:
        def end_the_wait(_reason: StopReason) -> None:
            try:
                shut()
            except (OSError, ValueError, RuntimeError):
                logger.debug("%s had ended before it was interrupted", self._wanted.url)

        self._stop.follow(end_the_wait)
        try:
            yield
        finally:
            self._stop.unfollow(end_the_wait)

    def expect(self, announced: StoredObject) -> None:
        self._announced = announced
        self.checksums = _checksums_for(self._wanted.checksum, announced.checksums)
        try:
            if announced.size_bytes is not None:
                self._wanted.check_size(announced.size_bytes)
                self._wanted.check_whole(announced.size_bytes)
                require_free_disk(self._target.parent, announced.size_bytes)
        except StoreError as error:
            self.failure = error
            raise

    def write(self, block: bytes) -> int:
        try:
            self._stop.check()
            self.size_bytes += len(block)
            probe(Point.DOWNLOAD_BEGUN if self.size_bytes == len(block) else Point.DOWNLOAD_MIDWAY)
            self._wanted.check_size(self.size_bytes)
            self._pace.moved(len(block))
            self._held.append(block)
            self._held_bytes += len(block)
            if self._held_bytes >= HELD_BYTES:
                self._flush()
        except BaseException as error:
            self.failure = error
            raise
        return len(block)

    def _flush(self) -> None:
        """Hash and write what is held: TLS records of 16 KiB one by one would cost three times the CPU."""
        block = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        self.checksums.update(block)
        left = memoryview(block)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise _local_error(self._target, error) from error

    def verify(self) -> None:
        """Write the rest; raise unless size and checksums are what the caller and the store announced."""
        self._flush()
        announced_bytes = self._announced.size_bytes
        if announced_bytes is not None and announced_bytes != self.size_bytes:
            raise Truncated(f"{self._wanted.url}: {self.size_bytes} of {announced_bytes} bytes came")
        self._wanted.check_whole(self.size_bytes)
        _compare(self._wanted.url, self.checksums, (*_one(self._wanted.checksum), *self._announced.checksums))

    def publish(self) -> None:
        try:
            os.rename(self._name, self._target.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise _local_error(self._target, error) from error
        self._name = ""


def _checksums_for(wanted: Checksum | None, announced: tuple[Checksum, ...]) -> Checksums:
    """adler32 and crc32c always (they cost little); md5 when the job gives it, or when the store offers nothing else."""
    algorithms: list[ChecksumAlgorithm] = ["adler32", "crc32c"]
    if wanted is not None:
        algorithms.append(wanted.algorithm)
    elif announced and not any(checksum.algorithm in algorithms for checksum in announced):
        algorithms.append(announced[0].algorithm)
    return Checksums(dict.fromkeys(algorithms))


# --- up ---------------------------------------------------------------------------------------------------------------


def _send_once(store: Store, source: _HashingSource, url: str, headers: ObjectHeaders) -> StoredFile:
    try:
        stored = store.upload(source, url, headers)
    except StoreError as error:
        if source.failure is not None:
            raise source.failure from error
        raise
    probe(Point.UPLOAD_SENT)
    source.require_all_read()
    if stored.size_bytes is not None and stored.size_bytes != source.size_bytes:
        raise Truncated(f"{shown(url)} holds {stored.size_bytes} bytes, {source.size_bytes} were sent")
    _compare(shown(url), source.checksums, stored.checksums)
    return StoredFile(url, source.size_bytes, source.checksums.adler32)


class _HashingSource:
    """The Source of an upload: the bytes a file had when the upload began, hashed as they are read from the start."""

    def __init__(self, file: BinaryIO, url: str, algorithm: ChecksumAlgorithm, slowest: Slowest, stop: Stop) -> None:
        self._file, self._url, self._algorithm, self._stop = file, url, algorithm, stop
        self._pace = _Pace(url, slowest)
        self._size_bytes = file.seek(0, os.SEEK_END)
        self._hashed_bytes = 0
        self.checksums = self._fresh()
        self.failure: BaseException | None = None
        self.seek(0)

    def _fresh(self) -> Checksums:
        return Checksums(dict.fromkeys(("adler32", "crc32c", self._algorithm)))

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = {0: 0, 1: getattr(self, "_position", 0), 2: self._size_bytes}[whence]
        self._position = self._file.seek(max(0, min(base + offset, self._size_bytes)))
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        try:
            self._stop.check()
            return self._read(size)
        except BaseException as error:
            self.failure = error
            raise

    def _read(self, size: int) -> bytes:
        left_bytes = self._size_bytes - self._position
        wanted_bytes = left_bytes if size is None or size < 0 else min(size, left_bytes)
        if wanted_bytes == 0:
            return b""
        try:
            block = self._file.read(wanted_bytes)
        except OSError as error:
            raise LocalFileError(f"the file for {self._url} cannot be read: {_words(error)}") from error
        if not block:
            raise LocalFileError(f"the file for {self._url} shrank from {self._size_bytes} to {self._position} bytes")
        if self._position == 0:
            self.checksums, self._hashed_bytes = self._fresh(), 0
        if self._position == self._hashed_bytes:
            self.checksums.update(block)
            self._hashed_bytes += len(block)
        self._position += len(block)
        probe(Point.UPLOAD_BEGUN if self._position == len(block) else Point.UPLOAD_MIDWAY)
        self._pace.moved(len(block))
        return block

    def require_all_read(self) -> None:
        """A store that did not read everything cannot hold everything, whatever it says."""
        if self._hashed_bytes != self._size_bytes:
            raise Truncated(f"only {self._hashed_bytes} of {self._size_bytes} bytes were sent to {self._url}")


# --- both -------------------------------------------------------------------------------------------------------------


def _compare(url: str, computed: Checksums, expected: tuple[Checksum, ...]) -> None:
    for checksum in expected:
        found = computed.mismatch(checksum)
        if found is not None:
            raise ChecksumMismatch(f"{url}: {found} was computed, {checksum} was expected", checksum.algorithm)


def _one(checksum: Checksum | None) -> tuple[Checksum, ...]:
    return (checksum,) if checksum else ()


def _local_error(path: Path, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left while writing {path}")
    return LocalFileError(f"{path} cannot be written: {_words(error)}")


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
