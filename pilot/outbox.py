"""The outbox: a final report is journalled before it is first sent, and resent byte for byte until it is acknowledged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import FieldValue
from pilot.job.states import SETTLED_STATUSES
from pilot.ports import JobStatus, PandaServer, ServerRefused, ServerUnreachable
from pilot.runtime.clock import monotonic_s
from pilot.runtime.journal import Event, Journal
from pilot.runtime.loops import run_stage
from pilot.runtime.probe import Point, probe
from pilot.runtime.progress import board
from pilot.runtime.retry import RetryableError, RetryPolicy, retry_call
from pilot.runtime.stop import Stop, Stopped

logger = logging.getLogger("pilot.outbox")

RESEND = RetryPolicy("final report", tries=100_000, first_s=1.0, cap_s=30, total_s=3600)


class Delivery(Enum):
    """What became of a final report."""

    ACKNOWLEDGED = "the server has it"
    ABANDONED = "the server does not know this attempt any more"
    UNDELIVERED = "the server was out of reach; it stays in the outbox"

    @property
    def settled(self) -> bool:
        return self is not Delivery.UNDELIVERED


def deliver_final(
    server: PandaServer,
    attempt: Attempt,
    api: ApiGeneration,
    body: Mapping[str, FieldValue],
    stop: Stop,
    total_s: float,
) -> Delivery:
    """Send a final report until it is acknowledged, for ``total_s`` seconds or until ``stop``; on a thread of its own.

    Acknowledged means StatusCode 0 (also with ``tobekilled`` or ``alreadydone``), or a job status that shows that the
    server has it. An answer that never came is settled by asking for the status before sending again.
    """

    def once() -> Delivery:
        probe(Point.FINAL_SENDING)
        try:
            server.update(body, api, stop)
            return Delivery.ACKNOWLEDGED
        except (ServerUnreachable, ServerRefused) as trouble:
            # A refusal ends nothing either: a proxy may have spoken, and a job that the server gives up gets a status.
            logger.warning("job %s: final report not delivered yet: %s", attempt, trouble)
            settled = _by_status(server, attempt, api, stop)
            if settled is not None:
                return settled
            raise RetryableError(str(trouble)) from trouble

    try:
        return run_stage("report", lambda: retry_call(once, replace(RESEND, total_s=total_s), stop), stop)
    except (RetryableError, Stopped):
        return Delivery.UNDELIVERED
    except RuntimeError as error:  # no thread is to be had in this pod
        logger.error("job %s: the final report could not be sent: %s", attempt, error)
        return Delivery.UNDELIVERED


def told_before(
    server: PandaServer, attempt: Attempt, api: ApiGeneration, stop: Stop, total_s: float
) -> Delivery | None:
    """Whether a report of this attempt was delivered that no journal tells of: the disk was broken when it was sent.

    None: there was none, and one may be made. UNDELIVERED: the server could not be asked within ``total_s`` seconds or until
    ``stop``, so that none may be made yet: it could be a second, different one.
    """

    def once() -> Delivery | None:
        try:
            return _told_by(server.job_status(attempt, api, stop), attempt)
        except (ServerUnreachable, ServerRefused) as trouble:
            logger.warning("job %s: what the server knows of it is not known yet: %s", attempt, trouble)
            raise RetryableError(str(trouble)) from trouble

    try:
        return retry_call(once, replace(RESEND, total_s=total_s), stop)
    except RetryableError:
        return Delivery.UNDELIVERED


def _by_status(server: PandaServer, attempt: Attempt, api: ApiGeneration, stop: Stop) -> Delivery | None:
    """What the job's status tells about the report; None when it tells nothing."""
    try:
        return _told_by(server.job_status(attempt, api, stop), attempt)
    except (ServerUnreachable, ServerRefused):
        return None


def _told_by(status: JobStatus, attempt: Attempt) -> Delivery | None:
    if status.status is None or (status.attempt_nr is not None and status.attempt_nr > attempt.attempt_nr):
        logger.warning("job %s: the server knows this attempt no more (%s); its report ends here", attempt, status)
        return Delivery.ABANDONED
    if status.status in SETTLED_STATUSES and status.attempt_nr == attempt.attempt_nr:
        return Delivery.ACKNOWLEDGED
    return None


def send_final(
    server: PandaServer,
    journal: Journal,
    attempt: Attempt,
    api: ApiGeneration,
    body: Mapping[str, FieldValue],
    stop: Stop,
    total_s: float,
    *,
    prepared: bool = False,
) -> Delivery:
    """Journal the body, deliver it, journal the result. The body is fixed from here on, whatever is learnt later.

    ``prepared``: an earlier pilot journalled it already; it is resent as it is.
    """
    try:
        if not prepared:
            journal.append(
                Event.FINAL_PREPARED, attempt=[attempt.panda_id, attempt.attempt_nr], api=api.value, body=dict(body)
            )
        probe(Point.FINAL_PREPARED)
    except OSError as error:
        logger.error(
            "job %s: the journal cannot be written (%s); the report is sent all the same", attempt, error.strerror
        )
    board.report_since_s = monotonic_s()
    delivery = deliver_final(server, attempt, api, body, stop, total_s)
    probe(Point.FINAL_ANSWERED)
    _note(journal, delivery)
    return delivery


def _note(journal: Journal, delivery: Delivery) -> None:
    if not delivery.settled:
        return
    board.report_since_s = None
    event = Event.FINAL_ACKED if delivery is Delivery.ACKNOWLEDGED else Event.FINAL_ABANDONED
    try:
        journal.append(event)
    except OSError as error:
        logger.error("the journal cannot be written: %s", error.strerror)
