"""Who we are to Google: a service account's key file, Workload Identity, or nobody. Nothing is looked for in the environment.

google-auth makes the assertions and reads the answers; its requests go over the pilot's own sessions. Imported only when a
Google store is first used.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import google.auth.credentials
import google.auth.exceptions
from google.oauth2 import service_account

from pilot.runtime.http import OversizedAnswer, Timeouts, TlsError, TransportError, call, new_session
from pilot.runtime.secret import Secret, SecretFile, came_to_know
from pilot.storage.store import AccessRefused, MissingCredentials, StoreError, Unavailable, Untrusted, innermost

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - a path
METADATA_TIMEOUTS = Timeouts(connect_s=3.0, read_s=10.0)
TOKEN_TIMEOUTS = Timeouts(connect_s=5.0, read_s=30.0)
MAX_TOKEN_ANSWER_BYTES = 64 << 10
MOST_WAIT_S = 120.0  # for a token that another thread is fetching


class Bearer:
    """The header that says who we are, with a token that is good now. Many threads that need a new one fetch it once."""

    def __init__(
        self, key_file: Path | None, metadata_url: str | None, ca_path: str | None, scope: str = SCOPE
    ) -> None:
        self._scope = scope
        self._key_file = SecretFile(key_file) if key_file else None
        self._metadata_url = metadata_url
        self._ca_path = ca_path
        self._credentials: Any = None
        self._fetched: Event | None = None  # while somebody fetches a token
        self._fetches = 0
        self._lock = Lock()

    def headers(self, shown_url: str, *, renew: bool = False) -> dict[str, str]:
        """Nothing for nobody. ``renew``: the present token was refused. Raises AccessRefused, Unavailable, Untrusted."""
        if self._key_file is None and self._metadata_url is None:
            return {}
        refused = self._fetches if renew else -1  # the count, for an endpoint may give the same token again
        while True:
            with self._lock:
                credentials = self._current()
                if credentials.valid and self._fetches != refused:
                    return {"Authorization": f"Bearer {credentials.token}"}
                others, self._fetched = self._fetched, self._fetched or Event()
                fetched = self._fetched
            if others is None:
                self._fetch(credentials, fetched, shown_url)
            elif not others.wait(MOST_WAIT_S):
                raise Unavailable(f"{shown_url}: no access token: the one being fetched does not come")

    def _fetch(self, credentials: Any, fetched: Event, shown_url: str) -> None:
        """A new token, for all who wait for ``fetched``; what fails here each of them tries for itself."""
        try:
            with new_session(self._ca_path) as session:
                credentials.refresh(_Transport(session))
        except google.auth.exceptions.GoogleAuthError as error:
            raise _in_our_words(shown_url, error) from error
        finally:
            with self._lock:
                self._fetched = None
                self._fetches += 1
            fetched.set()

    def _current(self) -> Any:
        """The credentials; new ones when the key file was replaced."""
        if self._credentials is None or self._key_changed():
            self._credentials = (
                from_key_file(self._key_file, self._scope)
                if self._key_file
                else WorkloadIdentity(self._metadata_url or "")
            )
        return self._credentials

    def _key_changed(self) -> bool:
        try:
            return self._key_file is not None and self._key_file.changed()
        except OSError:
            return False  # being replaced just now: what we have read still holds


@dataclass(frozen=True, slots=True)
class _TokenAnswer:
    """As google.auth.transport.Response."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class _Transport:
    """As google.auth.transport.Request, over a session of the pilot's."""

    def __init__(self, session: requests.Session) -> None:
        self._session = session

    def __call__(
        self, url: str, method: str = "GET", body: bytes | None = None, headers: Any = None, **_how: Any
    ) -> _TokenAnswer:
        try:
            answer = call(
                self._session,
                method,
                url,
                headers=headers,
                body=body,
                timeouts=TOKEN_TIMEOUTS,
                max_bytes=MAX_TOKEN_ANSWER_BYTES,
            )
        except (TransportError, TlsError, OversizedAnswer) as error:
            raise google.auth.exceptions.TransportError(error) from error  # type: ignore[no-untyped-call]
        return _TokenAnswer(answer.status, answer.headers, answer.body)


def _in_our_words(shown_url: str, error: google.auth.exceptions.GoogleAuthError) -> StoreError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TlsError):
            return Untrusted(f"{shown_url}: the token endpoint failed TLS verification: {innermost(error)}")
        cause = cause.__cause__ or cause.__context__
    said = f"{shown_url}: no access token: {(str(error).splitlines() or [''])[0][:200]}"
    if error.retryable or isinstance(error, google.auth.exceptions.TransportError):
        return Unavailable(said)
    return AccessRefused(said)


def from_key_file(key_file: SecretFile, scope: str = SCOPE) -> Any:
    """Credentials of a service account's JSON key (what GOOGLE_APPLICATION_CREDENTIALS names). Raises MissingCredentials."""
    try:
        key = json.loads(key_file.read().reveal())
        return _KeyCredentials.from_service_account_info(key, scopes=[scope])  # type: ignore[no-untyped-call]
    except OSError as error:
        raise MissingCredentials(f"the Google key file {key_file.path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, google.auth.exceptions.GoogleAuthError):
        # Chained to nothing: a parser's message may quote the key.
        raise MissingCredentials(f"{key_file.path} is not a Google service account key (JSON)") from None


class _KeyCredentials(service_account.Credentials):
    """A service account by its key, whose access tokens the redactor learns."""

    def refresh(self, request: Any) -> None:
        super().refresh(request)  # type: ignore[no-untyped-call]
        came_to_know(Secret(str(self.token)))


class WorkloadIdentity(google.auth.credentials.Credentials):
    """The pod's service account through the metadata server at ``metadata_url`` (Workload Identity in GKE)."""

    def __init__(self, metadata_url: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._url = metadata_url.rstrip("/") + TOKEN_PATH

    def refresh(self, request: object) -> None:  # noqa: ARG002
        """Fetch a token. ``request``, the library's own transport, is not used: it would go through a proxy."""
        try:
            with new_session() as session:
                answer = call(
                    session,
                    "GET",
                    self._url,
                    headers={"Metadata-Flavor": "Google"},
                    timeouts=METADATA_TIMEOUTS,
                    max_bytes=MAX_TOKEN_ANSWER_BYTES,
                )
        except (TransportError, TlsError, OversizedAnswer) as error:
            message = f"no Google key file is set and the metadata server gives no token: {error}"
            raise _no_token(message, True) from error
        if answer.status != 200:
            message = f"the metadata server at {self._url} answered {answer.status}"
            raise _no_token(message, answer.retryable)
        try:
            token = json.loads(answer.body)
            self.token = str(token["access_token"])
            came_to_know(Secret(self.token))
            lifetime = datetime.timedelta(seconds=float(token["expires_in"]))
        except (ValueError, TypeError, KeyError):
            raise _no_token("the metadata server's token is unreadable", False) from None
        self.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + lifetime  # the library wants naive UTC


def _no_token(message: str, retryable: bool) -> google.auth.exceptions.RefreshError:
    return google.auth.exceptions.RefreshError(message, retryable=retryable)  # type: ignore[no-untyped-call]
