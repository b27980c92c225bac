"""The S3 interface (``s3://``), as Google's and other stores speak it: botocore signs, the bytes go over our own wire (ADR 10).

Imported only when such a URL is first used: the signer costs a fifth of a second and 20 MB.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import quote, urlsplit

import yaml
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.secret import Secret, SecretFile
from pilot.runtime.stop import Stop
from pilot.storage.answers import Download, described, started
from pilot.storage.store import (
    BadUrl,
    ChecksumMismatch,
    MissingCredentials,
    NotFound,
    ObjectHeaders,
    Refused,
    Source,
    Span,
    StoredObject,
    StoreError,
    StoreFull,
    TimedOut,
    Unavailable,
    refusal,
    retry_after_s,
)
from pilot.storage.urls import ObjectName, object_name, shown
from pilot.storage.wire import Body, Request, Response, Wire

GOOGLE_HOST = "storage.googleapis.com"
PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
_SIGNING = Config(s3={"payload_signing_enabled": False})  # TLS and checksums protect the bytes
_ERROR_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_UPLOAD_ID = re.compile(r"<UploadId>([^<]{1,2000})</UploadId>")


@dataclass(frozen=True, slots=True)
class S3Options:
    """``key_file``: a YAML or JSON mapping with ``access_key`` and ``secret_key``. ``region``: ``auto`` for Google."""

    key_file: Path | None
    endpoint: str
    region: str
    ca_path: str | None


@dataclass(frozen=True, slots=True)
class S3Key:
    """An access key and its secret (at Google: an HMAC key of a service account)."""

    access_key: Secret
    secret_key: Secret


def read_key(key_file: SecretFile) -> S3Key:
    """The key in a file of the form ``access_key: ...``, ``secret_key: ...``. Raises MissingCredentials."""
    try:
        text = key_file.read().reveal()
    except OSError as error:
        raise MissingCredentials(f"the S3 key file {key_file.path} cannot be read: {error.strerror}") from error
    try:
        fields = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader makes nothing but texts, lists and mappings
    except yaml.YAMLError:
        fields = None  # not chained: the parser's message quotes the file
    names = ("access_key", "secret_key")
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) and fields[name] for name in names):
        raise MissingCredentials(f"the S3 key file {key_file.path} must hold access_key and secret_key (YAML or JSON)")
    return S3Key(Secret(fields["access_key"]), Secret(fields["secret_key"]))


class S3Store:
    """Objects behind one S3 endpoint: signature v4, path style, no checksum trailers (Google refuses them)."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._endpoint = options.endpoint.rstrip("/")
        self._wire = Wire(options.ca_path)
        self._key_file = SecretFile(options.key_file) if options.key_file else None
        self._signer: S3SigV4Auth | None = None
        self._lock = Lock()

    @property
    def upload_checksum(self) -> ChecksumAlgorithm:
        """Google tells the crc32c of what it took (``x-goog-hash``), others the md5 (ETag)."""
        return "crc32c" if urlsplit(self._endpoint).hostname == GOOGLE_HOST else "md5"

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[Download]:
        headers = {"Accept-Encoding": "identity"} | ({} if span.whole else {"Range": span.header})
        if version:
            headers["If-Match"] = version
        with self._exchange("GET", url, stop, headers) as response:
            if response.status >= 300 and not (version and response.status == 412) and response.status != 416:
                raise _refused(url, response)
            yield started(url, response, span, version, _told(response))

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
        with self._exchange("PUT", url, stop, _fields(headers), Body(source)) as response:
            if response.status != 200:
                raise _refused(url, response)
            stored = StoredObject(None, _told(response).checksums)
        return stored if stored.checksums else self.stat(url, stop)

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> MultipartUpload:
        with self._exchange("POST", url, stop, _fields(headers), Body(), "uploads=") as response:
            found = _UPLOAD_ID.search(response.text()) if response.status == 200 else None
            if found is None:
                raise _refused(url, response)
        return MultipartUpload(self, url, found.group(1), check_md5=self.upload_checksum == "md5")

    def stat(self, url: str, stop: Stop) -> StoredObject:
        with self._exchange("HEAD", url, stop, {"Accept-Encoding": "identity"}) as response:
            if response.status != 200:
                raise _refused(url, response)
            return _told(response)

    def remove(self, url: str, stop: Stop) -> None:
        with self._exchange("DELETE", url, stop, {}) as response:
            if response.status not in (200, 204, 404):
                raise _refused(url, response)

    def close(self) -> None:
        self._wire.close()

    @contextmanager
    def _exchange(
        self, method: str, url: str, stop: Stop, headers: Mapping[str, str], body: Body | None = None, query: str = ""
    ) -> Iterator[Response]:
        name = self._name(url)
        target = f"{self._endpoint}/{quote(name.bucket, safe='')}/{quote(name.key, safe='/~')}"
        signed = self._signed(method, f"{target}?{query}" if query else target, headers)
        with self._wire.exchange(signed, stop, body) as response:
            yield response

    def _signed(self, method: str, target: str, headers: Mapping[str, str]) -> Request:
        request = AWSRequest(method=method, url=target, headers=dict(headers))
        request.context.update(client_config=_SIGNING, payload_signing_enabled=False)
        self._current_signer().add_auth(request)
        return Request(method, target, dict(request.headers.items()))

    def _name(self, url: str) -> ObjectName:
        name = object_name(url, self._endpoint)
        if name is None:
            raise BadUrl(f"{shown(url)} names no bucket and object (s3://bucket/object)")
        return name

    def _current_signer(self) -> S3SigV4Auth:
        """The signer; a new one when the key file was replaced."""
        if self._key_file is None:
            raise MissingCredentials("no S3 key file is set (s3_key_file)")
        with self._lock:
            if self._signer is None or self._key_changed(self._key_file):
                key = read_key(self._key_file)
                credentials = Credentials(key.access_key.reveal(), key.secret_key.reveal())
                self._signer = S3SigV4Auth(credentials, "s3", self._options.region)
            return self._signer

    def _key_changed(self, key_file: SecretFile) -> bool:
        try:
            return key_file.changed()
        except OSError:
            return False  # being replaced just now: what we have read still holds


class MultipartUpload:
    """A multipart upload (store.Parts): each part is an object of its own until all are put together."""

    def __init__(self, store: S3Store, url: str, upload_id: str, *, check_md5: bool) -> None:
        self._store, self._url, self._check_md5 = store, url, check_md5
        self._query = f"uploadId={quote(upload_id, safe='')}"
        self._tags: list[str] = []  # of the parts, in order
        self._stored_bytes = 0

    def put(self, part: Source, offset: int, last: bool, stop: Stop) -> None:  # noqa: ARG002
        number = len(self._tags) + 1
        sent = _Summed(part) if self._check_md5 else part
        query = f"partNumber={number}&{self._query}"
        with self._store._exchange("PUT", self._url, stop, {}, Body(sent), query) as response:
            if response.status != 200:
                raise _refused(self._url, response)
            tag = response.headers.get("etag", "")
        if isinstance(sent, _Summed) and PLAIN_MD5.fullmatch(tag.strip('"')) and tag.strip('"') != sent.md5:
            raise ChecksumMismatch(f"{shown(self._url)}: part {number} arrived changed", "md5")
        self._tags.append(tag)
        self._stored_bytes = offset + part.size_bytes

    def stored_bytes(self, stop: Stop) -> int:  # noqa: ARG002
        return self._stored_bytes

    def finish(self, stop: Stop) -> StoredObject:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_escaped(tag)}</ETag></Part>"
            for number, tag in enumerate(self._tags, 1)
        )
        text = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        body = {"Content-Type": "application/xml"}, Body(before=text)
        with self._store._exchange("POST", self._url, stop, *body, self._query) as response:
            if response.status != 200:
                raise _refused(self._url, response)
            if "<Error>" in response.text():  # S3 begins its answer before it knows
                raise Unavailable(f"{shown(self._url)}: the store could not put the parts together")
        stored = self._store.stat(self._url, stop)
        # The ETag of what was put together is no md5, whatever it looks like; each part's was compared.
        return StoredObject(stored.size_bytes, tuple(c for c in stored.checksums if c.algorithm != "md5"))

    def abandon(self) -> None:
        """Tell the store to forget the parts; they cost as long as they lie there."""
        try:
            with self._store._exchange("DELETE", self._url, Stop(), {}, None, self._query):
                return
        except StoreError:
            return


class _Summed:
    """A source whose md5 is known once it was read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.size_bytes = source.size_bytes
        self._digest = hashlib.md5(usedforsecurity=False)

    @property
    def md5(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        block = self._source.read(size)
        self._digest.update(block)
        return block

    def seek(self, offset: int, /) -> int:
        self._digest = hashlib.md5(usedforsecurity=False)
        return self._source.seek(offset)


def _fields(headers: ObjectHeaders) -> dict[str, str]:
    given = {
        "Content-Type": headers.content_type,
        "Cache-Control": headers.cache_control,
        "Content-Encoding": headers.content_encoding,
    }
    return {name: text for name, text in given.items() if text}


def _told(response: Response) -> StoredObject:
    """Size and checksums an answer tells. An ETag is an md5 only when it looks like one: not after a multipart upload."""
    found = described(response)
    etag = found.version.strip('"').lower()
    # At Google the ETag of an object that was uploaded in parts looks like an md5 and is not; there x-goog-hash is the truth.
    if "x-goog-hash" not in response.headers and PLAIN_MD5.fullmatch(etag):
        return StoredObject(found.size_bytes, (Checksum("md5", etag),), found.version)
    return found


MEANINGS: Mapping[str, Callable[[str], StoreError]] = {
    "NoSuchKey": NotFound,
    "NoSuchBucket": NotFound,
    "BadDigest": lambda said: ChecksumMismatch(said, "md5"),
    "RequestTimeout": TimedOut,
    "IncompleteBody": Unavailable,
    "NoSuchUpload": Refused,
    "QuotaExceeded": StoreFull,
}


def _refused(url: str, response: Response) -> StoreError:
    """Of the store's own text only the code is quoted: messages of signature errors repeat what was signed."""
    found = _ERROR_CODE.search(response.text()) if response.status >= 300 else None
    code = found.group(1) if found else ""
    wait = response.headers.get("retry-after")
    if code in MEANINGS:
        return MEANINGS[code](f"{shown(url)}: the store answered {response.status} {code}")
    if code == "SlowDown":
        return Unavailable(f"{shown(url)}: the store answered {response.status} {code}", retry_after_s(wait))
    return refusal(url, response.status, code, wait)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
