"""The heads of answers as a peer may write them: bytes on a real connection, read by the wire."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pilot.runtime.stop import Stop
from pilot.storage.store import BadUrl, Unavailable
from pilot.storage.wire import MAX_HEAD_LINES, Request, Wire


@contextmanager
def answering(answer: bytes, *, until_hung_up: bool = False) -> Iterator[str]:
    """The URL of a server that says ``answer`` to its first connection's first request, and closes.

    ``until_hung_up``: only when the client has closed its side too, for which it has ten seconds.
    """
    hung_up: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                if until_hung_up:
                    hung_up.append(connection.recv(65536) == b"")

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        finally:
            server.join()
    assert not until_hung_up or hung_up == [True]


def asked(answer: bytes, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Status, headers and text of what the wire makes of ``answer``."""
    wire = Wire()
    try:
        with answering(answer) as url, wire.exchange(Request(method, url), Stop()) as response:
            return response.status, dict(response.headers), response.text()
    finally:
        wire.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", "abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:3\n\nabc", "abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "abc"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", "abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\nabc", ""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", ""),
        # of two ways to say where a body ends the chunks count, as the RFC has it
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "a"),
    ],
)
def test_a_body_ends_where_its_head_says(answer: bytes, text: str) -> None:
    assert asked(answer)[2] == text


def test_the_answer_to_a_head_has_no_body_whatever_its_length() -> None:
    assert asked(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD")[2] == ""


def test_names_are_in_lower_case_and_repeated_ones_are_joined() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX-Goog-Hash: crc32c=AAAAAA==\r\nx-goog-hash:\tmd5=x \r\nContent-Length: 0\r\n\r\n"
    assert asked(answer)[1]["x-goog-hash"] == "crc32c=AAAAAA==, md5=x"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 3, 4\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: -3\r\n",
        b"Content-Length: \r\n",
        "Content-Length: ३\r\n".encode(),
        b"Content-Length : 3\r\n",
        b"Content-Length: 3\r\n folded\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"no field at all\r\n",
        b": of no name\r\n",
        b"X-Long: " + b"x" * 70_000 + b"\r\n",
        b"X-Many: x\r\n" * (MAX_HEAD_LINES + 1),
    ],
)
def test_a_head_that_two_readers_could_read_differently_is_refused(head: bytes) -> None:
    with pytest.raises(Unavailable):
        asked(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nabcd")


@pytest.mark.parametrize("start", [b"HTTP/2 200 OK\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b""])
def test_what_is_no_http_is_refused(start: bytes) -> None:
    with pytest.raises(Unavailable):
        asked(start)


@pytest.mark.parametrize(
    "url", ["http:///a", "ftp://host/a", "http://host:port/a", "http://host?a/b", "host/a", "http://[/a"]
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(BadUrl), Wire().exchange(Request("GET", url), Stop()):
        raise AssertionError("asked")


def test_a_connection_that_is_of_no_more_use_is_closed_at_once() -> None:
    wire = Wire()
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
    with answering(answer, until_hung_up=True) as url:  # noqa: SIM117 - the client leaves first
        with wire.exchange(Request("GET", url), Stop()) as response:
            assert response.text() == "abc"
    assert response.status == 200
