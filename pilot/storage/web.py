"""Plain HTTPS downloads (``https://``): images, and doors that speak WebDAV. No credentials are ever sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from pilot.job.model import ChecksumAlgorithm
from pilot.runtime.http import Timeouts, new_session
from pilot.runtime.retry import RETRYABLE_HTTP_STATUSES
from pilot.storage.store import (
    AccessRefused,
    BadUrl,
    NotFound,
    ObjectHeaders,
    Refused,
    Sink,
    Source,
    StoredObject,
    StoreError,
    TimedOut,
    Unavailable,
    Untrusted,
    innermost,
    retry_after_s,
)
from pilot.storage.urls import shown

BLOCK_BYTES = 1 << 20
MAX_HOPS = 4


class WebStore:
    """Reads from any HTTPS server; redirects are followed on the same host only. Writing is not offered."""

    upload_checksum: ChecksumAlgorithm = "adler32"

    def __init__(self, ca_path: str | None = None, timeouts: Timeouts | None = None) -> None:
        self._session = new_session(ca_path)
        limits = timeouts or Timeouts()
        self._timeouts_s = (limits.connect_s, limits.read_s)

    def download(self, url: str, sink: Sink) -> None:
        with _errors(url), self._open("GET", url) as response:
            sink.expect(_described(response))
            with sink.interruptible(response.raw.shutdown):
                while block := response.raw.read1(BLOCK_BYTES, decode_content=False):
                    sink.write(block)

    def upload(self, source: Source, url: str, headers: ObjectHeaders) -> NoReturn:  # noqa: ARG002
        raise BadUrl(f"{shown(url)}: nothing is uploaded to plain https servers; use a gs:// or s3:// door")

    def stat(self, url: str) -> StoredObject:
        with _errors(url), self._open("HEAD", url) as response:
            return _described(response)

    def close(self) -> None:
        self._session.close()

    @contextmanager
    def _open(self, method: str, url: str) -> Iterator[requests.Response]:
        """The final answer, status 200, after redirects. An encoding is refused: size and checksums are of the plain bytes."""
        for _hop in range(MAX_HOPS):
            if urlsplit(url).scheme != "https":
                raise BadUrl(f"{shown(url)} is not https")
            with self._session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity"},
                timeout=self._timeouts_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.is_redirect:
                    url = _on_the_same_host(url, response.headers["location"])
                    continue
                if response.status_code != 200:
                    raise _from_status(url, response)
                yield response
                return
        raise Refused(f"{shown(url)}: more than {MAX_HOPS - 1} redirects")


def _on_the_same_host(url: str, target: str) -> str:
    """What was named is what is fetched: another host could serve anything, or be one that only the pilot can reach."""
    try:
        absolute = urljoin(url, target)
        here, there = urlsplit(url), urlsplit(absolute)
    except ValueError:
        raise Refused(f"{shown(url)} redirects to something that is no URL") from None
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise Refused(f"{shown(url)} redirects to another host ({there.netloc[:100]}): name the final URL instead")
    return absolute


def _described(response: requests.Response) -> StoredObject:
    text = response.headers.get("content-length", "")
    return StoredObject(int(text) if text.isdecimal() else None)


def _from_status(url: str, response: requests.Response) -> StoreError:
    status = response.status_code
    said = f"{shown(url)}: the server answered {status}"
    if status in (401, 403, 407):
        return AccessRefused(said)
    if status in (404, 410):
        return NotFound(said)
    if status in RETRYABLE_HTTP_STATUSES or status >= 500:
        return Unavailable(said, retry_after_s(response.headers.get("retry-after")))
    return Refused(said)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise Untrusted(f"{shown(url)}: the server failed TLS verification: {innermost(error)}") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
        raise TimedOut(f"{shown(url)}: the server did not answer in time") from error
    except (requests.exceptions.InvalidURL, UnicodeError) as error:
        raise BadUrl(f"{shown(url)} is not a URL") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise Unavailable(f"{shown(url)}: the connection failed: {innermost(error)}") from error
