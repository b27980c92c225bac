"""The worker log: the pilot's whole log in the file where Harvester's templates look for it, and as it is handed in at the end.

Templates of both generations probe ``/tmp/wrapper-wid.log`` for an age below ten minutes, while the work volume, and with it
TMPDIR, is elsewhere today; so a link of that name leads to the log. ``find`` looks at the age of the link itself. Both ages are
the conductor's: it touches them at every beat, and a line that a helper writes leaves them as they were, so that a pilot
whose main thread is stuck looks as stuck as it is.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pilot.runtime.events import RedactingFormatter, log_to, redactor
from pilot.runtime.loops import run_stage
from pilot.runtime.stop import Deadline, Stop, Stopped

logger = logging.getLogger("pilot.logs")

PROBED_NAME = Path("/tmp/wrapper-wid.log")  # noqa: S108  (templates have it)
UPLOAD_MAX_BYTES = 99 << 20  # the server takes requests of 100 MiB, the form around the file included
COMPRESSION = 6
UPLOAD_S = 60.0  # when nobody is waiting
WORTH_TRYING_S = 0.2
LEAVE_BEHIND_S = 0.5


class WorkerLog:
    """The file, open for appending. Raises OSError when it cannot be had, or is not a plain file of our own."""

    def __init__(self, path: Path, link: Path | None = PROBED_NAME) -> None:
        self.path = path
        self._link = link if link != path else None
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
                raise FileExistsError(f"{path} is there already and is not a plain file of ours")
        except OSError:
            os.close(self._descriptor)
            raise
        self._identity = (status.st_dev, status.st_ino)
        self._beat_ns: int | None = None
        self._show_link()

    def write(self, line: str) -> None:
        """Append a line; the file stays as old as the conductor's last beat. Raises OSError."""
        os.write(self._descriptor, line.encode("utf-8", "backslashreplace") + b"\n")
        if self._beat_ns is not None:
            os.utime(self._descriptor, ns=(self._beat_ns, self._beat_ns))

    def touch(self) -> None:
        """The conductor's beat. Raises nothing: what fails here fails the probe, as it should."""
        self._beat_ns = time.time_ns()
        times = (self._beat_ns, self._beat_ns)
        with suppress(OSError):
            os.utime(self._descriptor, ns=times)
            if self._link is not None and self._show_link():
                os.utime(self._link, ns=times, follow_symlinks=False)

    def _show_link(self) -> bool:
        """Make the link, or make an earlier one of ours lead here. False: the name is somebody's, or not to be had."""
        if self._link is None:
            return False
        try:
            if _our_link(self._link):
                if self._link.readlink() == self.path:
                    return True
                self._link.unlink()
            self._link.symlink_to(self.path)  # fails where anything of that name is
        except OSError:
            return False
        return True

    def close(self) -> None:
        """The log stays; the link, which outside of a pod others may find, goes."""
        with suppress(OSError):
            os.close(self._descriptor)
        with suppress(OSError):
            if self._link is not None and _our_link(self._link) and self._link.readlink() == self.path:
                self._link.unlink()

    @contextmanager
    def opened(self, packed: bool) -> Iterator[tuple[BinaryIO, int]]:
        """The log as it is now for an upload, secrets masked, and its size; ``packed``: as gzip. Raises OSError.

        Of one that is too long head and tail are kept.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self._identity:
                raise FileExistsError(f"{self.path} is no longer the log it was")
            with redactor.reading(file) as shown:
                plain = Excerpt(shown, status.st_size, UPLOAD_MAX_BYTES)
                if not packed:
                    yield io.BufferedReader(plain), plain.size_bytes
                    return
                with tempfile.TemporaryFile(dir=self.path.parent) as pack:
                    with gzip.GzipFile(self.path.name, "wb", COMPRESSION, pack) as writer:
                        shutil.copyfileobj(io.BufferedReader(plain), writer, 1 << 20)
                    size_bytes = pack.tell()
                    pack.seek(0)
                    yield pack, size_bytes


class Excerpt(io.RawIOBase):
    """The first ``size_bytes`` of a file, or its head and tail with a notice between them, ``max_bytes`` in all."""

    def __init__(self, file: BinaryIO, size_bytes: int, max_bytes: int) -> None:
        self._file = file
        self._pieces: list[bytes | tuple[int, int]] = [(0, size_bytes)]
        self.size_bytes = size_bytes
        if size_bytes > max_bytes:
            notice = f"\n... {size_bytes - max_bytes} bytes or a few more are left out here ...\n".encode()
            kept_bytes = (max_bytes - len(notice)) // 2
            self._pieces = [(0, kept_bytes), notice, (size_bytes - kept_bytes, size_bytes)]
            self.size_bytes = 2 * kept_bytes + len(notice)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._next(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def _next(self, most_bytes: int) -> bytes:
        while self._pieces:
            piece = self._pieces[0]
            if isinstance(piece, bytes):
                block, self._pieces[0] = piece[:most_bytes], piece[most_bytes:]
            else:
                start, end = piece
                self._file.seek(start)
                block = self._file.read(min(most_bytes, end - start))
                self._pieces[0] = (start + len(block), end)
            if block:
                return block
            self._pieces.pop(0)
        return b""


class _Writer(logging.Handler):
    """Sends the pilot's events to the worker log."""

    def __init__(self, log: WorkerLog) -> None:
        super().__init__()
        self.setFormatter(RedactingFormatter())
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a full disk: the terminal has the line
            self._log.write(self.format(record))


@contextmanager
def worker_log(places: tuple[Path, ...], link: Path | None = PROBED_NAME) -> Iterator[WorkerLog | None]:
    """While inside, the pilot's events go to the worker log too, in the first of ``places`` that can be had; None: in none."""
    log = None
    for path in places:
        try:
            log = WorkerLog(path, link)
            break
        except OSError as error:
            logger.warning("no worker log in %s: %s", path, error.strerror or error)
    if log is None:
        yield None
        return
    try:
        with log_to(_Writer(log)):
            yield log
    finally:
        log.close()


def hand_in(upload: Callable[[Deadline, Stop], None], stop: Stop, shutdown_s: float) -> None:
    """Run the upload of the worker log within what is left of the time: ``shutdown_s`` counts from a stop, if there was one.

    Raises Stopped when the time is over, or what ``upload`` raises.
    """
    left_s = stop.left_s(shutdown_s, UPLOAD_S)
    if stop.reason is not None and left_s < WORTH_TRYING_S:
        raise Stopped(stop.reason)
    time = Deadline(left_s)
    with stop.grace(shutdown_s) as grace:
        run_stage("worker-log", lambda: upload(time, grace), grace, LEAVE_BEHIND_S, left_s)


def _our_link(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid()
