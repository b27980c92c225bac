"""What downloads and uploads have in common: how slow a peer may be, what is tried again, how files are opened.

The engine is download.py and upload.py: every store, every caller, the same guarantees. A download lies under a temporary name
until its size and checksum agree. An upload counts only when the store's own size and checksum of it agree with what was
read. What may pass is tried again, from where it was cut; a stop ends a transfer at its next block.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pilot.job.model import Checksum
from pilot.runtime.clock import monotonic_s
from pilot.runtime.metrics import RETRIES, TRANSFERS, counts
from pilot.runtime.progress import Direction
from pilot.runtime.retry import RetryableError, RetryPolicy, retry_call
from pilot.runtime.stop import Deadline, Stop, Stopped
from pilot.storage.checksum import Checksums
from pilot.storage.store import (
    Changed,
    ChecksumMismatch,
    LocalFileError,
    LocalFileMissing,
    NoSpace,
    StoreError,
    TimedOut,
    TooSlow,
)

logger = logging.getLogger("pilot.storage")

T = TypeVar("T")

SPARE_DISK_BYTES = 16 << 20  # left free on a disk we write to, so that logs and the journal can still be written
LEAST_MEAN_BYTES_PER_S = 1 << 20  # what a large file must come to in the end, trouble and waits included


@dataclass(frozen=True, slots=True)
class Slowest:
    """A stream that stays below ``bytes_per_s`` for ``for_s`` seconds is cut (and taken up again)."""

    bytes_per_s: int = 1024
    for_s: float = 30.0


SLOWEST = Slowest()


class Pace:
    """Ends a stream that trickles: a peer that sends a byte now and then keeps every socket time-out at bay.

    ``deadline``: the end of the whole file's time. Raises TimedOut (may be tried again) and TooSlow (may not).
    """

    def __init__(self, shown_url: str, slowest: Slowest, deadline: Deadline) -> None:
        self._url, self._slowest, self._deadline = shown_url, slowest, deadline
        self._since_s = monotonic_s()
        self._moved_bytes = 0

    def moved(self, size_bytes: int) -> None:
        now_s = monotonic_s()
        self._moved_bytes += size_bytes
        if now_s - self._since_s < self._slowest.for_s and now_s < self._deadline.at_s:
            return
        if now_s >= self._deadline.at_s:
            raise TooSlow(f"{self._url} is not moved in the time a file of its size may take")
        if self._moved_bytes < self._slowest.bytes_per_s * self._slowest.for_s:
            raise TimedOut(f"{self._url} moved only {self._moved_bytes} bytes in {now_s - self._since_s:.0f} s")
        self._since_s, self._moved_bytes = now_s, 0


def file_deadline(policy: RetryPolicy, size_bytes: int) -> Deadline:
    """The end of the time that a file of this size may take, whatever happens on the way."""
    return Deadline(policy.total_s + size_bytes / LEAST_MEAN_BYTES_PER_S)


@contextmanager
def counted(direction: Direction, policy: RetryPolicy) -> Iterator[None]:
    """While inside, one file is moved; what becomes of it is counted. The policy's name says what it is moved for."""
    result = "failed"
    try:
        yield
        result = "ok"
    except Stopped:
        result = "stopped"
        raise
    finally:
        counts.add(TRANSFERS, direction, policy.name, result)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A try that ended in an error which this loop does not try again."""

    error: StoreError


class _MovedOn(Exception):
    """A try failed, but later than the one before: the count of tries begins anew."""


def go_on_until_done(attempt: Callable[[], T], at: Callable[[], int], policy: RetryPolicy, stop: Stop) -> T:
    """Try until it succeeds; ``policy`` counts the tries that got no further than the one before. ``at``: how far it is.

    Raises what the last try did; wrong bytes and replaced objects (repeat_until_right's matter) at once; Stopped.
    """

    def once() -> T | _Ended:
        stop.check()
        before = at()
        try:
            return attempt()
        except (ChecksumMismatch, Changed) as error:
            return _Ended(error)
        except RetryableError as error:
            stop.check()
            counts.add(RETRIES)
            logger.warning("%s", error)
            if at() > before:
                raise _MovedOn from error
            raise

    while True:
        try:
            found = retry_call(once, policy, stop)
        except _MovedOn:
            stop.wait(policy.first_s)
            continue
        except RetryableError:
            stop.check()
            raise
        if isinstance(found, _Ended):
            raise found.error
        return found


def repeat_until_right(attempt: Callable[[], T], policy: RetryPolicy, stop: Stop) -> T:
    """Begin anew while the bytes are wrong or were replaced. The same wrong checksum twice is the object's own.

    Raises what ``attempt`` does: what could be tried again was, before it came here.
    """
    seen: set[str] = set()

    def once() -> T | _Ended:
        stop.check()
        try:
            return attempt()
        except (ChecksumMismatch, Changed) as error:
            counts.add(RETRIES)
            logger.warning("%s", error)
            if isinstance(error, ChecksumMismatch) and str(error) in seen:
                return _Ended(error)
            seen.add(str(error))
            raise
        except StoreError as error:
            return _Ended(error)

    try:
        found = retry_call(once, policy, stop)
    except RetryableError:
        stop.check()
        raise
    if isinstance(found, _Ended):
        raise found.error
    return found


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
        raise LocalFileError(f"{path} cannot be read: {in_words(error)}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LocalFileError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def require_free_disk(folder: Path, needed_bytes: int) -> None:
    """Raise NoSpace unless the disk below ``folder`` can take this many bytes and some to spare."""
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise LocalFileError(f"{folder} cannot be written to: {in_words(error)}") from error
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < needed_bytes + SPARE_DISK_BYTES:
        raise NoSpace(
            f"{folder} has {free_bytes >> 20} MiB free, {(needed_bytes + SPARE_DISK_BYTES) >> 20} MiB are needed"
        )


def compare(shown_url: str, computed: Checksums, expected: tuple[Checksum, ...]) -> None:
    """Raise ChecksumMismatch unless all that were computed are as expected."""
    for checksum in expected:
        found = computed.mismatch(checksum)
        if found is not None:
            raise ChecksumMismatch(f"{shown_url}: {found} was computed, {checksum} was expected", checksum.algorithm)


def local_error(path: Path, error: OSError) -> StoreError:
    """A local file that cannot be written, in the stores' words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left while writing {path}")
    return LocalFileError(f"{path} cannot be written: {in_words(error)}")


def in_words(error: OSError) -> str:
    return error.strerror or type(error).__name__
