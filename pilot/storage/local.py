"""Files of this machine (``file://`` and absolute paths), only below folders that the operator or CRIC named.

A job must not be able to name a file of the pilot (a key, /etc/passwd) as its input: what lies elsewhere, also behind a
symbolic link or ``..``, is refused.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from pilot.job.model import ChecksumAlgorithm
from pilot.storage.store import (
    AccessRefused,
    BadUrl,
    LocalFileError,
    NotFound,
    ObjectHeaders,
    Sink,
    Source,
    StoredObject,
    StoreError,
    StoreFull,
)
from pilot.storage.urls import local_path, shown

BLOCK_BYTES = 1 << 20


class LocalStore:
    """Files below ``roots`` (absolute folders). Writing replaces a file in one step and makes missing folders."""

    upload_checksum: ChecksumAlgorithm = "adler32"

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    def download(self, url: str, sink: Sink) -> None:
        path = self._allowed(url)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                sink.expect(_described(path, os.fstat(descriptor)))
                while block := file.read(BLOCK_BYTES):
                    sink.write(block)
        except OSError as error:
            raise _read_error(url, error) from error

    def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject:  # noqa: ARG002
        path = self._allowed(url)
        part = path.parent / f".{secrets.token_hex(8)}.part"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                while block := source.read(BLOCK_BYTES):
                    file.write(block)
            stored = _described(part, part.stat())
            part.replace(path)
            return stored
        except OSError as error:
            raise _write_error(url, error) from error
        finally:
            part.unlink(missing_ok=True)

    def stat(self, url: str) -> StoredObject:
        path = self._allowed(url)
        try:
            return _described(path, path.lstat())
        except OSError as error:
            raise _read_error(url, error) from error

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


def _described(path: Path, status: os.stat_result) -> StoredObject:
    import stat

    if not stat.S_ISREG(status.st_mode):
        raise LocalFileError(f"{path} is not a regular file")
    return StoredObject(status.st_size)


def _read_error(url: str, error: OSError) -> StoreError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{shown(url)} does not exist")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessRefused(f"{shown(url)} may not be read")
    return LocalFileError(f"{shown(url)} cannot be read: {error.strerror}")


def _write_error(url: str, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space left for {shown(url)}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessRefused(f"{shown(url)} may not be written")
    return LocalFileError(f"{shown(url)} cannot be written: {error.strerror}")
