from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pilot.job.model import ApiGeneration
from pilot.panda.auth import Credentials, X509Credentials
from pilot.panda.client import PandaClient
from pilot.panda.sessions import Sessions
from pilot.ports import ServerUnreachable
from pilot.runtime.http import Timeouts
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.sandbox.certs import PILOT_DN, Authority, make_proxy, write_private

ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=5)
OK = b'{"success": true, "message": "", "data": {"StatusCode": 0, "command": "NULL"}}'


class CountingServer(ThreadingHTTPServer):
    """Answers every update with success and counts connections; waits at `gate` with each answer."""

    daemon_threads = False

    def __init__(self, authority: Path) -> None:
        self.connections: set[Any] = set()
        self.headers: list[dict[str, str]] = []
        self.gate: threading.Barrier | None = None
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority / "server.crt", authority / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer, or Nagle's algorithm makes the test slow
    timeout = 10
    server: CountingServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.connections.add(self.client_address)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.gate:
            self.server.gate.wait(5)
        self.send_response(200)
        self.send_header("Content-Length", str(len(OK)))
        self.end_headers()
        self.wfile.write(OK)

    def log_message(self, *_: object) -> None:
        """The test looks at the facts itself."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    Authority(folder).write_server(folder / "server.crt", folder / "server.key")
    return folder


@pytest.fixture
def server(authority: Path) -> Iterator[CountingServer]:
    counting = CountingServer(authority)
    thread = threading.Thread(target=counting.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield counting
    counting.shutdown()
    thread.join()
    counting.server_close()


def client_of(server: CountingServer, authority: Path, credentials: Credentials | None = None) -> PandaClient:
    address = f"https://localhost:{server.server_address[1]}"
    return PandaClient((address,), "v1", credentials or Credentials(), str(authority / "ca.pem"), Timeouts(5, 5), ONCE)


def beat(panda: PandaClient) -> None:
    panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, Stop())


def test_many_calls_use_one_connection(server: CountingServer, authority: Path) -> None:
    panda = client_of(server, authority)
    for _ in range(20):
        beat(panda)
    panda.close()
    assert len(server.connections) == 1


def test_a_connection_outlives_the_thread_that_made_it(server: CountingServer, authority: Path) -> None:
    """Each job has a heartbeat thread of its own; a session per thread would pile up."""
    panda = client_of(server, authority)
    for _ in range(5):
        thread = threading.Thread(target=beat, args=(panda,))
        thread.start()
        thread.join()
    panda.close()
    assert len(server.connections) == 1


def test_calls_at_the_same_time_have_a_connection_each(server: CountingServer, authority: Path) -> None:
    panda = client_of(server, authority)
    server.gate = threading.Barrier(2)
    threads = [threading.Thread(target=beat, args=(panda,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    panda.close()
    assert len(server.connections) == 2


def test_headers_are_exact(server: CountingServer, authority: Path) -> None:
    """A charset parameter or a list in Accept turns the answer of v1 into a Python repr (recorded)."""
    panda = client_of(server, authority)
    beat(panda)
    panda.close()
    (headers,) = server.headers
    assert headers["accept"] == "application/json"
    assert headers["content-type"] == "application/json"
    assert "content-encoding" not in headers
    assert "authorization" not in headers


def test_a_new_certificate_needs_a_new_connection(server: CountingServer, authority: Path, tmp_path: Path) -> None:
    robot = Authority(authority).client(PILOT_DN)
    path = tmp_path / "proxy.pem"
    write_private(path, make_proxy(robot).proxy_pem)
    panda = client_of(server, authority, Credentials(X509Credentials(path, path)))
    beat(panda)
    beat(panda)
    assert len(server.connections) == 1
    write_private(tmp_path / "fresh.pem", make_proxy(robot).proxy_pem)
    (tmp_path / "fresh.pem").rename(path)
    beat(panda)
    panda.close()
    assert len(server.connections) == 2


def test_a_session_given_back_after_the_end_is_closed() -> None:
    sessions = Sessions(Credentials(), None)
    with sessions.lend():
        sessions.close()
    assert not sessions._idle


def test_a_session_that_failed_is_not_kept() -> None:
    sessions = Sessions(Credentials(), None)
    with pytest.raises(ZeroDivisionError), sessions.lend():
        raise ZeroDivisionError
    assert not sessions._idle
    sessions.close()


def test_a_server_that_is_away_is_named_within_the_time_limits(authority: Path) -> None:
    panda = PandaClient(
        ("https://localhost:1",), "auto", Credentials(), str(authority / "ca.pem"), Timeouts(1, 1), ONCE
    )
    with pytest.raises(ServerUnreachable, match=r"https://localhost:1 does not answer .*refused"):
        beat(panda)
    panda.close()
