"""A store that does what a test says: objects in a dictionary, and a hook for each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pilot.job.model import ChecksumAlgorithm
from pilot.runtime.stop import Stop
from pilot.storage.checksum import Checksums
from pilot.storage.store import NotFound, ObjectHeaders, Source, Span, StoredObject, Stores

BLOCK_BYTES = 64 << 10


class Coming:
    """Bytes on their way: piece by piece, each through ``piece`` first."""

    def __init__(self, content: bytes, announced: StoredObject, first: int, piece: Callable[[bytes], bytes]) -> None:
        self.announced, self.first = announced, first
        self._content, self._at, self._piece = content, 0, piece

    def readinto(self, view: memoryview, /) -> int:
        piece = self._piece(self._content[self._at : self._at + min(len(view), BLOCK_BYTES)])
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


@dataclass
class Scripted:
    """``asked``: spans of the downloads in order; ``on_read`` may raise or change them; ``piece`` changes what comes."""

    objects: dict[str, bytes] = field(default_factory=dict)
    announces: Callable[[bytes], StoredObject] = lambda content: StoredObject(len(content))
    asked: list[Span] = field(default_factory=list)
    on_read: Callable[[Span], Span] = lambda span: span
    piece: Callable[[bytes], bytes] = lambda piece: piece
    on_put: Callable[[int], None] = lambda offset: None
    stored: StoredObject | None = None
    reads_bytes: int = -1
    kept: dict[str, Keeping] = field(default_factory=dict)
    upload_checksum: ChecksumAlgorithm = "crc32c"

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[Coming]:
        if url not in self.objects:
            raise NotFound(f"{url} is not there")
        self.asked.append(span)
        span = self.on_read(span)
        content = self.objects[url]
        yield Coming(content[span.first : span.end], self.announces(content), span.first, self.piece)

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
        self.on_put(0)
        source.seek(0)
        self.objects[url] = source.read(self.reads_bytes)
        return self.stored or self.described(url)

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> Keeping:
        self.kept[url] = Keeping(self, url)
        return self.kept[url]

    def stat(self, url: str, stop: Stop) -> StoredObject:
        if url not in self.objects:
            raise NotFound(f"{url} is not there")
        return self.announces(self.objects[url])

    def remove(self, url: str, stop: Stop) -> None:
        self.objects.pop(url, None)

    def described(self, url: str) -> StoredObject:
        sums = Checksums(["crc32c"])
        sums.update(self.objects[url])
        crc32c = sums.get("crc32c")
        assert crc32c is not None
        return StoredObject(len(self.objects[url]), (crc32c,))

    def close(self) -> None:
        return None

    @property
    def stores(self) -> Stores:
        """The stores of a pilot that has only this one, as ``gs``."""
        return Stores({"gs": lambda: self})


class Keeping:
    """An upload in parts; ``offsets``: where each part that was taken began; ``abandoned``: nobody wants it any more."""

    def __init__(self, store: Scripted, url: str) -> None:
        self._store, self._url = store, url
        self.content = b""
        self.offsets: list[int] = []
        self.abandoned = False

    def put(self, part: Source, offset: int, last: bool, stop: Stop) -> None:
        part.seek(0)
        arrived = part.read(part.size_bytes)
        self._store.on_put(offset)
        assert offset == len(self.content)
        self.offsets.append(offset)
        self.content += arrived

    def stored_bytes(self, stop: Stop) -> int:
        return len(self.content)

    def finish(self, stop: Stop) -> StoredObject:
        self._store.objects[self._url] = self.content
        return self._store.stored or self._store.described(self._url)

    def abandon(self) -> None:
        self.abandoned = True
