"""The metrics on a port of this machine's loopback: one caller at a time, each with two seconds, and nothing but GET /metrics.

A payload on the same network can reach it too. It finds there what stands in the job's own log, and can keep others from
asking for a while; it cannot hold up the pilot.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from pilot.runtime.stop import Deadline
from pilot.watch.exposition import CONTENT_TYPE

ADDRESS = "127.0.0.1"
CALLER_S = 2.0
MAX_HEAD_BYTES = 8 << 10
JOIN_S = CALLER_S + 1


@contextmanager
def metrics_port(port: int, text: Callable[[], str]) -> Iterator[int]:
    """While inside, ``text()`` is what GET /metrics answers; the port (a free one for 0). Raises OSError: it is taken."""
    listener = socket.create_server((ADDRESS, port), backlog=8)
    thread = Thread(target=_serve, args=(listener, text), name="metrics-port", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a caller
        thread.join(JOIN_S)
        listener.close()


def _serve(listener: socket.socket, text: Callable[[], str]) -> None:
    while True:
        try:
            caller, _address = listener.accept()
        except OSError:
            return
        with caller, suppress(OSError):
            caller.sendall(_answer(_request_line(caller), text))
            caller.shutdown(socket.SHUT_WR)


def _request_line(caller: socket.socket) -> str:
    """The first line of a request that comes whole, in time and of sane size; else nothing."""
    deadline, head = Deadline(CALLER_S), b""
    while b"\r\n\r\n" not in head:
        caller.settimeout(max(deadline.left_s(), 0.001))
        block = caller.recv(MAX_HEAD_BYTES)
        head += block
        if not block or len(head) > MAX_HEAD_BYTES or deadline.passed():
            return ""
    return head.partition(b"\r\n")[0].decode("latin-1")


def _answer(request_line: str, text: Callable[[], str]) -> bytes:
    method, target = ([*request_line.split(" "), "", ""])[:2]
    if method not in ("GET", "HEAD"):
        return _message("405 Method Not Allowed" if method else "400 Bad Request", "GET /metrics\n", method)
    if target.partition("?")[0] != "/metrics":
        return _message("404 Not Found", "the metrics are at /metrics\n", method)
    return _message("200 OK", text(), method)


def _message(status: str, text: str, method: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)
