"""Google Cloud Storage through its native interface (``gs://``).

Imported only when such a URL is first used: the Google client costs a third of a second and 40 MB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

import google.auth.exceptions
import requests
import urllib3.exceptions
from google.api_core import exceptions as api_errors
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from requests.adapters import HTTPAdapter

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.http import USER_AGENT, new_session, system_ca
from pilot.runtime.retry import RETRYABLE_HTTP_STATUSES
from pilot.runtime.secret import SecretFile
from pilot.runtime.strict_session import StrictSession
from pilot.storage import google_credentials
from pilot.storage.checksum import from_base64, from_goog_hash
from pilot.storage.store import (
    AccessRefused,
    BadUrl,
    ChecksumMismatch,
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
TIMEOUTS_S = (5.0, 30.0)  # to connect, and between two bytes
UPLOAD_CHUNK_BYTES = 8 << 20  # of a resumable upload (above 8 MiB); held in memory


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """``key_file`` wins over Workload Identity at ``metadata_url``; with neither only public buckets can be read."""

    endpoint: str
    ca_path: str | None
    key_file: Path | None
    metadata_url: str | None


class GcsStore:
    """Objects of Google buckets. Never reads a bucket's own description and never sets access lists of objects."""

    upload_checksum: ChecksumAlgorithm = "crc32c"

    def __init__(self, options: GcsOptions) -> None:
        self._options = options
        self._key_file = SecretFile(options.key_file) if options.key_file else None
        self._client: Any = None
        self._lock = Lock()

    def download(self, url: str, sink: Sink) -> None:
        # Not through the client: it reads in blocks of 8 KiB, each waited for whole, so that a trickling peer is not seen.
        with _errors(url), self._get(url) as response:
            if response.status_code != 200:
                raise _from_status(url, response.status_code, response.reason, response)
            sink.expect(_announced(response))
            with sink.interruptible(response.raw.shutdown):
                while block := response.raw.read1(BLOCK_BYTES, decode_content=False):
                    sink.write(block)

    def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject:
        with _errors(url):
            blob = self._blob(url, UPLOAD_CHUNK_BYTES)
            blob.cache_control = headers.cache_control
            blob.content_encoding = headers.content_encoding
            blob.upload_from_file(
                source,
                size=source.size_bytes,
                content_type=headers.content_type,
                checksum="crc32c",
                timeout=TIMEOUTS_S,
                retry=None,
            )
            return _described(blob)

    def stat(self, url: str) -> StoredObject:
        with _errors(url):
            blob = self._blob(url)
            blob.reload(timeout=TIMEOUTS_S, retry=None)
            return _described(blob)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _get(self, url: str) -> requests.Response:
        """The object as it is stored: accepting gzip keeps Google from unpacking what is kept packed."""
        name = self._name(url)
        media = f"/download/storage/v1/b/{quote(name.bucket, safe='')}/o/{quote(name.key, safe='')}?alt=media"
        session: requests.Session = self._current_client()._http
        return session.get(
            self._options.endpoint.rstrip("/") + media,
            headers={"Accept-Encoding": "gzip"},
            timeout=TIMEOUTS_S,
            allow_redirects=False,
            stream=True,
        )

    def _name(self, url: str) -> ObjectName:
        name = object_name(url, self._options.endpoint)
        if name is None:
            raise BadUrl(f"{shown(url)} names no bucket and object (gs://bucket/object)")
        return name

    def _blob(self, url: str, chunk_bytes: int | None = None) -> Any:
        name = self._name(url)
        return self._current_client().bucket(name.bucket).blob(name.key, chunk_size=chunk_bytes)

    def _current_client(self) -> Any:
        """The client; a new one when the key file was replaced."""
        with self._lock:
            if self._client is None or self._key_changed():
                self._client = self._new_client()
            return self._client

    def _key_changed(self) -> bool:
        try:
            return self._key_file is not None and self._key_file.changed()
        except OSError:
            return False  # being replaced just now: what we have read still holds

    def _new_client(self) -> Any:
        credentials = self._credentials()
        authenticator = Request(new_session(self._options.ca_path))
        session = _StrictAuthorizedSession(credentials, auth_request=authenticator)  # type: ignore[no-untyped-call]
        session.trust_env = False
        session.verify = self._options.ca_path or system_ca()
        session.headers["User-Agent"] = USER_AGENT
        session.mount("https://", _BlockwiseAdapter(max_retries=0, pool_maxsize=8))
        client = storage.Client(
            project="none",
            credentials=credentials,
            _http=session,
            client_options={"api_endpoint": self._options.endpoint},
        )
        # The client would ask for each bucket's description in a background thread, for traces nobody takes; that needs
        # the permission storage.buckets.get, which the pilot must not have.
        client._bucket_metadata_cache = None
        return client

    def _credentials(self) -> Any:
        if self._key_file is not None:
            return google_credentials.from_key_file(self._key_file)
        if self._options.metadata_url:
            return google_credentials.WorkloadIdentity(self._options.metadata_url)
        return google_credentials.anonymous()


class _StrictAuthorizedSession(StrictSession, AuthorizedSession):
    """Google's session: tokens are put on every request, so none may be led elsewhere."""


class _BlockwiseAdapter(HTTPAdapter):
    """Sends bodies block by block: each block then has the socket time-out to itself, and not megabytes together."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if isinstance(request.body, bytes) and "Content-Length" in request.headers:
            request.body = io.BytesIO(request.body)  # type: ignore[assignment] # requests takes a stream here
        return super().send(request, *args, **kwargs)


def _announced(response: requests.Response) -> StoredObject:
    """What the headers of a download say: the stored size, and the crc32c of ``x-goog-hash``."""
    text = response.headers.get("content-length", "")
    checksums = from_goog_hash(response.headers.get("x-goog-hash", ""))
    return StoredObject(int(text) if text.isdecimal() else None, checksums)


def _described(blob: Any) -> StoredObject:
    crc32c = from_base64("crc32c", blob.crc32c or "")
    checksums: tuple[Checksum, ...] = (crc32c,) if crc32c and blob.crc32c else ()
    return StoredObject(blob.size, checksums)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """The library's errors in our words."""
    try:
        yield
    except DataCorruption as error:
        raise ChecksumMismatch(
            f"{shown(url)}: the bytes do not have the crc32c the store announced", "crc32c"
        ) from error
    except api_errors.GoogleAPICallError as error:
        raise _from_status(url, int(error.code or 0), error.message, error.response) from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise _from_auth(url, error) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise _from_transport(url, error) from error


def _from_status(url: str, status: int, message: str, response: Any) -> StoreError:
    said = f"{shown(url)}: the store answered {status}: {_first_line(message)}"
    known: dict[int, Callable[[str], StoreError]] = {
        401: AccessRefused,
        403: AccessRefused,
        404: NotFound,
        507: StoreFull,
        408: TimedOut,
    }
    if status in known:
        return known[status](said)
    if status == 400 and "crc32c" in said.lower():
        return ChecksumMismatch(said, "crc32c")
    if status in RETRYABLE_HTTP_STATUSES or status >= 500:
        return Unavailable(said, retry_after_s(getattr(response, "headers", {}).get("Retry-After")))
    return Refused(said)


def _from_auth(url: str, error: google.auth.exceptions.GoogleAuthError) -> StoreError:
    if _has_cause(error, (requests.exceptions.SSLError,)):
        return Untrusted(f"{shown(url)}: the token endpoint failed TLS verification: {innermost(error)}")
    said = f"{shown(url)}: no access token: {_first_line(str(error))}"
    if error.retryable or isinstance(error, google.auth.exceptions.TransportError):
        return Unavailable(said)
    return AccessRefused(said)


def _from_transport(url: str, error: Exception) -> StoreError:
    if _has_cause(error, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
        return Untrusted(f"{shown(url)}: the store failed TLS verification: {innermost(error)}")
    if _has_cause(error, (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return TimedOut(f"{shown(url)}: the store did not answer in time")
    return Unavailable(f"{shown(url)}: the connection failed: {innermost(error)}")


def _has_cause(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:200]
