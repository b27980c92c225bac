"""The states a pilot may report, and the moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class JobState(Enum):
    """What may stand in ``job_status`` (server rule: nothing else; finer steps go to job_sub_status)."""

    STARTING = "starting"
    RUNNING = "running"
    HOLDING = "holding"
    TRANSFERRING = "transferring"
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (JobState.FINISHED, JobState.FAILED)


LEGAL_MOVES: Mapping[JobState | None, frozenset[JobState]] = {
    None: frozenset({JobState.STARTING, JobState.FAILED}),
    JobState.STARTING: frozenset({JobState.STARTING, JobState.RUNNING, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.RUNNING, JobState.TRANSFERRING, JobState.FINISHED, JobState.FAILED}),
    JobState.TRANSFERRING: frozenset({JobState.TRANSFERRING, JobState.FINISHED, JobState.FAILED}),
    JobState.HOLDING: frozenset({JobState.FINISHED, JobState.FAILED}),
    JobState.FINISHED: frozenset(),
    JobState.FAILED: frozenset(),
}

# get_job_status answers that mean: the server has our final report (or needs none any more). ``transferring`` is among them
# because this pilot never reports it itself: its heartbeats say ``running`` until the final report.
SETTLED_STATUSES = frozenset({"holding", "transferring", "merging", "finished", "failed", "cancelled", "closed"})


def may_move(before: JobState | None, after: JobState) -> bool:
    """True when a pilot may report ``after`` once it has reported ``before`` (None: nothing yet)."""
    return after in LEGAL_MOVES[before]
