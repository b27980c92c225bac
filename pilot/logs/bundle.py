"""log.tgz: what a job left to read, in one file; its size and checksum are computed while it is written."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pilot.logs.collect import bundle_members
from pilot.runtime.events import redactor
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.checksum import Checksums

COMPRESSION = 1  # of gzip: logs shrink nearly as well as at 6, in a third of the time


@dataclass(frozen=True, slots=True)
class Bundle:
    """The bundle as it lies on the disk."""

    path: Path
    size_bytes: int
    adler32: str


def make_bundle(folder: JobFolder, lfn: str, top: str, left_out: frozenset[str], stop: Stop) -> Bundle:
    """Write ``logs/<lfn>`` with everything below the folder ``top``, secrets masked. Raises OSError (full disk), Stopped."""
    path = folder.logs / lfn
    with path.open("wb") as raw:
        measured = _Measured(raw)
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=measured, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, file in bundle_members(folder, left_out):
                stop.check()
                with redactor.reading(file) as shown:
                    _add(archive, f"{top}/{redactor.clean(name)}", shown)
    return Bundle(path, measured.size_bytes, measured.checksums.adler32)


def _add(archive: tarfile.TarFile, name: str, file: BinaryIO) -> None:
    """Add an open file under ``name``: the bytes it has now, even if it grows; filled up with zeros if it shrinks."""
    status = os.fstat(file.fileno())
    entry = tarfile.TarInfo(_for_terminals(name))
    entry.size, entry.mtime, entry.mode = status.st_size, int(status.st_mtime), 0o644
    archive.addfile(entry, _Exactly(file, status.st_size))  # type: ignore[arg-type]


def _for_terminals(name: str) -> str:
    """A payload chooses the names of its files; whoever lists the bundle shall see them and not what they command."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


class _Exactly:
    """A reader of exactly ``size_bytes`` bytes, whatever happens to the file meanwhile."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._left_bytes = file, size_bytes

    def read(self, size: int) -> bytes:
        block = self._file.read(min(size, self._left_bytes)).ljust(min(size, self._left_bytes), b"\0")
        self._left_bytes -= len(block)
        return block


class _Measured(io.RawIOBase):
    """Counts and hashes what passes through to the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.checksums = Checksums(["adler32"])

    def writable(self) -> bool:
        return True

    def write(self, block: bytes) -> int:  # type: ignore[override]
        self.checksums.update(block)
        self.size_bytes += len(block)
        return self._file.write(block)
