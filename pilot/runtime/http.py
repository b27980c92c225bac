"""The one session factory: verified TLS, no environment, no .netrc, bounded answers, no redirects to strangers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from pilot import __version__
from pilot.runtime.retry import RETRYABLE_HTTP_STATUSES, RetryableError
from pilot.runtime.stop import Deadline

if TYPE_CHECKING:
    import requests

USER_AGENT = f"rubin-pilot/{__version__}"
DEFAULT_CA = "/etc/ssl/certs/ca-certificates.crt"  # Debian's bundle; falls back to certifi's where it is absent
MAX_ANSWER_BYTES = 16 << 20


class TransportError(RetryableError):
    """No answer: refused, reset, timed out, cut short."""


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


def new_session(ca_path: str | None = None, client_cert: tuple[str, str] | None = None) -> requests.Session:
    """A requests session that reads nothing from the environment and follows no redirect.

    ``ca_path``: a bundle file or a hashed directory, else the system's CAs. ``client_cert``: certificate and key paths.
    """
    from requests.adapters import HTTPAdapter

    from pilot.runtime.strict_session import StrictSession

    session = StrictSession()
    session.trust_env = False
    session.verify = ca_path or system_ca()
    session.cert = client_cert
    session.headers["User-Agent"] = USER_AGENT
    session.mount("http://", HTTPAdapter(max_retries=0, pool_maxsize=8))
    session.mount("https://", HTTPAdapter(max_retries=0, pool_maxsize=8))
    return session


def system_ca() -> str:
    """The system's CA bundle, without asking any environment variable."""
    from pathlib import Path

    if Path(DEFAULT_CA).exists():
        return DEFAULT_CA
    import certifi

    return certifi.where()


def call(
    session: requests.Session,
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | Body | None = None,
    timeouts: Timeouts | None = None,
    max_bytes: int = MAX_ANSWER_BYTES,
    allow_redirects: bool = False,
    total_s: float | None = None,
) -> Answer:
    """One request, its answer read whole. Any HTTP status is an Answer; errors of transport are typed.

    Raises TransportError (may pass), TlsError (will not), OversizedAnswer. A redirect is followed only when allowed,
    and only to the same host. ``total_s`` ends an answer that trickles in, each byte within ``timeouts.read_s``.
    """
    import requests
    from urllib3.exceptions import HTTPError

    limits = timeouts or Timeouts()
    deadline = Deadline(total_s) if total_s is not None else None
    try:
        for _hop in range(4):
            with session.request(
                method,
                url,
                headers=headers,
                data=body,
                timeout=(limits.connect_s, limits.read_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                target = response.headers.get("location")
                if allow_redirects and response.is_redirect and target:
                    url = _same_host(url, target)
                    continue
                return Answer(
                    response.status_code,
                    {name.lower(): value for name, value in response.headers.items()},
                    _read_bounded(response, max_bytes, deadline),
                )
    except requests.exceptions.SSLError as error:
        raise TlsError(f"{_host(url)} failed TLS verification: {_cause(error)}") from error
    except (requests.exceptions.RequestException, HTTPError, OSError, ValueError) as error:
        raise TransportError(f"no answer from {_host(url)}: {_cause(error)}") from error
    raise TransportError(f"too many redirects at {_host(url)}")


def _read_bounded(response: requests.Response, max_bytes: int, deadline: Deadline | None) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_content(64 << 10) if deadline is None else _as_it_comes(response):
        size += len(chunk)
        if size > max_bytes:
            raise OversizedAnswer(f"{_host(response.url)} sent more than {max_bytes} bytes")
        if deadline is not None and deadline.passed():
            raise TransportError(f"{_host(response.url)} did not finish its answer in time")
        chunks.append(chunk)
    return b"".join(chunks)


def _as_it_comes(response: requests.Response) -> Iterator[bytes]:
    """The body in the pieces the network delivers: ``iter_content`` would wait for a whole piece, however slowly it comes."""
    while chunk := response.raw.read1(64 << 10, decode_content=True):
        yield chunk


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


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return f"{url[:80]!r}, which is no URL"


def _cause(error: BaseException) -> str:
    """The innermost words of a chained transport error, without object addresses."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = str(error) or type(error).__name__
    return text.partition(" at 0x")[0].strip("<'\"> ")[:200]
