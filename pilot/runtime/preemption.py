"""Is this node being taken away? Google's metadata server knows; it is asked only when the pilot is already stopping."""

from __future__ import annotations

from pilot.runtime.http import OversizedAnswer, Session, Timeouts, TlsError, call
from pilot.runtime.loops import run_within
from pilot.runtime.retry import RetryableError

PATH = "/computeMetadata/v1/instance/preempted"
BOUND_S = 1.0


def node_is_preempted(metadata_url: str) -> bool:
    """True when the metadata server says so; False when it says no, or nothing within a second."""

    def ask() -> bool:
        with Session() as session:
            headers = {"Metadata-Flavor": "Google"}
            answer = call(session, "GET", metadata_url + PATH, headers=headers, timeouts=Timeouts(0.3, 0.5))
        return answer.status == 200 and answer.text().strip().upper() == "TRUE"

    try:
        return run_within("metadata", ask, BOUND_S) or False
    except (RetryableError, TlsError, OversizedAnswer):
        return False
