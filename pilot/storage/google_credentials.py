"""Who we are to Google: a service account's key file, Workload Identity, or nobody. Nothing is looked for in the environment.

Imported only when a Google store is first used.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import google.auth.credentials
import google.auth.exceptions
from google.auth.credentials import AnonymousCredentials
from google.oauth2 import service_account

from pilot.runtime.http import OversizedAnswer, Timeouts, TlsError, TransportError, call, new_session
from pilot.runtime.secret import Secret, SecretFile, came_to_know
from pilot.storage.store import MissingCredentials

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - a path
METADATA_TIMEOUTS = Timeouts(connect_s=3.0, read_s=10.0)
MAX_TOKEN_ANSWER_BYTES = 64 << 10


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


def anonymous() -> Any:
    """Nobody: enough to read public buckets."""
    return AnonymousCredentials()  # type: ignore[no-untyped-call]


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
