"""Google Cloud Storage through its JSON interface (``gs://``): google-auth signs in, the bytes go over our own wire (ADR 10).

Imported only when such a URL is first used. Never reads a bucket's own description and never sets access lists of objects.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from pilot.job.model import ChecksumAlgorithm
from pilot.runtime.stop import Stop
from pilot.storage.answers import Download, described, started
from pilot.storage.checksum import from_base64
from pilot.storage.google_credentials import Bearer
from pilot.storage.store import (
    BadUrl,
    ObjectHeaders,
    Refused,
    Source,
    Span,
    StoredObject,
    StoreError,
    Unavailable,
    refusal,
)
from pilot.storage.urls import ObjectName, object_name, shown
from pilot.storage.wire import Body, Request, Response, Wire

INCOMPLETE = 308  # "resume incomplete": what was sent is kept, and there is more to come
DESCRIPTION = "fields=size,crc32c,generation"
_JSON = "application/json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """``key_file`` wins over Workload Identity at ``metadata_url``; with neither only public buckets can be read."""

    endpoint: str
    ca_path: str | None
    key_file: Path | None
    metadata_url: str | None


class GcsStore:
    """Objects of Google buckets."""

    upload_checksum: ChecksumAlgorithm = "crc32c"

    def __init__(self, options: GcsOptions) -> None:
        self._endpoint = options.endpoint.rstrip("/")
        self._wire = Wire(options.ca_path)
        self._bearer = Bearer(options.key_file, options.metadata_url, options.ca_path)

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[Download]:
        name = self._name(url)
        target = f"{self._endpoint}/download/storage/v1/b/{_quoted(name.bucket)}/o/{_quoted(name.key)}?alt=media"
        if version:
            target += f"&generation={version}"
        # Accepting gzip keeps Google from unpacking what is kept packed: sizes and checksums are those of the stored bytes.
        headers = {"Accept-Encoding": "gzip"} | ({} if span.whole else {"Range": span.header})
        with self._exchange(url, Request("GET", target, headers), stop) as response:
            announced = replace(described(response), version=response.headers.get("x-goog-generation", ""))
            yield started(url, response, span, version, announced, _said(response))

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
        """One request: the object's description and its bytes."""
        name, boundary = self._name(url), secrets.token_hex(16)
        before = (
            f"--{boundary}\r\nContent-Type: {_JSON}\r\n\r\n{_resource(name, headers)}\r\n"
            f"--{boundary}\r\nContent-Type: {headers.content_type}\r\n\r\n"
        )
        body = Body(source, before.encode(), f"\r\n--{boundary}--\r\n".encode())
        target = f"{self._uploads(name)}?uploadType=multipart&{DESCRIPTION}"
        kind = {"Content-Type": f"multipart/related; boundary={boundary}"}
        with self._exchange(url, Request("POST", target, kind), stop, body) as response:
            return _stored(url, response)

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> ResumableUpload:
        """Begin an upload that can be taken up again where it was cut."""
        name = self._name(url)
        target = f"{self._uploads(name)}?uploadType=resumable&{DESCRIPTION}"
        sent = {"Content-Type": _JSON, "X-Upload-Content-Type": headers.content_type}
        body = Body(before=_resource(name, headers).encode())
        with self._exchange(url, Request("POST", target, sent), stop, body) as response:
            if response.status not in (200, 201):
                raise self._refused(url, response)
            address = response.headers.get("location", "")
        if urlsplit(address)[:2] != urlsplit(self._endpoint)[:2]:
            raise Refused(f"{shown(url)}: the store wants the upload at another host ({shown(address)[:100]})")
        return ResumableUpload(url, address, self._wire)

    def stat(self, url: str, stop: Stop) -> StoredObject:
        name = self._name(url)
        target = f"{self._endpoint}/storage/v1/b/{_quoted(name.bucket)}/o/{_quoted(name.key)}?{DESCRIPTION}"
        with self._exchange(url, Request("GET", target, {"Accept-Encoding": "identity"}), stop) as response:
            return _stored(url, response)

    def remove(self, url: str, stop: Stop) -> None:
        name = self._name(url)
        target = f"{self._endpoint}/storage/v1/b/{_quoted(name.bucket)}/o/{_quoted(name.key)}"
        with self._exchange(url, Request("DELETE", target), stop) as response:
            if response.status not in (200, 204, 404):
                raise self._refused(url, response)

    def close(self) -> None:
        self._wire.close()

    @contextmanager
    def _exchange(self, url: str, request: Request, stop: Stop, body: Body | None = None) -> Iterator[Response]:
        """As whoever we are; a token that is refused although it should still be good is renewed, once."""
        for renew in (False, True):
            bearer = self._bearer.headers(shown(url), renew=renew)
            signed = replace(request, headers={**request.headers, **bearer})
            with self._wire.exchange(signed, stop, body) as response:
                if response.status == 401 and bearer and not renew:
                    continue
                yield response
                return

    def _refused(self, url: str, response: Response) -> StoreError:
        return refusal(url, response.status, _said(response), response.headers.get("retry-after"))

    def _name(self, url: str) -> ObjectName:
        name = object_name(url, self._endpoint)
        if name is None:
            raise BadUrl(f"{shown(url)} names no bucket and object (gs://bucket/object)")
        return name

    def _uploads(self, name: ObjectName) -> str:
        return f"{self._endpoint}/upload/storage/v1/b/{_quoted(name.bucket)}/o"


class ResumableUpload:
    """A resumable upload (store.Parts). Its address is a secret of its own; no token is sent with the parts."""

    def __init__(self, url: str, address: str, wire: Wire) -> None:
        self._url, self._address, self._wire = url, address, wire
        self._stored: StoredObject | None = None

    def put(self, part: Source, offset: int, last: bool, stop: Stop) -> None:
        end = offset + part.size_bytes
        total = str(end) if last else "*"
        span = f"bytes {offset}-{end - 1}/{total}" if part.size_bytes else f"bytes */{total}"
        with self._wire.exchange(self._request({"Content-Range": span}), stop, Body(part)) as response:
            if last and response.status in (200, 201):
                self._stored = _stored(self._url, response)
                return
            if response.status != INCOMPLETE or last:
                raise refusal(self._url, response.status, _said(response), response.headers.get("retry-after"))
            kept_bytes = _kept_bytes(response)
        if kept_bytes != end:
            raise Unavailable(f"{shown(self._url)}: the store kept {kept_bytes} of {end} bytes")

    def stored_bytes(self, stop: Stop) -> int:
        with self._wire.exchange(self._request({"Content-Range": "bytes */*"}), stop, Body()) as response:
            if response.status == INCOMPLETE:
                return _kept_bytes(response)
            if response.status in (200, 201):  # the answer to the last part was lost
                self._stored = _stored(self._url, response)
                return self._stored.size_bytes or 0
            raise refusal(self._url, response.status, _said(response), response.headers.get("retry-after"))

    def finish(self, stop: Stop) -> StoredObject:  # noqa: ARG002
        if self._stored is None:
            raise Unavailable(f"{shown(self._url)}: the upload was not completed")
        return self._stored

    def abandon(self) -> None:
        """Google forgets it after a week; until then nobody sees it."""

    def _request(self, headers: dict[str, str]) -> Request:
        return Request("PUT", self._address, headers)


def _resource(name: ObjectName, headers: ObjectHeaders) -> str:
    """The object's description, as Google wants it before the bytes."""
    given = {
        "name": name.key,
        "contentType": headers.content_type,
        "cacheControl": headers.cache_control,
        "contentEncoding": headers.content_encoding,
    }
    return json.dumps({field: text for field, text in given.items() if text is not None})


def _stored(url: str, response: Response) -> StoredObject:
    """The object that an answer describes in JSON. Raises what another status means."""
    if response.status not in (200, 201):
        raise refusal(url, response.status, _said(response), response.headers.get("retry-after"))
    try:
        fields = json.loads(response.text())
        size_bytes, crc32c = int(fields["size"]), from_base64("crc32c", str(fields.get("crc32c", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unavailable(f"{shown(url)}: the store describes the object in no words we know") from None
    return StoredObject(size_bytes, (crc32c,) if crc32c else (), str(fields.get("generation", "")))


def _kept_bytes(response: Response) -> int:
    """``Range: bytes=0-N``: N + 1 bytes are kept; without it none."""
    last = response.headers.get("range", "").rpartition("-")[2]
    return int(last) + 1 if last.isdecimal() else 0


def _said(response: Response) -> str:
    """The store's own sentence of a refusal, as far as it is one."""
    if response.status < 400:
        return ""
    text = response.text()
    read: Callable[[], object] = lambda: json.loads(text)["error"]["message"]  # noqa: E731
    try:
        text = str(read())
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    first = (text.strip().splitlines() or [""])[0]
    return "".join(character for character in first if character.isprintable())[:200]


def _quoted(name: str) -> str:
    return quote(name, safe="")
