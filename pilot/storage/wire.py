"""HTTP/1.1 to the object stores: kept-alive connections, verified TLS, the bytes read straight into the caller's memory.

Built on the standard library's client: on the stock clients a small object costs 2 to 7 ms of CPU, on this 0.4 (ADR 12,
``make bench``). It knows no store: what to ask and what an answer means is theirs.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from urllib.parse import urlsplit

from pilot.runtime.clock import monotonic_s
from pilot.runtime.http import USER_AGENT, Timeouts
from pilot.runtime.stop import Stop, StopReason
from pilot.runtime.tls import client_context, system_ca
from pilot.storage.store import BadUrl, Source, StoreError, TimedOut, Unavailable, Untrusted, innermost
from pilot.storage.urls import shown

MAX_IDLE_S = 15.0  # stores keep idle connections for minutes; a younger one that was closed is found out and replaced
MAX_IDLE_CONNECTIONS = 8
MAX_TEXT_BYTES = 1 << 20  # of an answer that is no object
BLOCK_BYTES = 256 << 10  # of a body: each has the socket's time-out to itself
WITH_HEAD_BYTES = 64 << 10  # a body up to here travels with the head
IPTOS_THROUGHPUT = 0x08  # bulk traffic: where a queue builds up, the heartbeat's packets go first
LAST_WORDS_S = 2.0  # for the answer of a peer that stopped reading in the middle of a body

# What a peer that has closed a kept connection answers to the next request: nothing.
_GONE = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
    ssl.SSLEOFError,  # the same, below TLS
)
_Place = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True)
class Request:
    """``url``: absolute and percent-encoded, http or https. Headers that belong to the connection are added here."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: ``source`` from where it stands now, between two texts."""

    source: Source | None = None
    before: bytes = b""
    after: bytes = b""

    @property
    def size_bytes(self) -> int:
        return len(self.before) + (self.source.size_bytes if self.source else 0) + len(self.after)

    def blocks(self) -> Iterator[bytes]:
        """From the beginning each time it is asked for."""
        if self.before:
            yield self.before
        if self.source is not None:
            self.source.seek(0)
            while block := self.source.read(BLOCK_BYTES):
                yield block
        if self.after:
            yield self.after


class Response:
    """An answer whose head is read. ``headers``: names in lower case. ``came_early``: before the request was sent whole."""

    def __init__(self, answer: http.client.HTTPResponse, sock: socket.socket, came_early: bool) -> None:
        self._answer, self.sock = answer, sock
        self._receive: Callable[[memoryview], int] = answer.fp.readinto1
        self._came_early = came_early
        self.status = answer.status
        self.headers = {name.lower(): text for name, text in answer.getheaders()}
        self._left_bytes = answer.length  # None: chunked, or until the peer closes

    def readinto(self, view: memoryview, /) -> int:
        """Bytes as they come, at most ``len(view)``; 0 at the end. Raises OSError and http.client.HTTPException."""
        left_bytes = self._left_bytes
        if left_bytes is None:
            block = self._answer.read1(len(view))
            view[: len(block)] = block
            return len(block)
        if left_bytes < len(view):
            view = view[:left_bytes]
        count = self._receive(view) if left_bytes else 0
        # The answer's reader may hold bytes that came with the head. From then on it would only be in the way: a TLS record
        # has 16 KiB, and each Python frame between it and the caller costs a tenth of a second per GB.
        self._receive = self.sock.recv_into
        self._left_bytes = left_bytes - count
        return count

    def text(self) -> str:
        """An answer that is no object, as far as a bound."""
        buffer, filled = bytearray(MAX_TEXT_BYTES), 0
        while filled < MAX_TEXT_BYTES and (count := self.readinto(memoryview(buffer)[filled:])):
            filled += count
        return buffer[:filled].decode("utf-8", "replace")

    def leaves_line_usable(self) -> bool:
        """True when everything was read and the peer does not close; a small rest is read for it."""
        if self._came_early or self._answer.will_close:
            return False
        if self._left_bytes is None:
            return self._answer.isclosed()
        if self._left_bytes > BLOCK_BYTES:
            return False
        rest = memoryview(bytearray(self._left_bytes))
        while self._left_bytes and self.readinto(rest):
            continue
        self._answer.close()  # of the answer's own reader: the connection stays
        return self._left_bytes == 0


@dataclass(frozen=True, slots=True)
class _Kept:
    line: http.client.HTTPConnection
    used_at_s: float


class Wire:
    """Connections to whatever hosts are asked. Safe to use from threads; each exchange has a connection to itself."""

    def __init__(self, ca_path: str | None = None, timeouts: Timeouts | None = None) -> None:
        self._ca_path = ca_path
        self._timeouts = timeouts or Timeouts()
        self._idle: dict[_Place, deque[_Kept]] = {}
        self._lock = Lock()

    @contextmanager
    def exchange(self, request: Request, stop: Stop, body: Body | None = None) -> Iterator[Response]:
        """One request and its answer, whatever its status; a stop shuts the connection, also while nothing moves.

        Raises Unavailable, TimedOut, Untrusted, BadUrl; what ``body`` raises; Stopped. Redirects are answers like others.
        """
        place, target = _parted(request.url)
        with _words(request.url, stop):
            line, response = self._asked(place, target, request, body, stop)
            try:
                with _cut_by(stop, response.sock):
                    yield response
                    usable = response.leaves_line_usable()
            except BaseException:
                line.close()
                raise
        if usable and not stop.is_set():
            self._keep(place, line)
        else:
            line.close()

    def close(self) -> None:
        with self._lock:
            kept = [kept for idle in self._idle.values() for kept in idle]
            self._idle.clear()
        for one in kept:
            one.line.close()

    def _asked(
        self, place: _Place, target: str, request: Request, body: Body | None, stop: Stop
    ) -> tuple[http.client.HTTPConnection, Response]:
        """A connection on which the head of the answer has come. A kept one that its peer has closed is replaced, once."""
        kept = self._taken(place)
        if kept is not None:
            try:
                return kept, _ask(kept, target, request, body, stop)
            except _GONE:
                stop.check()
        line = self._connected(place)
        return line, _ask(line, target, request, body, stop)

    def _connected(self, place: _Place) -> http.client.HTTPConnection:
        scheme, host, port = place
        line = http.client.HTTPConnection(host, port, timeout=self._timeouts.connect_s)
        if scheme == "https":
            context = _trusting(self._ca_path)
            line = http.client.HTTPSConnection(host, port, timeout=self._timeouts.connect_s, context=context)
        try:
            line.connect()
            line.sock.settimeout(self._timeouts.read_s)
            if line.sock.family == socket.AF_INET:
                line.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, IPTOS_THROUGHPUT)
        except BaseException:
            line.close()
            raise
        return line

    def _taken(self, place: _Place) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(place)
            while idle:
                kept = idle.pop()
                if monotonic_s() - kept.used_at_s <= MAX_IDLE_S:
                    return kept.line
                kept.line.close()
        return None

    def _keep(self, place: _Place, line: http.client.HTTPConnection) -> None:
        with self._lock:
            idle = self._idle.setdefault(place, deque())
            idle.append(_Kept(line, monotonic_s()))
            surplus = idle.popleft() if len(idle) > MAX_IDLE_CONNECTIONS else None
        if surplus is not None:
            surplus.line.close()


def _ask(line: http.client.HTTPConnection, target: str, request: Request, body: Body | None, stop: Stop) -> Response:
    """Send the request and wait for the head of its answer."""
    sock = line.sock  # the client forgets it with the head of an answer that ends with the connection
    with _cut_by(stop, sock):
        try:
            line.putrequest(request.method, target, skip_accept_encoding=True)
            line.putheader("User-Agent", USER_AGENT)
            for name, text in request.headers.items():
                line.putheader(name, text)
            if body is not None:
                line.putheader("Content-Length", str(body.size_bytes))
            sent = True
            if body is None or body.size_bytes <= WITH_HEAD_BYTES:
                line.endheaders(b"".join(body.blocks()) if body is not None else None)
            else:
                line.endheaders()
                sent = _send(line, body)
            return Response(_answer(line, request, body, sent), sock, came_early=not sent)
        except BaseException:
            line.close()
            raise


def _answer(
    line: http.client.HTTPConnection, request: Request, body: Body | None, sent: bool
) -> http.client.HTTPResponse:
    """The head of the answer. Who has taken a large body was there: silence after it is no old connection's end."""
    try:
        return line.getresponse()
    except _GONE as error:
        if sent and body is not None and body.size_bytes > WITH_HEAD_BYTES:
            raise Unavailable(f"{shown(request.url)}: no answer came: {innermost(error)}") from error
        raise


def _send(line: http.client.HTTPConnection, body: Body) -> bool:
    """The body block by block. False when the peer stopped reading: it may have answered, and that answer counts."""
    for block in body.blocks():
        try:
            line.sock.sendall(block)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            line.sock.settimeout(LAST_WORDS_S)
            return False
    return True


@contextmanager
def _cut_by(stop: Stop, sock: socket.socket) -> Iterator[None]:
    """While inside, a stop ends every wait on the connection."""

    def cut(_reason: StopReason) -> None:
        with suppress(OSError):  # of the socket below TLS, whose own state is not this thread's to touch
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    stop.follow(cut)
    try:
        yield
    finally:
        stop.unfollow(cut)


def _parted(url: str) -> tuple[_Place, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadUrl(f"{shown(url)} is not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadUrl(f"{shown(url)} is not an http or https URL")
    return (parts.scheme, host, port), (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _trusting(ca_path: str | None) -> ssl.SSLContext:
    try:
        return client_context(ca_path)
    except OSError as error:  # ssl.SSLError among them
        raise Untrusted(
            f"the CA bundle {ca_path or system_ca()} cannot be used, so no store is trusted: {innermost(error)}"
        ) from error


@contextmanager
def _words(url: str, stop: Stop) -> Iterator[None]:
    """What goes wrong between us and the peer, in the words of the stores."""
    try:
        yield
    except StoreError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(f"{shown(url)}: the store failed TLS verification: {innermost(error)}") from error
    except (http.client.InvalidURL, UnicodeError) as error:
        raise BadUrl(f"{shown(url)} is not a URL") from error
    except TimeoutError as error:
        stop.check()
        raise TimedOut(f"{shown(url)}: the store did not answer in time") from error
    except (OSError, http.client.HTTPException) as error:
        stop.check()
        raise Unavailable(f"{shown(url)}: the connection failed: {innermost(error)}") from error
