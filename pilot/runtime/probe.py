"""Named points of a job's life where the fault laboratory can strike. Null in production: a call and a comparison.

No option and no environment variable enables a probe; only a program that imports this module and calls ``install`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Point(Enum):
    """The 24 points, in the order of a job's life."""

    ACQUIRE_ASKING = "before the acquire request"
    ACQUIRE_ANSWERED = "after the acquire answer"
    ACQUIRED = "acquired is durable"
    FOLDER_MADE = "the work folder is made"
    STARTING_ASKING = "before the starting update"
    STARTING_ACCEPTED = "after the starting update"
    DOWNLOAD_BEGUN = "stage-in: first block"
    DOWNLOAD_MIDWAY = "stage-in: mid-file"
    DOWNLOAD_VERIFIED = "stage-in: verified"
    PREPARED = "the payload is prepared"
    PAYLOAD_STARTING = "payload_starting is durable, before exec"
    PAYLOAD_RUNNING = "the payload runs"
    BREACH_SEEN = "a limit breach is seen"
    KILL_RECEIVED = "a kill command is received"
    PAYLOAD_EXITED = "payload_exited is durable"
    UPLOAD_BEGUN = "stage-out: first block"
    UPLOAD_MIDWAY = "stage-out: mid-file"
    UPLOAD_SENT = "stage-out: sent, not verified"
    LOG_BUNDLED = "log.tgz is written"
    LOG_STORED = "the logs are stored"
    FINAL_PREPARED = "final_prepared is durable"
    FINAL_SENDING = "the final report is being sent"
    FINAL_ANSWERED = "answered, final_acked not yet written"
    CLEANING = "the job folder is being removed"


_installed: Callable[[Point], None] | None = None


def probe(point: Point) -> None:
    """Tell the laboratory, if there is one, that this point is reached."""
    if _installed is not None:
        _installed(point)


def install(probe_function: Callable[[Point], None] | None) -> None:
    """For the laboratory's own entry program only."""
    global _installed
    _installed = probe_function
