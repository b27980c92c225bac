"""A small HTTPS server that shows the peer's certificate, keeps connections, and can misbehave on purpose.

`Listener` owns one port. It may be taken down (connections refused) and brought up again on the same port.
"""

from __future__ import annotations

import http
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from pilot.sandbox.certs import dn_of_peer
from pilot.sandbox.free_ports import LOOPBACK, held_port

LARGEST_BODY_BYTES = 256 * 1024 * 1024
IDLE_TIMEOUT_S = 120.0
JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived; header names are lower case, `dn` is None without a client certificate."""

    server: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    dn: str | None

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0  # wait before the first byte
    drip_s: float = 0.0  # pause between the bytes of the body
    reset: bool = False  # end the connection with a TCP reset instead of answering
    truncated: bool = False  # announce the whole body, send half of it, close

    @classmethod
    def text(cls, status: int, text: str, content_type: str = "text/plain") -> Answer:
        return cls(status, text.encode(), content_type)


Route = Callable[[Request], Answer]


class Listener:
    """One port on loopback serving `route`. `start` binds; `down` closes the port and every connection; `stop` ends it."""

    def __init__(self, name: str, route: Route, context: ssl.SSLContext | None, port: int = 0) -> None:
        self.name = name
        self.port = port
        self._route = route
        self._context = context
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._was_up = False
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self.port}"

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Bind and serve in a thread of its own. The first time a port that is taken is exchanged for a free one."""
        with self._lock:
            if self._server is not None:
                return
            address = (LOOPBACK, self.port) if self._was_up else held_port(self.port or None)
            server = _Server(address, self.name, self._route, self._context)
            self.port, self._was_up = server.server_address[1], True
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.05}, name=f"sandbox-{self.name}", daemon=True
            )
            thread.start()
            self._server, self._thread = server, thread

    def down(self) -> None:
        """Refuse connections and cut those that are open, until `start`."""
        with self._lock:
            server, thread = self._server, self._thread
            self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.cut_connections()
            server.server_close()


class _Server(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int] | socket.socket, name: str, route: Route, context: ssl.SSLContext | None
    ) -> None:
        self.name = name
        self.route = route
        self.context = context
        self.cut = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._open_lock = threading.Lock()
        if isinstance(address, tuple):
            super().__init__(address, _Handler)
            return
        super().__init__(address.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = address
        self.server_activate()
        # Inherited by connections: while the last of them are closing, the port can be bound again.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = self.socket.accept()
        connection.settimeout(IDLE_TIMEOUT_S)
        if self.context is not None:
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._open_lock:
            self._open.add(connection)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """One daemon thread per connection, joined by `cut_connections`."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name=f"sandbox-{self.name}-connection", daemon=True
        )
        with self._open_lock:
            self._threads.add(thread)
        thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            # Broken handshakes and cut connections are everyday here. Anything else is a fault of ours and shows itself.
            pass
        finally:
            self.shutdown_request(request)
            with self._open_lock:
                self._threads.discard(threading.current_thread())

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        request.close()

    def cut_connections(self) -> None:
        self.cut.set()
        with self._open_lock:
            for connection in self._open:
                try:
                    # Past the TLS layer: another thread may be reading through it.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                except OSError:
                    pass
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(JOIN_TIMEOUT_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Apache/2.4 (sandbox)"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Every verb is handled alike.
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:
        """The ledger is the log."""

    def _handle(self) -> None:
        body = self._read_body()
        if body is None:
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.server.name, self.command, parts.path, parts.query, headers, body, self._peer_dn())
        self._send(self.server.route(request))

    def _read_body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._read_chunks()
        announced = self.headers.get("Content-Length") or "0"
        length = int(announced) if announced.isdecimal() else -1
        if not 0 <= length <= LARGEST_BODY_BYTES:
            return None
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _read_chunks(self) -> bytes | None:
        chunks: list[bytes] = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
            if sum(map(len, chunks)) > LARGEST_BODY_BYTES:
                return None
        self.rfile.readline()
        return b"".join(chunks)

    def _peer_dn(self) -> str | None:
        peer = self.request.getpeercert() if isinstance(self.request, ssl.SSLSocket) else None
        return dn_of_peer(peer) if peer else None

    def _send(self, answer: Answer) -> None:
        if answer.delay_s:
            self.server.cut.wait(answer.delay_s)
        if answer.reset:
            self._reset()
            return
        self.send_response(answer.status, http.HTTPStatus(answer.status).phrase)
        self.send_header("Content-Type", answer.content_type)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.truncated:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
            return
        if not answer.drip_s:
            self.wfile.write(answer.body)
            return
        for i in range(len(answer.body)):
            self.wfile.write(answer.body[i : i + 1])
            self.wfile.flush()
            if self.server.cut.wait(answer.drip_s):
                break

    def _reset(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True


def server_context(certificate: str, key: str, ca: str) -> ssl.SSLContext:
    """TLS as the PanDA server's: a client certificate is optional, RFC 3820 proxies are accepted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS
    return context
