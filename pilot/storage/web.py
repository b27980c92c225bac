"""Plain HTTPS downloads (``https://``): images, and doors that speak WebDAV. No credentials are ever sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

from pilot.job.model import ChecksumAlgorithm
from pilot.runtime.http import Timeouts
from pilot.runtime.stop import Stop
from pilot.storage.answers import Download, described, started
from pilot.storage.store import BadUrl, ObjectHeaders, Refused, Source, Span, StoredObject, refusal
from pilot.storage.urls import shown
from pilot.storage.wire import Request, Response, Wire

MAX_HOPS = 4


class WebStore:
    """Reads from any HTTPS server; redirects are followed on the same host only. Writing is not offered."""

    upload_checksum: ChecksumAlgorithm = "adler32"

    def __init__(self, ca_path: str | None = None, timeouts: Timeouts | None = None) -> None:
        self._wire = Wire(ca_path, timeouts)

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[Download]:
        # An encoding is refused: size and checksums are of the plain bytes.
        headers = {"Accept-Encoding": "identity"} | ({} if span.whole else {"Range": span.header})
        if version:
            headers["If-Match"] = version
        with self._final("GET", url, headers, stop) as response:
            yield started(url, response, span, version)

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> NoReturn:  # noqa: ARG002
        raise _no_door(url)

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> NoReturn:  # noqa: ARG002
        raise _no_door(url)

    def stat(self, url: str, stop: Stop) -> StoredObject:
        with self._final("HEAD", url, {"Accept-Encoding": "identity"}, stop) as response:
            if response.status != 200:
                raise refusal(url, response.status, "", response.headers.get("retry-after"))
            return described(response)

    def close(self) -> None:
        self._wire.close()

    @contextmanager
    def _final(self, method: str, url: str, headers: dict[str, str], stop: Stop) -> Iterator[Response]:
        """The answer after redirects."""
        for _hop in range(MAX_HOPS):
            if urlsplit(url).scheme != "https":
                raise BadUrl(f"{shown(url)} is not https")
            with self._wire.exchange(Request(method, url, headers), stop) as response:
                target = response.headers.get("location")
                if response.status in (301, 302, 303, 307, 308) and target:
                    url = _on_the_same_host(url, target)
                    continue
                yield response
                return
        raise Refused(f"{shown(url)}: more than {MAX_HOPS - 1} redirects")


def _no_door(url: str) -> BadUrl:
    return BadUrl(f"{shown(url)}: nothing is uploaded to plain https servers; use a gs:// or s3:// door")


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
