"""A small TLS or plain HTTP server on loopback that records requests and answers as a test says."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Recorded:
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Reply:
    """``cut``: send only so many bytes of the body, then close; ``reset``: close with a TCP reset; ``stall``: wait for it
    before the rest is sent; ``trickle``: a byte now and then, for as long as somebody listens; ``silent``: close at once."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    stall: threading.Event | None = None
    trickle: bool = False
    silent: bool = False


READ_NOTHING_OF = (
    "unread"  # a request to this path is answered 403 as soon as its head is there, and the connection closed
)

Answer = Callable[[Recorded], Reply]


class Loopback:
    """``url`` of the server and ``requests`` it has seen."""

    def __init__(self, url: str, requests: list[Recorded]) -> None:
        self.url = url
        self.requests = requests

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@contextmanager
def serving(answer: Answer, certificate: tuple[Path, Path] | None = None) -> Iterator[Loopback]:
    """Serve until the block ends; ``certificate``: PEM files of chain and key, for https."""
    seen: list[Recorded] = []
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.request)
            super().setup()

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):  # the client, or the end of the test, closed the connection
                self.close_connection = True

        def answer(self) -> None:
            if "100-continue" in self.headers.get("expect", ""):
                self.send_response_only(100)
                self.end_headers()
            size = 0 if READ_NOTHING_OF in self.path else int(self.headers.get("content-length", 0))
            headers = {name.lower(): text for name, text in self.headers.items()}
            recorded = Recorded(self.command, self.path, headers, self.rfile.read(size))
            seen.append(recorded)
            if READ_NOTHING_OF in self.path:
                self.close_connection = True
                self._send(Reply(403, b"not here", {"Connection": "close"}))
                return
            self._send(answer(recorded))

        def _send(self, reply: Reply) -> None:
            if reply.silent:
                self.close_connection = True
                return
            self.send_response(reply.status)
            if "content-length" not in {name.lower() for name in reply.headers}:
                self.send_header("Content-Length", str(len(reply.body)))
            for name, text in reply.headers.items():
                self.send_header(name, text)
            self.end_headers()
            body = reply.body if self.command != "HEAD" else b""
            if reply.trickle:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.01)
            cut = len(body) if reply.cut is None else reply.cut
            self.wfile.write(body[:cut])
            self.wfile.flush()
            if reply.stall is not None:
                reply.stall.wait(20)
                self.wfile.write(body[cut:])
            elif reply.cut is not None or reply.reset:
                self.close_connection = True
                if reply.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # server_close joins them
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="loopback", daemon=True)
    thread.start()
    try:
        yield Loopback(f"{scheme}://localhost:{server.server_address[1]}", seen)
    finally:
        server.shutdown()
        for connection in connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()
        thread.join(5)
