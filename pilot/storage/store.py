"""The port to a store, and the errors every store speaks in.

A store moves the bytes of one object between a URL and a stream; it does not retry, hash, rename or check disks: the engine
(download.py, upload.py) does that, the same way for every store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, runtime_checkable

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.retry import RETRYABLE_HTTP_STATUSES, RetryableError
from pilot.runtime.stop import Stop
from pilot.storage.urls import scheme_of, shown


class StoreError(Exception):
    """A file could not be moved. The message says which URL and what was seen; it holds no secret."""


class BadUrl(StoreError):
    """The URL is malformed, or of a scheme we have no store for, or outside what may be read."""


class NotFound(StoreError):
    """The store has no such object (404), or no such bucket."""


class AccessRefused(StoreError):
    """The store refused our credentials (401) or what they may do (403); or the token endpoint refused the key."""


class MissingCredentials(AccessRefused):
    """There is no key where one was expected."""


class Untrusted(StoreError):
    """The peer's TLS certificate was refused."""


class Refused(StoreError):
    """The store refused the request for good (400, 412, ...)."""


class StoreFull(StoreError):
    """No space or quota left in the store."""


class NoSpace(StoreError):
    """Not enough space left on the local disk."""


class TooLarge(StoreError):
    """The object is larger than the caller is ready to take."""


class LocalFileError(StoreError):
    """The local side cannot be read or written (permissions, not a regular file, ...)."""


class LocalFileMissing(LocalFileError):
    """There is no such local file."""


class Unavailable(StoreError, RetryableError):
    """No usable answer this time: refused, reset, 429, 5xx."""


class TimedOut(Unavailable):
    """The store answered too slowly, or stopped in the middle."""


class Truncated(Unavailable):
    """Fewer bytes arrived than the store itself announced."""


class Changed(StoreError, RetryableError):
    """The object was replaced while it was being read: begin again."""


class TooSlow(StoreError):
    """The time a file of this size may take is over."""


class SizeMismatch(StoreError):
    """The object is whole, and not of the size the caller was told: another try brings the same."""


class ChecksumMismatch(StoreError, RetryableError):
    """A checksum is not the announced one. A further try may bring the right bytes; the same wrong ones twice will not."""

    def __init__(self, message: str, algorithm: ChecksumAlgorithm) -> None:
        super().__init__(message)
        self.algorithm = algorithm


WIDTH = 4  # streams at a time: more gain nothing on two cores


def refusal(url: str, status: int, said: str, retry_after: str | None = None) -> StoreError:
    """An HTTP status that is no success, in our words; ``said``: what the store adds."""
    text = f"{shown(url)}: the store answered {status}{f' {said}' if said else ''}"
    if status in (401, 403, 407):
        return AccessRefused(text)
    if status in (404, 410):
        return NotFound(text)
    if status == 507:
        return StoreFull(text)
    if status == 408:
        return TimedOut(text)
    if status in RETRYABLE_HTTP_STATUSES or status >= 500:
        return Unavailable(text, retry_after_s(retry_after))
    return Refused(text)


def innermost(error: BaseException) -> str:
    """What was at the bottom of a library's chain of errors, in words: ``Connection refused``, ``Connection reset by peer``."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return (words.splitlines() or [""])[0][:200]


def retry_after_s(header: str | None) -> float | None:
    """A Retry-After header in seconds; None when absent or a date (no store sends one)."""
    return float(header) if header and header.isdecimal() else None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as its store describes it. None, () and "": the store does not say. ``version`` tells it from a later one."""

    size_bytes: int | None = None
    checksums: tuple[Checksum, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class ObjectHeaders:
    """What a store is to serve an object with. None: leave it to the store."""

    content_type: str = "application/octet-stream"
    cache_control: str | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an object: from byte ``first`` up to and without byte ``end``; None: to its end."""

    first: int = 0
    end: int | None = None

    @property
    def whole(self) -> bool:
        return self.first == 0 and self.end is None

    @property
    def header(self) -> str:
        """As HTTP's Range wants it."""
        return f"bytes={self.first}-{'' if self.end is None else self.end - 1}"


class Incoming(Protocol):
    """What a store sends. ``announced`` describes the whole object; ``first``: the byte of it that comes first.

    ``readinto`` hands on what has come, at most a view's length; 0 at the end, or where the peer stopped in the middle.
    Raises StoreError, OSError of the connection.
    """

    @property
    def announced(self) -> StoredObject: ...

    @property
    def first(self) -> int: ...

    def readinto(self, view: memoryview, /) -> int: ...


class Source(Protocol):
    """Where an upload comes from: ``size_bytes`` bytes, read in order; seekable to its start.

    ``read`` raises what must end the upload: Stopped, TimedOut, LocalFileError.
    """

    @property
    def size_bytes(self) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class Parts(Protocol):
    """An upload in parts. A store shows nothing of it before ``finish``.

    ``put`` sends the part that begins at byte ``offset``; ``last``: with it the object ends. After a failure ``stored_bytes``
    says from where to go on: a store may have taken a part of a part.
    """

    def put(self, part: Source, offset: int, last: bool, stop: Stop) -> None: ...

    def stored_bytes(self, stop: Stop) -> int: ...

    def finish(self, stop: Stop) -> StoredObject: ...

    def abandon(self) -> None: ...


class Store(Protocol):
    """One kind of storage. Every method makes one attempt and raises a StoreError or Stopped; all may be called from threads.

    ``upload_checksum`` is the algorithm in which the store describes what was uploaded. ``version``: refuse another one
    (Changed).
    """

    @property
    def upload_checksum(self) -> ChecksumAlgorithm: ...

    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> AbstractContextManager[Incoming]: ...

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject: ...

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> Parts: ...

    def stat(self, url: str, stop: Stop) -> StoredObject: ...

    def close(self) -> None: ...


@runtime_checkable
class Remover(Protocol):
    """A store that can remove an object. One attempt; an object that is not there is removed. Raises StoreError, Stopped."""

    def remove(self, url: str, stop: Stop) -> None: ...


class Lanes:
    """How many streams there are at a time, so that a large file uses several only while there is nothing else to move."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._busy = 0
        self._lock = Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A stream that is needed in any case."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            self.give_back()

    def take_one_more(self) -> bool:
        """A further stream, if one is free."""
        with self._lock:
            free = self._busy < self.width
            self._busy += free
            return free

    def give_back(self) -> None:
        with self._lock:
            self._busy -= 1


class Stores:
    """The stores we have, by URL scheme; each is made at its first use, so that its library is imported only then."""

    def __init__(self, factories: Mapping[str, Callable[[], Store]]) -> None:
        self._factories = dict(factories)
        self._open: dict[str, Store] = {}
        self._lock = Lock()
        self.lanes = Lanes(WIDTH)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes there is a store for, in order of preference."""
        return tuple(self._factories)

    def for_url(self, url: str) -> Store:
        """The store that serves this URL; an absolute path counts as ``file``. Raises BadUrl."""
        scheme = scheme_of(url)
        factory = self._factories.get(scheme)
        if factory is None:
            raise BadUrl(f"there is no store for {shown(url)}; known schemes are {', '.join(self._factories)}")
        with self._lock:
            if scheme not in self._open:
                self._open[scheme] = factory()
            return self._open[scheme]

    def close(self) -> None:
        with self._lock:
            stores = tuple(self._open.values())
            self._open.clear()
        for store in stores:
            store.close()
