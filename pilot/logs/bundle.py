"""log.tgz: what a job left to read, in one file, made and compressed while it is sent: no copy of it lies on the disk."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from pilot.logs.collect import Budget, bundle_members
from pilot.runtime.events import redactor
from pilot.runtime.workdir import JobFolder

COMPRESSION = 1  # of ISA-L: as small as zlib's lowest level, in a third of its CPU time (docs/performance.md)
BLOCK_BYTES = 256 << 10  # read and searched for secrets at a time
AHEAD_BYTES = 1 << 20  # compressed and sent at a time, on a thread of the compressor's own, while the next are searched
FILE_MAX_BYTES = 256 << 20  # of a larger log both ends are in the bundle; all of it lies in its public segments
LEFT_OUT_NAME = "left-out.txt"


class Sink(Protocol):
    """Where the bundle goes."""

    def write(self, piece: bytes, /) -> int: ...


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """What goes into a job's bundle.

    ``top``: the folder that everything lies below. ``moved``: names in the work folder that are no logs (inputs, outputs).
    ``made``: names and contents that are no files of the job, asked for when all files are in.
    """

    folder: JobFolder
    top: str
    moved: frozenset[str] = frozenset()
    made: Callable[[], Mapping[str, bytes]] = field(default=dict)


def write_bundle(plan: BundlePlan, sink: Sink, check: Callable[[], None]) -> None:
    """Write the bundle into ``sink``, secrets masked. ``check`` is called all the time and raises what shall end it.

    Raises that, what the sink raises, and OSError when a file of the job cannot be read any more.
    """
    from isal import igzip_threaded

    tap = _Tap(sink)
    try:
        with (
            igzip_threaded.open(tap, "wb", COMPRESSION, threads=1, block_size=AHEAD_BYTES) as packed,  # type: ignore[no-untyped-call]
            tarfile.TarFile(
                fileobj=_OnlyWritten(packed),  # type: ignore[arg-type]
                mode="w",
                format=tarfile.PAX_FORMAT,
                errors="surrogateescape",
                copybufsize=BLOCK_BYTES,
            ) as archive,
        ):
            _fill(archive, plan, check)
    except BaseException:
        tap.close()
        raise


def _fill(archive: tarfile.TarFile, plan: BundlePlan, check: Callable[[], None]) -> None:
    budget = Budget()
    for name, file in bundle_members(plan.folder, plan.moved, budget):
        with redactor.reading(file) as shown:
            status = os.fstat(shown.fileno())
            pieces, size_bytes = _pieces(shown, status.st_size)
            _add(archive, f"{plan.top}/{redactor.clean(name)}", pieces, size_bytes, int(status.st_mtime), check)
    made = dict(plan.made())
    if budget.passed_over:
        made[LEFT_OUT_NAME] = redactor.clean(budget.passed_over.text()).encode("utf-8", "replace")
    for name, content in made.items():
        _add(archive, f"{plan.top}/{name}", [content], len(content), 0, check)


def _add(
    archive: tarfile.TarFile,
    name: str,
    pieces: Iterable[bytes],
    size_bytes: int,
    mtime_s: int,
    check: Callable[[], None],
) -> None:
    entry = tarfile.TarInfo(_for_terminals(name))
    entry.size, entry.mtime, entry.mode = size_bytes, mtime_s, 0o644
    archive.addfile(entry, _Exactly(iter(pieces), size_bytes, check))  # type: ignore[arg-type]


def _pieces(file: BinaryIO, size_bytes: int) -> tuple[Iterator[bytes], int]:
    """What a member holds, and its size: the bytes a file has now; of a very large one both ends and a line between them."""
    if size_bytes <= FILE_MAX_BYTES:
        return _blocks(file, 0, size_bytes), size_bytes
    half_bytes = FILE_MAX_BYTES // 2
    notice = f"\n[... {size_bytes - 2 * half_bytes} bytes are left out here ...]\n".encode()

    def ends() -> Iterator[bytes]:
        yield from _blocks(file, 0, half_bytes)
        yield notice
        yield from _blocks(file, size_bytes - half_bytes, size_bytes)

    return ends(), 2 * half_bytes + len(notice)


def _blocks(file: BinaryIO, first: int, end: int) -> Iterator[bytes]:
    file.seek(first)
    while first < end and (block := file.read(min(BLOCK_BYTES, end - first))):
        first += len(block)
        yield block


def _for_terminals(name: str) -> str:
    """A payload chooses the names of its files; whoever lists the bundle shall see them and not what they command."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


class _Exactly:
    """A reader of exactly ``size_bytes`` bytes, whatever happens to the file meanwhile: filled up with zeros if it shrinks."""

    def __init__(self, pieces: Iterator[bytes], size_bytes: int, check: Callable[[], None]) -> None:
        self._pieces, self._left_bytes, self._check = pieces, size_bytes, check
        self._rest = b""

    def read(self, size: int) -> bytes:
        self._check()
        wanted_bytes = min(size, self._left_bytes)
        found = [self._rest]
        found_bytes = len(self._rest)
        while found_bytes < wanted_bytes and (piece := next(self._pieces, b"")):
            found.append(piece)
            found_bytes += len(piece)
        data = b"".join(found) if len(found) > 1 else found[0]
        self._rest = data[wanted_bytes:]
        self._left_bytes -= wanted_bytes
        return data[:wanted_bytes].ljust(wanted_bytes, b"\0")


class _OnlyWritten:
    """A file that cannot tell where it stands, for an archive that asks that once, at its beginning."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write

    def tell(self) -> int:
        return 0


class _Tap(io.RawIOBase):
    """Passes on what is written, until it is closed: a compressor that is let go writes its end all the same."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._shut = False

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        return len(piece) if self._shut else self._sink.write(piece)

    def close(self) -> None:
        self._shut = True
