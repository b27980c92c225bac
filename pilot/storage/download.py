"""The engine's downloads: one stream for a file, several for a large one, each taken up again where it was cut."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.metrics import TRANSFERRED, counts
from pilot.runtime.probe import Point, probe
from pilot.runtime.progress import board
from pilot.runtime.retry import TRANSFER, RetryPolicy
from pilot.runtime.stop import Deadline, Stop
from pilot.storage.checksum import COMBINABLE, Checksums
from pilot.storage.parallel import in_parallel
from pilot.storage.store import Changed, Incoming, SizeMismatch, Span, Store, StoredObject, Stores, TooLarge, Truncated
from pilot.storage.transfer import (
    SLOWEST,
    Pace,
    Slowest,
    compare,
    counted,
    file_deadline,
    go_on_until_done,
    local_error,
    repeat_until_right,
    require_free_disk,
)
from pilot.storage.urls import scheme_of, shown

VIEW_BYTES = 256 << 10  # hashed and written at a time: TLS records of 16 KiB one by one would cost three times the CPU
DROP_BYTES = 4096  # a stream that comes in drops is watched at each of them
LARGE_BYTES = 64 << 20  # from here on a file comes in several streams
SPAN_BYTES = 32 << 20


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
    wanted = _Wanted(shown(url), checksum, size_bytes, max_bytes)
    with stores.lanes.taken(), counted("in", policy):

        def attempt() -> FetchedFile:
            return _File(stores, store, url, target, wanted, policy, slowest, stop).fetch()

        fetched = repeat_until_right(attempt, policy, stop)
    counts.add(TRANSFERRED, "in", scheme_of(url), amount=fetched.size_bytes)
    return fetched


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a download must be; ``url`` is for messages."""

    url: str
    checksum: Checksum | None
    size_bytes: int | None
    max_bytes: int | None

    def check_size(self, size_bytes: int) -> None:
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            raise TooLarge(f"{self.url} has more than the {self.max_bytes} bytes allowed")
        if self.size_bytes is not None and size_bytes > self.size_bytes:
            raise SizeMismatch(f"{self.url} has more than the expected {self.size_bytes} bytes")

    def check_whole(self, size_bytes: int) -> None:
        if self.size_bytes is not None and size_bytes != self.size_bytes:
            raise SizeMismatch(f"{self.url} has {size_bytes} bytes, {self.size_bytes} were expected")

    def divisible(self, store: Store) -> bool:
        """A large file whose checksum can be put together from those of its parts."""
        algorithm = self.checksum.algorithm if self.checksum else store.upload_checksum
        return self.size_bytes is not None and self.size_bytes >= LARGE_BYTES and algorithm in COMBINABLE


@dataclass
class _File:
    """One try to fetch one file."""

    stores: Stores
    store: Store
    url: str
    target: Path
    wanted: _Wanted
    policy: RetryPolicy
    slowest: Slowest
    stop: Stop
    announced: StoredObject | None = None
    deadline: Deadline = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = file_deadline(self.policy, self.wanted.size_bytes or 0)

    def fetch(self) -> FetchedFile:
        with _PartFile(self.target) as part:
            streams = [_Stream(self, part, span) for span in self._spans()]
            with board.moving(self.target.name, "in", lambda: self._moved(streams)):
                self._pull(streams)
            whole = streams[0]
            for stream in streams[1:]:
                whole.sums.append(stream.sums, stream.at - stream.span.first)
            size_bytes = streams[-1].at
            self._verify(size_bytes, whole.sums)
            probe(Point.DOWNLOAD_VERIFIED)
            part.publish()
        return FetchedFile(self.target, size_bytes, whole.sums.adler32)

    def _moved(self, streams: list[_Stream]) -> tuple[int, int | None]:
        announced_bytes = self.announced.size_bytes if self.announced else None
        moved_bytes = sum(stream.at - stream.span.first for stream in streams)
        return moved_bytes, self.wanted.size_bytes if announced_bytes is None else announced_bytes

    def _spans(self) -> list[Span]:
        if not self.wanted.divisible(self.store) or self.wanted.size_bytes is None:
            return [Span()]
        firsts = range(0, self.wanted.size_bytes, SPAN_BYTES)
        return [Span(first, min(first + SPAN_BYTES, self.wanted.size_bytes)) for first in firsts]

    def _pull(self, streams: list[_Stream]) -> None:
        """All of it: in this thread, or in as many more as there are lanes free."""
        lanes, more = self.stores.lanes, 0
        while more < len(streams) - 1 and lanes.take_one_more():
            more += 1
        try:
            if more == 0:
                for stream in streams:
                    stream.pull(self.stop)
            else:
                in_parallel([stream.pull for stream in streams], self.stop, 1 + more)
        finally:
            for _lane in range(more):
                lanes.give_back()

    def meet(self, announced: StoredObject) -> None:
        """The store's description of the object has come; what it says must fit, and stay the same from stream to stream."""
        if self.announced is not None:
            if announced.version != self.announced.version:
                raise Changed(f"{self.wanted.url} was replaced while it was being read")
            return
        self.announced = announced
        if announced.size_bytes is not None:
            self.wanted.check_size(announced.size_bytes)
            self.wanted.check_whole(announced.size_bytes)
            require_free_disk(self.target.parent, announced.size_bytes)
            self.deadline = file_deadline(self.policy, announced.size_bytes)

    def algorithms(self) -> tuple[ChecksumAlgorithm, ...]:
        """adler32 and crc32c always (they cost little); md5 when the job gives it, or when the store offers nothing else."""
        algorithms: list[ChecksumAlgorithm] = ["adler32", "crc32c"]
        announced = self.announced.checksums if self.announced else ()
        if self.wanted.checksum is not None:
            algorithms.append(self.wanted.checksum.algorithm)
        elif announced and not any(checksum.algorithm in algorithms for checksum in announced):
            algorithms.append(announced[0].algorithm)
        return tuple(dict.fromkeys(algorithms))

    def _verify(self, size_bytes: int, sums: Checksums) -> None:
        announced = self.announced or StoredObject()
        if announced.size_bytes is not None and announced.size_bytes != size_bytes:
            raise Truncated(f"{self.wanted.url}: {size_bytes} of {announced.size_bytes} bytes came")
        self.wanted.check_whole(size_bytes)
        expected = (self.wanted.checksum,) if self.wanted.checksum else ()
        compare(self.wanted.url, sums, (*expected, *announced.checksums))


class _Stream:
    """A part of a file on its way. ``at``: the next byte that is missing; ``sums``: of those that are there."""

    def __init__(self, file: _File, part: _PartFile, span: Span) -> None:
        self._file, self._part = file, part
        self.span, self.at = span, span.first
        self.sums = Checksums(())

    def pull(self, stop: Stop) -> None:
        """Until its end is there. Raises StoreError, Stopped."""
        go_on_until_done(lambda: self._once(stop), lambda: self.at, self._file.policy, stop)

    def _once(self, stop: Stop) -> None:
        file = self._file
        version = file.announced.version if file.announced else ""
        with file.store.read(file.url, Span(self.at, self.span.end), stop, version) as incoming:
            file.meet(incoming.announced)
            if incoming.first != self.at:
                self._begin_anew(incoming)
            if self.at == self.span.first:
                self.sums = Checksums(file.algorithms())
            self._read(incoming, stop)

    def _begin_anew(self, incoming: Incoming) -> None:
        """A store that knows no parts sends the whole; what is not the file's beginning cannot be had from it."""
        if incoming.first != 0 or self.span.first != 0:
            raise Changed(f"{self._file.wanted.url}: the store sends another part than was asked for")
        self.at = 0

    def _read(self, incoming: Incoming, stop: Stop) -> None:
        pace = Pace(self._file.wanted.url, self._file.slowest, self._file.deadline)
        view, filled, untold = memoryview(bytearray(VIEW_BYTES)), 0, 0
        while True:
            room = VIEW_BYTES if self.span.end is None else min(VIEW_BYTES, self.span.end - self.at)
            count = incoming.readinto(view[filled:room]) if filled < room else 0
            filled, untold = filled + count, untold + count
            if count < DROP_BYTES or untold >= VIEW_BYTES:
                pace.moved(untold)
                untold = 0
            if filled == VIEW_BYTES or count == 0:
                stop.check()
                self._take(view[:filled])
                filled = 0
            if count == 0:
                break
        end = self.span.end if self.span.end is not None else (incoming.announced.size_bytes or self.at)
        if self.at < end:
            raise Truncated(f"{self._file.wanted.url}: {self.at} of {end} bytes came")

    def _take(self, view: memoryview) -> None:
        """Hash and write what has come."""
        if not view:
            return
        self._file.wanted.check_size(self.at + len(view))
        self.sums.update(bytes(view))
        self._part.write(view, self.at)
        probe(Point.DOWNLOAD_BEGUN if self.at == 0 else Point.DOWNLOAD_MIDWAY)
        self.at += len(view)


class _PartFile:
    """A file without its final name, until ``publish``. May be written from several threads."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._name = f".{secrets.token_hex(8)}.part"
        self._folder = self._file = -1

    def __enter__(self) -> _PartFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._file = os.open(self._name, flags, 0o644, dir_fd=self._folder)
        except OSError as error:
            self._close()
            raise local_error(self._target, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._name:
            try:
                os.unlink(self._name, dir_fd=self._folder)
            except OSError:
                pass  # gone already, or on a broken disk
        self._close()

    def _close(self) -> None:
        for descriptor in (self._file, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._folder = -1

    def write(self, view: memoryview, offset: int) -> None:
        """Raises NoSpace, LocalFileError."""
        try:
            while view:
                count = os.pwrite(self._file, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise local_error(self._target, error) from error

    def publish(self) -> None:
        """Give it its name, in one step."""
        try:
            os.rename(self._name, self._target.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise local_error(self._target, error) from error
        self._name = ""
