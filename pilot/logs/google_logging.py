"""The service: ``entries:write`` of Google Cloud Logging's REST interface, with a service account's key or Workload Identity.

google-auth is imported when the first of these is made, which is only where logging to the cloud is switched on; on the main
thread, before there are others: two threads that import parts of it at once can see half of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.runtime.http import Answer, OversizedAnswer, Timeouts, TlsError, TransportError, call, new_session
from pilot.runtime.secret import SecretFile
from pilot.storage.store import StoreError

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/logging.write"
PROJECT_PATH = "/computeMetadata/v1/project/project-id"
TIMEOUTS = Timeouts(connect_s=5.0, read_s=10.0)
TOTAL_S = 20.0
ANSWER_MAX_BYTES = 1 << 20
_PERMANENT = frozenset({400, 413})


class ServiceUnreachable(Exception):
    """Nothing was written; the same entries may be later: no network, no credentials, no permission yet. One sentence."""


class EntriesRefused(Exception):
    """The service will never take ``count`` of these entries; those it could take are written. One sentence."""

    def __init__(self, sentence: str, count: int) -> None:
        super().__init__(sentence)
        self.count = count


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """``key_file`` wins over Workload Identity at ``metadata_url``. ``project``: None asks the key file, or the node."""

    endpoint: str
    ca_path: str | None
    key_file: Path | None
    metadata_url: str
    project: str | None = None


class GoogleLogging:
    """For one thread."""

    def __init__(self, options: LoggingOptions) -> None:
        import google.auth.transport.requests  # noqa: F401

        from pilot.storage import google_credentials  # noqa: F401

        self._options = options
        self._key_file = SecretFile(options.key_file) if options.key_file else None
        self._project = options.project
        self._credentials: Any = None
        self._session: requests.Session | None = None

    def write(self, entries: Sequence[bytes]) -> None:
        """Write entries, each the JSON of one. Raises ServiceUnreachable or EntriesRefused."""
        about = {"partialSuccess": True, "resource": {"type": "global", "labels": {"project_id": self.project()}}}
        body = json.dumps(about).encode()[:-1] + b', "entries": [' + b",".join(entries) + b"]}"
        url = f"{self._options.endpoint.rstrip('/')}/v2/entries:write"
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"}
        answer = self._call("POST", url, headers, body)
        if answer.status == 200:
            return
        words = f"HTTP {answer.status}: {_message(answer)}"
        if answer.status in _PERMANENT:
            raise EntriesRefused(words, _refused(answer) or len(entries))
        if answer.status == 401:
            self._credentials = None
        raise ServiceUnreachable(words)

    def project(self) -> str:
        """The project the logs belong to. Raises ServiceUnreachable while nobody says."""
        if self._project is None:
            self._project = self._of_key() if self._key_file else self._of_node()
        return self._project

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _of_key(self) -> str:
        assert self._key_file is not None  # noqa: S101  (project() asks first)
        try:
            key = json.loads(self._key_file.read().reveal())
            return str(key["project_id"])
        except OSError as error:
            raise ServiceUnreachable(f"the key file {self._key_file.path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise ServiceUnreachable(
                f"the key file {self._key_file.path} names no project: set --cloud-logging-project"
            ) from None

    def _of_node(self) -> str:
        url = self._options.metadata_url.rstrip("/") + PROJECT_PATH
        answer = self._call("GET", url, {"Metadata-Flavor": "Google"}, None)
        if answer.status != 200:
            raise ServiceUnreachable(f"the metadata server knows no project (HTTP {answer.status})")
        return answer.text().strip()

    def _token(self) -> str:
        import google.auth.exceptions
        from google.auth.transport.requests import Request

        from pilot.storage import google_credentials

        try:
            if self._credentials is None or (self._key_file is not None and self._key_file.changed()):
                self._credentials = (
                    google_credentials.from_key_file(self._key_file, SCOPE)
                    if self._key_file is not None
                    else google_credentials.WorkloadIdentity(self._options.metadata_url)
                )
            if not self._credentials.valid:
                self._credentials.refresh(Request(self._open_session()))
            return str(self._credentials.token)
        except (StoreError, OSError, google.auth.exceptions.GoogleAuthError) as error:
            raise ServiceUnreachable(f"no token for it: {str(error)[:300]}") from error

    def _call(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Answer:
        try:
            return call(
                self._open_session(),
                method,
                url,
                headers=headers,
                body=body,
                timeouts=TIMEOUTS,
                max_bytes=ANSWER_MAX_BYTES,
                total_s=TOTAL_S,
            )
        except (TransportError, TlsError, OversizedAnswer) as error:
            raise ServiceUnreachable(str(error)) from error

    def _open_session(self) -> requests.Session:
        if self._session is None:
            self._session = new_session(self._options.ca_path)
        return self._session


def _refused(answer: Answer) -> int:
    """How many entries the service names as wrong (``WriteLogEntriesPartialErrors``); 0: it does not say."""
    try:
        details = json.loads(answer.body)["error"]["details"]
        return sum(len(detail["logEntryErrors"]) for detail in details if "logEntryErrors" in detail)
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _message(answer: Answer) -> str:
    """The service's own words: ``{"error": {"message": ...}}``."""
    try:
        words = json.loads(answer.body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        words = answer.text()
    return " ".join(str(words).split())[:300]
