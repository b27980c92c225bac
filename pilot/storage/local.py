"""Files of this machine (``file://`` and absolute paths), only below folders that the operator or CRIC named.

A job must not be able to name a file of the pilot (a key, /etc/passwd) as its input: what lies elsewhere, also behind a
symbolic link or ``..``, is refused.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from pilot.job.model import ChecksumAlgorithm
from pilot.runtime.stop import Stop
from pilot.storage.store import (
    AccessRefused,
    BadUrl,
    LocalFileError,
    NotFound,
    ObjectHeaders,
    Source,
    Span,
    StoredObject,
    StoreFull,
)
from pilot.storage.urls import local_path, shown

BLOCK_BYTES = 1 << 20


class LocalStore:
    """Files below ``roots`` (absolute folders). Writing replaces a file in one step and makes missing folders."""

    upload_checksum: ChecksumAlgorithm = "adler32"

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[_Reading]:  # noqa: ARG002
        path = self._allowed(url)
        with _read_errors(url):
            file = FileIO(path, opener=_open_at_once)
        with file:
            announced = _described(path, os.fstat(file.fileno()))
            with _read_errors(url):
                file.seek(span.first)
            yield _Reading(file, announced, span, url)

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
        upload = self.write_in_parts(url, headers, stop)
        try:
            upload.put(source, 0, True, stop)
            return upload.finish(stop)
        finally:
            upload.abandon()

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> LocalUpload:  # noqa: ARG002
        return LocalUpload(url, self._allowed(url))

    def stat(self, url: str, stop: Stop) -> StoredObject:  # noqa: ARG002
        path = self._allowed(url)
        with _read_errors(url):
            return _described(path, path.lstat())

    def remove(self, url: str, stop: Stop) -> None:  # noqa: ARG002
        path = self._allowed(url)
        with _write_errors(url):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        return None

    def _allowed(self, url: str) -> Path:
        """The real path, symbolic links resolved, which must lie below a root."""
        text = local_path(url)
        if not text or "\0" in text:
            raise BadUrl(f"{shown(url)} is not an absolute path of this machine")
        path = Path(os.path.realpath(text))
        for root in self._roots:
            if path != (real_root := Path(os.path.realpath(root))) and path.is_relative_to(real_root):
                return path
        raise BadUrl(f"{shown(url)} lies outside the folders that may be used")


def _open_at_once(path: str, _flags: int) -> int:
    """No link is followed, no pipe waited for."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


class _Reading:
    """A file on its way (store.Incoming)."""

    def __init__(self, file: FileIO, announced: StoredObject, span: Span, url: str) -> None:
        self._file, self._url = file, url
        self._left_bytes = None if span.end is None else span.end - span.first
        self.announced, self.first = announced, span.first

    def readinto(self, view: memoryview, /) -> int:
        with _read_errors(self._url):
            count = self._file.readinto(view if self._left_bytes is None else view[: self._left_bytes]) or 0
        if self._left_bytes is not None:
            self._left_bytes -= count
        return count


class LocalUpload:
    """A file that is written beside its place and gets its name at the end (store.Parts)."""

    def __init__(self, url: str, path: Path) -> None:
        self._url, self._path = url, path
        self._part: Path | None = path.parent / f".{secrets.token_hex(8)}.part"
        with _write_errors(url):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch(exist_ok=False)

    def put(self, part: Source, offset: int, last: bool, stop: Stop) -> None:  # noqa: ARG002
        assert self._part is not None  # noqa: S101 - not after its end
        with _write_errors(self._url), self._part.open("r+b") as file:
            file.seek(offset)
            part.seek(0)
            while block := part.read(BLOCK_BYTES):
                file.write(block)

    def stored_bytes(self, stop: Stop) -> int:  # noqa: ARG002
        assert self._part is not None  # noqa: S101
        with _write_errors(self._url):
            return self._part.stat().st_size

    def finish(self, stop: Stop) -> StoredObject:  # noqa: ARG002
        assert self._part is not None  # noqa: S101
        with _write_errors(self._url):
            stored = _described(self._part, self._part.stat())
            self._part.replace(self._path)
        self._part = None
        return stored

    def abandon(self) -> None:
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def _described(path: Path, status: os.stat_result) -> StoredObject:
    import stat

    if not stat.S_ISREG(status.st_mode):
        raise LocalFileError(f"{path} is not a regular file")
    return StoredObject(status.st_size)


@contextmanager
def _read_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"{shown(url)} does not exist") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise AccessRefused(f"{shown(url)} may not be read") from error
        raise LocalFileError(f"{shown(url)} cannot be read: {error.strerror}") from error


@contextmanager
def _write_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no space left for {shown(url)}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessRefused(f"{shown(url)} may not be written") from error
        raise LocalFileError(f"{shown(url)} cannot be written: {error.strerror}") from error
