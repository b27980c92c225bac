"""The limit: the same bytes over bare sockets: ``python -m tests.bench.clients.wire ERRAND``.

Down: GET, ``recv_into`` a buffer, and drop it or write it to the file. Up: PUT, from a buffer or from the file. One stream or
several; of one large file each takes a range. No retries, no checks but the number of bytes; where the errand's target is
``sums``, adler32 and crc32c are computed and compared with nothing. Nothing that moves large files can be quicker by much.
"""

import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from tests.bench.clients.errand import Errand, File

BLOCK_BYTES = 256 << 10
Task = tuple[File, int, int]  # the bytes from one to before the other


class Line:
    """One kept-alive connection."""

    def __init__(self, endpoint: str, ca: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None and parts.port is not None
        sock = socket.create_connection((parts.hostname, parts.port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca)
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
        self.sock = sock
        self._host = parts.netloc
        self._view = memoryview(bytearray(BLOCK_BYTES))

    def get(self, path: str, first: int, end: int, write: Callable[[memoryview, int], object] | None) -> None:
        """The bytes of a range; ``write`` gets each block and where it belongs."""
        head = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nRange: bytes={first}-{end - 1}\r\n\r\n"
        self.sock.sendall(head.encode())
        filled = self._head()
        view, at = self._view, first
        while True:
            if filled and (filled == BLOCK_BYTES or at + filled == end):
                if write is not None:
                    write(view[:filled], at)
                at, filled = at + filled, 0
            if at == end:
                return
            count = self.sock.recv_into(view[filled : min(BLOCK_BYTES, end - at)])
            if not count:
                raise EOFError(path)
            filled += count

    def put(self, path: str, size_bytes: int, read: Callable[[memoryview], int] | None) -> None:
        """A body of ``size_bytes``: from ``read``, or whatever is in the buffer."""
        self.sock.sendall(f"PUT {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {size_bytes}\r\n\r\n".encode())
        while size_bytes:
            view = self._view[: min(BLOCK_BYTES, size_bytes)]
            if read is not None:
                view = view[: read(view)]
            self.sock.sendall(view)
            size_bytes -= len(view)
        self._head()

    def _head(self) -> int:
        """Read an answer's head; what came of the body lies in the buffer, and its size is returned."""
        head = b""
        while b"\r\n\r\n" not in head:
            received = self.sock.recv(65536)
            if not received:
                raise EOFError("no answer")
            head += received
        head, _empty, rest = head.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1] not in (b"200", b"206"):
            raise ValueError(head.decode("latin-1"))
        self._view[: len(rest)] = rest
        return len(rest)


def tasks(errand: Errand) -> list[Task]:
    """All files; a single one in as many ranges as there are streams."""
    if errand.down and len(errand.files) == 1 and errand.streams > 1:
        (file,) = errand.files
        step = -(-file.size_bytes // errand.streams)
        return [(file, first, min(first + step, file.size_bytes)) for first in range(0, file.size_bytes, step)]
    return [(file, 0, file.size_bytes) for file in errand.files]


def move(errand: Errand, waiting: list[Task]) -> None:
    line = Line(errand.endpoint, errand.ca)
    hashed = _hash() if errand.target == "sums" else lambda _view: None
    while True:
        try:
            file, first, end = waiting.pop(0)  # of one thread at a time: the interpreter sees to it
        except IndexError:
            return
        path = f"/{errand.bucket}/{file.key}"
        flags = os.O_WRONLY | os.O_CREAT if errand.down else os.O_RDONLY
        if errand.target == "nothing":
            if errand.down:
                line.get(path, first, end, None)
            else:
                line.put(path, file.size_bytes, None)
            continue
        descriptor = os.open(errand.path(file), flags, 0o644)
        try:
            if errand.down:
                line.get(path, first, end, partial(_write, descriptor, hashed))
            else:
                line.put(path, file.size_bytes, partial(_read, descriptor, hashed))
        finally:
            os.close(descriptor)


def _write(descriptor: int, hashed: Callable[[memoryview], None], view: memoryview, at: int) -> None:
    hashed(view)
    os.pwrite(descriptor, view, at)


def _read(descriptor: int, hashed: Callable[[memoryview], None], view: memoryview) -> int:
    count = os.readv(descriptor, [view])
    hashed(view[:count])
    return count


def _hash() -> Callable[[memoryview], None]:
    """Both checksums of whatever comes: what they are is not looked at."""
    import google_crc32c
    from isal import isal_zlib

    def hashed(view: memoryview) -> None:
        isal_zlib.adler32(view)
        google_crc32c.extend(0, bytes(view))

    return hashed


def main() -> None:
    errand = Errand(sys.argv[1])
    waiting = tasks(errand)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            move(errand, waiting)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(errand.streams, len(waiting)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main()
