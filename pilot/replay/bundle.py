"""``log.tgz`` as it comes from somewhere: read and unpacked by rules of our own, whatever it holds.

Only regular files come out, each new, below the one folder. Links, devices, absolute and climbing names, sparse files and very
large ones are passed over; what it unpacks to, the number of its members and the length of every header are bounded.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.replay import MAX_DOCUMENT_BYTES, REPLAY_NAME
from pilot.storage.store import LocalFileError
from pilot.storage.transfer import open_regular

MAX_UNPACKED_BYTES = 8 << 30  # a payload's stdout and stderr may have 2 GiB each, and are in it whole
MAX_FILE_BYTES = 256 << 20
MAX_WRITTEN_BYTES = 1 << 30
MAX_MEMBERS = 4000
MAX_READ_BYTES = 1 << 20  # at a time: a header that announces more is no log's
BLOCK_BYTES = 256 << 10
MOST_STEPS = 30
NAME_MAX_BYTES = 255


class BadBundle(PilotCannotWork):
    """It is no log bundle, or one that no pilot made (exit 67)."""

    def __init__(self, bundle: Path, what: str) -> None:
        super().__init__(ExitCode.MISSING_FILE, f"{bundle} {what}")


def read_document(bundle: Path) -> bytes:
    """The ``replay.json`` in it. Raises BadBundle when there is none."""
    with _members(bundle) as members:
        for steps, size_bytes, content in members:
            if steps == (REPLAY_NAME,) and size_bytes <= MAX_DOCUMENT_BYTES:
                return b"".join(_blocks(content, size_bytes))
    raise BadBundle(bundle, f"holds no {REPLAY_NAME}: the job was run by an older pilot, or could not be read at all")


def unpack(bundle: Path, into: Path, most_bytes: int = MAX_WRITTEN_BYTES) -> int:
    """Unpack it into a new folder; how many files came out. Raises BadBundle, OSError."""
    into.mkdir(mode=0o700)
    unpacked = 0
    with _members(bundle) as members:
        for steps, size_bytes, content in members:
            most_bytes -= size_bytes
            if most_bytes < 0:
                raise BadBundle(bundle, "unpacks to more than a log bundle does")
            target = into.joinpath(*steps)
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except (FileExistsError, NotADirectoryError):
                continue  # a name that comes twice, or a folder that is a file already
            with os.fdopen(descriptor, "wb") as file:
                for block in _blocks(content, size_bytes):
                    file.write(block)
            unpacked += 1
    return unpacked


@contextmanager
def _members(bundle: Path) -> Iterator[Iterator[tuple[tuple[str, ...], int, IO[bytes]]]]:
    """The files that may come out: the steps of their names below the bundle's own folder, sizes, and contents to read."""
    try:
        with open_regular(bundle) as packed, gzip.GzipFile(fileobj=packed, mode="rb") as plain:
            yield _files(bundle, _Bounded(bundle, plain))
    except LocalFileError as error:
        raise PilotCannotWork(ExitCode.MISSING_FILE, str(error)) from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise BadBundle(bundle, f"is no log bundle ({str(error)[:200] or type(error).__name__})") from None


def _files(bundle: Path, plain: _Bounded) -> Iterator[tuple[tuple[str, ...], int, IO[bytes]]]:
    with tarfile.open(fileobj=plain, mode="r:") as archive:  # type: ignore[call-overload]
        for count, member in enumerate(archive):
            if count >= MAX_MEMBERS:
                raise BadBundle(bundle, f"has more than {MAX_MEMBERS} members, which no log bundle has")
            archive.members.clear()  # it would keep them all
            steps = _steps(member.name)
            good = steps and member.isreg() and not member.issparse() and member.size <= MAX_FILE_BYTES
            content = archive.extractfile(member) if good else None
            if content is not None:
                yield steps, member.size, content


def _steps(name: str) -> tuple[str, ...]:
    """The steps of a name below the bundle's first folder; empty for a name that leads anywhere else."""
    steps = name.split("/")
    good = len(steps) <= MOST_STEPS and name.isprintable() and all(_is_plain(step) for step in steps)
    return tuple(steps[1:]) if good else ()


def _is_plain(step: str) -> bool:
    return step not in ("", ".", "..") and len(step.encode("utf-8", "replace")) <= NAME_MAX_BYTES


def _blocks(content: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    left_bytes = size_bytes
    while left_bytes > 0 and (block := content.read(min(BLOCK_BYTES, left_bytes))):
        left_bytes -= len(block)
        yield block


class _Bounded:
    """The unpacked stream, up to a size and a piece at a time. What tarfile asks of a file, and no more."""

    def __init__(self, bundle: Path, plain: gzip.GzipFile) -> None:
        self._bundle, self._plain = bundle, plain

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise BadBundle(self._bundle, "announces a header of a size that no log bundle has")
        self._check(self._plain.tell() + size)
        return self._plain.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._plain.seek(offset)

    def tell(self) -> int:
        return self._plain.tell()

    def _check(self, end: int) -> None:
        if end > MAX_UNPACKED_BYTES:
            raise BadBundle(
                self._bundle, f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB, which no log bundle does"
            )
