"""HTTP for short questions and answers: verified TLS, no environment, no .netrc, bounded answers, no redirects to strangers.

On the standard library's client, for its cost (docs/adr/0012): the pilot asks the server four times a job, and an idle one
should weigh little. The bytes of files go over storage/wire.py.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol
from urllib.parse import urlsplit

from pilot import __version__
from pilot.runtime.retry import RETRYABLE_HTTP_STATUSES, RetryableError
from pilot.runtime.stop import Deadline
from pilot.runtime.tls import client_context

USER_AGENT = f"rubin-pilot/{__version__}"
MAX_ANSWER_BYTES = 16 << 20
MOST_HOPS = 4
_BLOCK_BYTES = 64 << 10
_LEAST_TIMEOUT_S = 0.001
_LAST_WORDS_S = 2.0  # for the answer of a peer that stopped reading in the middle of a body

Place = tuple[str, str, int | None]  # scheme, host, port


class TransportError(RetryableError):
    """No answer: refused, reset, timed out, cut short."""


class NotConnected(TransportError):
    """No connection came about, so that the peer cannot have read the request."""


class TlsError(Exception):
    """The peer's certificate was refused; asking again does not help. Check ``--ca`` and the URL."""


class OversizedAnswer(Exception):
    """The peer sent more than we are ready to read."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to connect and between two received bytes."""

    connect_s: float = 5.0
    read_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer read whole. ``headers`` keys are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def retryable(self) -> bool:
        return self.status in RETRYABLE_HTTP_STATUSES


class Body(Protocol):
    """A body that is sent piece by piece; its length is known, so that it goes out in one part and not in chunks."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


class Session:
    """Kept-alive connections, one to each peer; for one caller at a time.

    ``ca_path``: a bundle file or a hashed folder, else the system's CAs. ``client_cert``: certificate and key paths.
    """

    def __init__(self, ca_path: str | None = None, client_cert: tuple[str, str] | None = None) -> None:
        self._ca_path, self._client_cert = ca_path, client_cert
        self._lines: dict[Place, http.client.HTTPConnection] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._lines:
            self._lines.popitem()[1].close()

    def line(self, place: Place, connect_s: float) -> http.client.HTTPConnection:
        """A connection that its peer has not closed. It belongs to the caller until it is ``kept``. Raises OSError."""
        kept = self._lines.pop(place, None)
        if kept is not None:
            if _quiet(kept.sock):
                return kept
            kept.close()
        scheme, host, port = place
        line = http.client.HTTPConnection(host, port, timeout=connect_s)
        if scheme == "https":
            context = client_context(self._ca_path, self._client_cert)
            line = http.client.HTTPSConnection(host, port, timeout=connect_s, context=context)
        try:
            line.connect()
        except BaseException:
            line.close()
            raise
        return line

    def keep(self, place: Place, line: http.client.HTTPConnection) -> None:
        self._lines[place] = line


def call(
    session: Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | Body | None = None,
    timeouts: Timeouts | None = None,
    max_bytes: int = MAX_ANSWER_BYTES,
    allow_redirects: bool = False,
    total_s: float | None = None,
) -> Answer:
    """One request, its answer read whole. Any HTTP status is an Answer; errors of transport are typed.

    Raises TransportError (may pass; NotConnected: nothing was sent), TlsError (will not), OversizedAnswer. A redirect is
    followed only when allowed, and only to the same host. ``total_s`` ends an answer that trickles in, each byte within
    ``timeouts.read_s``.
    """
    limits = timeouts or Timeouts()
    deadline = Deadline(total_s) if total_s is not None else None
    for _hop in range(MOST_HOPS):
        answer = _ask(session, method, url, headers or {}, body, limits, max_bytes, deadline)
        target = answer.headers.get("location")
        if not (allow_redirects and answer.status in (301, 302, 303, 307, 308) and target):
            return answer
        url = _same_host(url, target)
    raise TransportError(f"too many redirects at {_host(url)}")


def _ask(
    session: Session,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | Body | None,
    limits: Timeouts,
    max_bytes: int,
    deadline: Deadline | None,
) -> Answer:
    place, target = _parted(url)
    line = _connected(session, place, url, limits.connect_s)
    sock, usable = line.sock, False  # the client forgets the socket of an answer that ends with the connection
    try:
        sock.settimeout(_limit_s(limits.read_s, deadline))
        line.putrequest(method, target, skip_accept_encoding=True)
        for name, text in _all_headers(headers, body).items():
            line.putheader(name, text)
        sent = _send(line, body)
        with line.getresponse() as response:
            content = _read(response, sock, url, limits, max_bytes, deadline)
            usable = sent and not response.will_close
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, content)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise TransportError(f"no answer from {_host(url)}: the connection was closed") from error
    except ssl.SSLError as error:
        raise _tls_error(url, error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = isinstance(error, TimeoutError) and deadline is not None and deadline.passed()
        why = "it did not finish its answer in time" if late else _cause(error)
        raise TransportError(f"no answer from {_host(url)}: {why}") from error
    finally:
        if usable:
            session.keep(place, line)
        else:
            line.close()


def _connected(session: Session, place: Place, url: str, connect_s: float) -> http.client.HTTPConnection:
    try:
        return session.line(place, connect_s)
    except ssl.SSLError as error:
        raise _tls_error(url, error) from error
    except (OSError, ValueError) as error:
        raise NotConnected(f"no answer from {_host(url)}: {_cause(error)}") from error


def _send(line: http.client.HTTPConnection, body: bytes | Body | None) -> bool:
    """The head and the body. False when the peer stopped reading: it may have answered, and that answer counts."""
    try:
        line.endheaders(body)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
        line.sock.settimeout(_LAST_WORDS_S)
        return False
    return True


def _all_headers(headers: Mapping[str, str], body: bytes | Body | None) -> dict[str, str]:
    """The caller's, and those of every request. No compressed answer is asked for: they are small, and bounds are of bytes."""
    ours = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "*/*"}
    given = {name.lower() for name in headers}
    complete = {name: text for name, text in ours.items() if name.lower() not in given} | dict(headers)
    if body is not None:
        complete["Content-Length"] = str(len(body))
    return complete


def _read(
    response: http.client.HTTPResponse,
    sock: socket.socket,
    url: str,
    limits: Timeouts,
    max_bytes: int,
    deadline: Deadline | None,
) -> bytes:
    """The body in the pieces the network delivers."""
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(_BLOCK_BYTES):
        size += len(piece)
        if size > max_bytes:
            raise OversizedAnswer(f"{_host(url)} sent more than {max_bytes} bytes")
        if deadline is not None:
            if deadline.passed():
                raise TimeoutError
            sock.settimeout(_limit_s(limits.read_s, deadline))
        pieces.append(piece)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _limit_s(read_s: float, deadline: Deadline | None) -> float:
    return read_s if deadline is None else max(_LEAST_TIMEOUT_S, min(read_s, deadline.left_s()))


def _quiet(sock: socket.socket) -> bool:
    """A kept connection on which something can be read was closed by its peer, or is out of step."""
    try:
        watch = select.poll()
        watch.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not watch.poll(0)
    except (OSError, ValueError):
        return False


def _parted(url: str) -> tuple[Place, str]:
    try:
        parts = urlsplit(url)
        place = (parts.scheme, parts.hostname or "", parts.port)
    except ValueError:
        raise TransportError(f"{url[:80]!r} is no URL") from None
    if place[0] not in ("http", "https") or not place[1]:
        raise TransportError(f"{url[:80]!r} is no http or https URL")
    return place, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _same_host(url: str, target: str) -> str:
    from urllib.parse import urljoin

    try:
        absolute = urljoin(url, target)
        here, there = urlsplit(url), urlsplit(absolute)
    except ValueError:
        raise TransportError(f"{_host(url)} redirects to something that is no URL") from None
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise TransportError(f"{here.netloc} redirects to another host ({there.netloc}), which is refused")
    return absolute


def _tls_error(url: str, error: ssl.SSLError) -> TlsError:
    return TlsError(f"{_host(url)} failed TLS verification: {_cause(error)}")


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return f"{url[:80]!r}, which is no URL"


def _cause(error: BaseException) -> str:
    """A transport error in words."""
    if isinstance(error, http.client.IncompleteRead):
        return f"the answer was cut short, {error.expected} bytes are missing"
    if isinstance(error, TimeoutError):
        return str(error) or "timed out"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return text.strip("<'\"> ")[:200]
