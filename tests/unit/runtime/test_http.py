"""The session factory against a loopback TLS server, with an environment full of traps."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pilot.runtime.http import (
    NotConnected,
    OversizedAnswer,
    Session,
    Timeouts,
    TlsError,
    TransportError,
    call,
)
from pilot.runtime.tls import client_context, system_ca


class Handler(BaseHTTPRequestHandler):
    """Answers by path; keeps what it was asked in ``seen``."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def log_message(self, *_words: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/early":
            self._say(413, b"too much", Connection="close")
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer: Callable[[], None] = getattr(self, "_" + self.path.strip("/").partition("?")[0])
        answer()

    do_POST = do_GET

    def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hello(self) -> None:
        self._say(200, "grüß dich".encode(), X_Word="Yes")

    def _missing(self) -> None:
        self._say(404, b"nothing here")

    def _busy(self) -> None:
        self._say(503, b"", Retry_After="1")

    def _elsewhere(self) -> None:
        self._say(302, b"", Location="https://elsewhere.example/hello")

    def _plainly(self) -> None:
        self._say(302, b"", Location=f"http://{self.headers['host']}/hello")

    def _round(self) -> None:
        self._say(307, b"", Location="/round")

    def _here(self) -> None:
        self._say(307, b"", Location="/hello")

    def _nowhere(self) -> None:
        self._say(302, b"", Location="https://[bad/")

    def _large(self) -> None:
        self._say(200, b"x" * 300_000)

    def _bomb(self) -> None:
        self._say(200, gzip.compress(b"\0" * 5_000_000), Content_Encoding="gzip")

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            self.close_connection = True

    def _cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True

    def _trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b"x")
                self.wfile.flush()
                self.server.tired.wait(0.02)  # type: ignore[attr-defined]
        except OSError:
            self.close_connection = True

    def _leaving(self) -> None:
        self._say(200, b"bye")  # as a server that keeps connections, which then closes this one all the same
        self.close_connection = True

    def _silent(self) -> None:
        self.server.tired.wait(20)  # type: ignore[attr-defined]
        self.close_connection = True


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Host:
    """A server, its address, the CA that signed it, and what it saw."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        self.other_ca = str(folder / "other.pem")
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        handler = type("Bound", (Handler,), {"seen": self.seen})
        self.server = QuietServer(("127.0.0.1", 0), handler)
        self.server.tired = threading.Event()  # type: ignore[attr-defined]
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), name="host")
        self.thread.start()

    def close(self) -> None:
        self.server.tired.set()  # type: ignore[attr-defined]
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture
def get(host: Host) -> Iterator[Callable[..., Any]]:
    with Session(host.ca) as session:
        yield lambda path, **options: call(session, "GET", f"{host.url}/{path}", **options)


def test_an_answer_is_read_whole(get: Callable[..., Any]) -> None:
    answer = get("hello")
    assert (answer.status, answer.text(), answer.headers["x-word"]) == (200, "grüß dich", "Yes")
    assert not answer.retryable


def test_any_status_is_an_answer(get: Callable[..., Any]) -> None:
    assert (get("missing").status, get("missing").retryable) == (404, False)
    assert (get("busy").status, get("busy").retryable) == (503, True)


def test_the_body_and_the_headers_go_out_as_given(host: Host) -> None:
    with Session(host.ca) as session:
        call(session, "POST", f"{host.url}/hello?a=1", headers={"Origin": "vo"}, body=b"\0\xff")
    method, path, headers, body = host.seen[-1]
    assert (method, path, headers["origin"], body) == ("POST", "/hello?a=1", "vo", b"\0\xff")
    assert headers["user-agent"].startswith("rubin-pilot/")


def test_a_redirect_is_an_answer_unless_it_is_allowed(get: Callable[..., Any]) -> None:
    assert get("here").status == 307
    assert get("here", allow_redirects=True).status == 200


@pytest.mark.parametrize("path", ["elsewhere", "plainly"])
def test_a_redirect_to_another_host_or_to_plain_http_is_refused(get: Callable[..., Any], path: str) -> None:
    with pytest.raises(TransportError, match="redirects to another host"):
        get(path, allow_redirects=True)


def test_redirects_have_an_end(get: Callable[..., Any]) -> None:
    with pytest.raises(TransportError, match="too many redirects"):
        get("round", allow_redirects=True)


def test_a_redirect_to_no_url_is_an_error_of_transport(get: Callable[..., Any]) -> None:
    with pytest.raises(TransportError, match=r"Invalid IPv6 URL|no URL"):
        get("nowhere", allow_redirects=True)


@pytest.mark.parametrize("total_s", [None, 30])
@pytest.mark.parametrize("path", ["large", "endless"])
def test_an_oversized_answer_is_not_read_to_its_end(get: Callable[..., Any], path: str, total_s: float | None) -> None:
    with pytest.raises(OversizedAnswer, match="more than 100000 bytes"):
        get(path, max_bytes=100_000, total_s=total_s)


def test_a_packed_answer_that_nobody_asked_for_is_not_unpacked(get: Callable[..., Any], host: Host) -> None:
    assert len(get("bomb").body) < 100_000
    assert host.seen[-1][2]["accept-encoding"] == "identity"


@pytest.mark.parametrize("total_s", [None, 30])
@pytest.mark.parametrize("path", ["cut", "reset"])
def test_an_answer_cut_short_is_none(get: Callable[..., Any], path: str, total_s: float | None) -> None:
    with pytest.raises(TransportError, match="no answer from localhost"):
        get(path, total_s=total_s)


def test_a_silent_server_is_given_up(get: Callable[..., Any]) -> None:
    with pytest.raises(TransportError, match="timed out"):
        get("silent", timeouts=Timeouts(read_s=0.1))


def test_an_answer_that_trickles_in_is_ended_by_the_total_time(get: Callable[..., Any]) -> None:
    with pytest.raises(TransportError, match="did not finish its answer in time"):
        get("trickle", timeouts=Timeouts(read_s=5), total_s=0.2)


def test_nobody_listening_is_an_error_of_transport(host: Host) -> None:
    with Session(host.ca) as session, pytest.raises(NotConnected, match="refused"):
        call(session, "GET", "https://localhost:1/")


def test_a_server_of_an_unknown_ca_is_refused(host: Host) -> None:
    with Session(host.other_ca) as session, pytest.raises(TlsError, match=r"localhost.*failed TLS verification"):
        call(session, "GET", f"{host.url}/hello")
    with Session() as session, pytest.raises(TlsError):
        call(session, "GET", f"{host.url}/hello")


def test_a_server_of_another_name_is_refused(host: Host) -> None:
    with Session(host.ca) as session, pytest.raises(TlsError):
        call(session, "GET", f"{host.url.replace('localhost', '127.0.0.1')}/hello")


def test_the_environment_is_not_asked(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine localhost login thief password stolen\n")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, host.other_ca)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Session(host.ca) as session:
        assert call(session, "GET", f"{host.url}/hello").status == 200
    assert "authorization" not in host.seen[-1][2]


def test_a_ca_in_the_environment_opens_no_door(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, host.ca)
    with Session(system_ca()) as session, pytest.raises(TlsError):
        call(session, "GET", f"{host.url}/hello")


@pytest.mark.parametrize("url", ["https://[bad", "nonsense", "https://a..b/", "ftp://localhost/"])
def test_a_url_that_is_none_is_an_error_of_transport(url: str, host: Host) -> None:
    with Session(host.ca) as session, pytest.raises(TransportError):
        call(session, "GET", url)


# --- connections ------------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_calls(host: Host) -> None:
    with Session(host.ca) as session:
        for _ in range(5):
            assert call(session, "GET", f"{host.url}/hello").status == 200
        (line,) = session._lines.values()
        assert line.sock is not None


def test_a_kept_connection_that_the_peer_has_closed_is_replaced_before_anything_is_sent(host: Host) -> None:
    with Session(host.ca) as session:
        for _ in range(3):
            assert call(session, "POST", f"{host.url}/leaving", body=b"x").status == 200
    assert [path for _method, path, *_rest in host.seen[-3:]] == ["/leaving"] * 3


def test_an_answer_that_comes_before_the_body_is_sent_counts(host: Host) -> None:
    with Session(host.ca) as session:
        answer = call(session, "POST", f"{host.url}/early", body=b"x" * (32 << 20))
        assert (answer.status, answer.body) == (413, b"too much")
        assert call(session, "GET", f"{host.url}/hello").status == 200


def test_a_body_goes_out_piece_by_piece_with_its_length(host: Host) -> None:
    class Pieces:
        def __len__(self) -> int:
            return 6

        def __iter__(self) -> Iterator[bytes]:
            yield b"abc"
            yield b"def"

    with Session(host.ca) as session:
        call(session, "POST", f"{host.url}/hello", body=Pieces())
    _method, _path, headers, body = host.seen[-1]
    assert body == b"abcdef" and headers["content-length"] == "6" and "transfer-encoding" not in headers


# --- what is trusted --------------------------------------------------------------------------------------------------


def test_a_context_is_kept_until_its_ca_changes(host: Host, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(host.ca).read_bytes())
    first = client_context(str(ca))
    assert client_context(str(ca)) is first
    ca.write_bytes(Path(host.other_ca).read_bytes())
    assert client_context(str(ca)) is not first
    assert first.verify_mode is ssl.CERT_REQUIRED and first.check_hostname


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(host: Host, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(b"sesame")
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    certificate = trustme.CA().issue_cert("robot")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with pytest.raises(ssl.SSLError):
        client_context(host.ca, (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")))
