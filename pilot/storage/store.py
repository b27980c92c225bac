"""The port to a store, and the errors every store speaks in.

A store moves one object between a URL and a stream; it does not retry, hash, rename or check disks: the engine
(transfer.py) does that, the same way for every store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.retry import RetryableError
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


class SizeMismatch(StoreError):
    """The object is whole, and not of the size the caller was told: another try brings the same."""


class ChecksumMismatch(StoreError, RetryableError):
    """A checksum is not the announced one. A further try may bring the right bytes; the same wrong ones twice will not."""

    def __init__(self, message: str, algorithm: ChecksumAlgorithm) -> None:
        super().__init__(message)
        self.algorithm = algorithm


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
    """An object as its store describes it. None and (): the store does not say."""

    size_bytes: int | None = None
    checksums: tuple[Checksum, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectHeaders:
    """What a store is to serve an object with. None: leave it to the store."""

    content_type: str = "application/octet-stream"
    cache_control: str | None = None
    content_encoding: str | None = None


class Sink(Protocol):
    """Where a download goes. ``expect`` is called once, before the first block, by stores that know what will come.

    ``expect`` and ``write`` raise what must end the download: Stopped, NoSpace, TooLarge, TimedOut. While inside
    ``interruptible`` a stop calls ``shut`` from another thread, which must end a read that waits for a silent peer.
    """

    def interruptible(self, shut: Callable[[], object]) -> AbstractContextManager[None]: ...

    def expect(self, announced: StoredObject) -> None: ...

    def write(self, block: bytes) -> int: ...


class Source(Protocol):
    """Where an upload comes from: ``size_bytes`` bytes, read in order; seekable to its start.

    ``read`` raises what must end the upload: Stopped, TimedOut, LocalFileError.
    """

    @property
    def size_bytes(self) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


class Store(Protocol):
    """One kind of storage. Every method makes one attempt and raises a StoreError; all are safe to call from threads.

    ``upload_checksum`` is the algorithm the store reports after an upload.
    """

    upload_checksum: ChecksumAlgorithm

    def download(self, url: str, sink: Sink) -> None: ...

    def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject: ...

    def stat(self, url: str) -> StoredObject: ...

    def close(self) -> None: ...


class Stores:
    """The stores we have, by URL scheme; each is made at its first use, so that its library is imported only then."""

    def __init__(self, factories: Mapping[str, Callable[[], Store]]) -> None:
        self._factories = dict(factories)
        self._open: dict[str, Store] = {}
        self._lock = Lock()

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
