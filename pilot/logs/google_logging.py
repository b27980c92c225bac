"""The service: ``entries:write`` of Google Cloud Logging's REST interface, with a service account's key or Workload Identity.

google-auth is imported when the first of these is made, which is only where logging to the cloud is switched on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilot.runtime.http import Answer, OversizedAnswer, Session, Timeouts, TlsError, TransportError, call
from pilot.runtime.secret import SecretFile
from pilot.storage.store import StoreError

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
        from pilot.storage.google_credentials import Bearer

        self._options = options
        self._bearer = Bearer(options.key_file, options.metadata_url, options.ca_path, SCOPE)
        self._refused = False  # the present token
        self._key_file = SecretFile(options.key_file) if options.key_file else None
        self._project = options.project
        self._session: Session | None = None

    def write(self, entries: Sequence[bytes]) -> None:
        """Write entries, each the JSON of one. Raises ServiceUnreachable or EntriesRefused."""
        about = {"partialSuccess": True, "resource": {"type": "global", "labels": {"project_id": self.project()}}}
        body = json.dumps(about).encode()[:-1] + b', "entries": [' + b",".join(entries) + b"]}"
        url = f"{self._options.endpoint.rstrip('/')}/v2/entries:write"
        headers = {**self._who_we_are(), "Content-Type": "application/json"}
        answer = self._call("POST", url, headers, body)
        if answer.status == 200:
            return
        words = f"HTTP {answer.status}: {_message(answer)}"
        if answer.status in _PERMANENT:
            raise EntriesRefused(words, _refused(answer) or len(entries))
        self._refused = answer.status == 401
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

    def _who_we_are(self) -> dict[str, str]:
        try:
            headers = self._bearer.headers("logging", renew=self._refused)
        except StoreError as error:
            raise ServiceUnreachable(f"no token for it: {str(error)[:300]}") from error
        self._refused = False
        return headers

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

    def _open_session(self) -> Session:
        if self._session is None:
            self._session = Session(self._options.ca_path)
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
