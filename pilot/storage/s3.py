"""The S3 interface (``s3://``), as Google's and other stores speak it.

Imported only when such a URL is first used: boto3 costs half a second and 30 MB.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import boto3.session
import botocore.exceptions
import botocore.session
import urllib3.exceptions
import yaml
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.http import system_ca
from pilot.runtime.secret import Secret, SecretFile
from pilot.storage.checksum import from_goog_hash
from pilot.storage.store import (
    AccessRefused,
    BadUrl,
    ChecksumMismatch,
    MissingCredentials,
    NotFound,
    ObjectHeaders,
    Refused,
    Sink,
    Source,
    StoredObject,
    StoreError,
    StoreFull,
    TimedOut,
    Unavailable,
    Untrusted,
    innermost,
    retry_after_s,
)
from pilot.storage.urls import ObjectName, object_name, shown

BLOCK_BYTES = 1 << 20
MD5_AHEAD_MAX_BYTES = (
    64 << 20
)  # up to here an upload carries Content-MD5; reading twice is cheap while the file is in the page cache
MAX_ANSWER_BYTES = 16 << 20  # of what is no object
PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")


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

    upload_checksum: ChecksumAlgorithm = "md5"

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._key_file = SecretFile(options.key_file) if options.key_file else None
        self._client: Any = None
        self._lock = Lock()

    def download(self, url: str, sink: Sink) -> None:
        with _errors(url):
            name = self._name(url)
            answer = self._current_client().get_object(Bucket=name.bucket, Key=name.key)
            with closing(answer["Body"]) as body:
                sink.expect(_described(answer))
                # Short reads are handed on as they come: a full block of a trickling peer would come too late to stop it.
                stream = body._raw_stream
                with sink.interruptible(stream.shutdown):
                    while block := stream.read1(BLOCK_BYTES, decode_content=False):
                        sink.write(block)

    def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject:
        with _errors(url):
            name = self._name(url)
            fields: dict[str, Any] = {"ContentType": headers.content_type}
            if headers.cache_control:
                fields["CacheControl"] = headers.cache_control
            if headers.content_encoding:
                fields["ContentEncoding"] = headers.content_encoding
            if source.size_bytes <= MD5_AHEAD_MAX_BYTES:
                fields["ContentMD5"] = _md5_ahead(source)
            client = self._current_client()
            client.put_object(Bucket=name.bucket, Key=name.key, Body=source, ContentLength=source.size_bytes, **fields)
            return _described(client.head_object(Bucket=name.bucket, Key=name.key))

    def stat(self, url: str) -> StoredObject:
        with _errors(url):
            name = self._name(url)
            return _described(self._current_client().head_object(Bucket=name.bucket, Key=name.key))

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _name(self, url: str) -> ObjectName:
        name = object_name(url, self._options.endpoint)
        if name is None:
            raise BadUrl(f"{shown(url)} names no bucket and object (s3://bucket/object)")
        return name

    def _current_client(self) -> Any:
        """The client; a new one when the key file was replaced."""
        if self._key_file is None:
            raise MissingCredentials("no S3 key file is set (s3_key_file)")
        with self._lock:
            if self._client is None or self._key_changed(self._key_file):
                self._client = _new_client(self._options, read_key(self._key_file))
            return self._client

    def _key_changed(self, key_file: SecretFile) -> bool:
        try:
            return key_file.changed()
        except OSError:
            return False  # being replaced just now: what we have read still holds


def _new_client(options: S3Options, key: S3Key) -> Any:
    """A client that knows nothing but what it is told: no environment, no profile files, no proxies, no metadata server."""
    nothing_from_outside = {
        name: (None, None, default, conversion)
        for name, (_file, _variable, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    core = botocore.session.Session(session_vars=nothing_from_outside)
    core.set_config_variable("config_file", "/dev/null")
    core.set_config_variable("credentials_file", "/dev/null")
    session = boto3.session.Session(
        botocore_session=core,
        aws_access_key_id=key.access_key.reveal(),
        aws_secret_access_key=key.secret_key.reveal(),
        region_name=options.region,
    )
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 1},
        proxies={},
        max_pool_connections=8,
        ignore_configured_endpoint_urls=True,
    )
    client = session.client("s3", endpoint_url=options.endpoint, verify=options.ca_path or system_ca(), config=config)
    client.meta.events.register("before-send.s3", _BoundedSending(client))
    return client


class _BoundedSending:
    """Sends in the library's place, and reads what is no object (answers, errors) up to a bound: the library has none."""

    def __init__(self, client: Any) -> None:
        self._http: Any = client._endpoint.http_session

    def __call__(self, request: Any, **_about: Any) -> Any:
        streamed, request.stream_output = request.stream_output, True
        response = self._http.send(request)
        if not streamed or response.status_code >= 300:
            with closing(response.raw) as raw:
                response._content = raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
            if len(response._content) > MAX_ANSWER_BYTES:
                raise EndlessAnswer(error=f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        return response


class EndlessAnswer(botocore.exceptions.HTTPClientError):  # type: ignore[misc]  # untyped base
    """The peer sent more than an answer may have."""


def _md5_ahead(source: Source) -> str:
    """The whole source's md5 as Content-MD5 wants it; the source is back at its start."""
    digest = hashlib.md5(usedforsecurity=False)
    while block := source.read(BLOCK_BYTES):
        digest.update(block)
    source.seek(0)
    return base64.b64encode(digest.digest()).decode()


def _described(answer: Mapping[str, Any]) -> StoredObject:
    """Size and checksums of a GET or HEAD answer. An ETag is an md5 only when it looks like one: not after a multipart upload."""
    headers = {name.lower(): text for name, text in answer["ResponseMetadata"]["HTTPHeaders"].items()}
    checksums = from_goog_hash(headers.get("x-goog-hash", ""))
    etag = str(answer.get("ETag", "")).strip('"').lower()
    # At Google the ETag of an object that was uploaded in parts looks like an md5 and is not; there x-goog-hash is the truth.
    if "x-goog-hash" not in headers and PLAIN_MD5.fullmatch(etag):
        checksums = (Checksum("md5", etag),)
    return StoredObject(answer.get("ContentLength"), checksums)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """The library's errors in our words."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _from_answer(url, error) from error
    except botocore.exceptions.SSLError as error:
        raise Untrusted(f"{shown(url)}: the store failed TLS verification: {innermost(error)}") from error
    except (
        botocore.exceptions.ConnectTimeoutError,
        botocore.exceptions.ReadTimeoutError,
        urllib3.exceptions.ReadTimeoutError,
        TimeoutError,
    ) as error:
        raise TimedOut(f"{shown(url)}: the store did not answer in time") from error
    except botocore.exceptions.ParamValidationError as error:
        raise BadUrl(f"{shown(url)} is not a name an S3 store can have") from error
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise Unavailable(f"{shown(url)}: the connection failed: {innermost(error)}") from error


MEANINGS: Mapping[str, Callable[[str], StoreError]] = {
    "NoSuchKey": NotFound,
    "NoSuchBucket": NotFound,
    "404": NotFound,
    "BadDigest": lambda said: ChecksumMismatch(said, "md5"),
    "RequestTimeout": TimedOut,
    "SlowDown": Unavailable,
    "IncompleteBody": Unavailable,
    "QuotaExceeded": StoreFull,
    "507": StoreFull,
}


def _from_answer(url: str, error: botocore.exceptions.ClientError) -> StoreError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    # Of the store's own text only the code is quoted: messages of signature errors repeat what was signed.
    said = f"{shown(url)}: the store answered {status} {code[:60]}"
    if code in MEANINGS:
        return MEANINGS[code](said)
    if status in (401, 403):
        return AccessRefused(said)
    if status == 404:
        return NotFound(said)
    if status == 507:
        return StoreFull(said)
    if status in (408, 425, 429) or status >= 500:
        return Unavailable(
            said, retry_after_s(error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("retry-after"))
        )
    return Refused(said)
