"""All that is known of a job, and what is told of it: the final report's fields. The job page tells the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.history import UsagePoint
from pilot.job.limits import Limits
from pilot.job.model import Attempt, Job, MalformedJob
from pilot.job.outcome import Outcome, with_error
from pilot.job.report import (
    DIAG_MAX_CHARS,
    FieldValue,
    FileReport,
    Identity,
    StageTimes,
    Usage,
    metrics_text,
    output_report,
    usage_fields,
)
from pilot.job.states import JobState


@dataclass(frozen=True, slots=True)
class Account:
    """What the pilot has of a job. Everything but the attempt may be missing: nothing is invented.

    Times in seconds, ``..._at_s`` since 1970. ``outcome`` None: the job is at work. ``begins_s``: when stages began, since
    the job was acquired, by StageTimes' field names. ``outputs``: those stored and verified; ``took_s``: how long a file's
    transfer took, by LFN. ``first_error``, ``traceback``: the payload's words, ``error_in`` the log they were found in.
    ``events``: what happened at one moment, in seconds since the job was acquired.
    """

    attempt: Attempt
    job: Job | MalformedJob | None = None
    outcome: Outcome | None = None
    identity: Identity | None = None
    acquired_at_s: float | None = None
    times: StageTimes = field(default_factory=StageTimes)
    begins_s: Mapping[str, float] = field(default_factory=dict)
    usage: Usage | None = None
    points: tuple[UsagePoint, ...] = ()
    limits: Limits | None = None
    isolation: str = ""
    image: str = ""
    outputs: tuple[FileReport, ...] = ()
    took_s: Mapping[str, float] = field(default_factory=dict)
    first_error: str = ""
    traceback: str = ""
    error_in: str = ""
    events: tuple[tuple[float, str], ...] = ()
    log_url: str = ""


def final_fields(account: Account, outcome: Outcome, log: FileReport | None) -> dict[str, FieldValue]:
    """What the final report says beyond what every update says. ``log``: log.tgz as made, stored or not."""
    fields: dict[str, FieldValue] = {
        **usage_fields(account.usage or Usage()),
        "pilot_timing": account.times.pilot_timing(),
        "job_metrics": metrics_text(_metrics(account, outcome, log)),
    }
    if isinstance(account.job, Job):
        fields["core_count"] = account.job.resources.core_count
    files = (*account.outputs, *([log] if log else []))
    if files:
        fields["job_output_report"] = output_report(files)
    if outcome.trans_exit_code is not None:
        fields["trans_exit_code"] = outcome.trans_exit_code
    if outcome.pilot_error is not None:
        fields["pilot_error_code"] = outcome.pilot_error.code
        fields["pilot_error_diag"] = str(outcome.pilot_error)
    if outcome.exe_error_code:
        fields["exe_error_code"] = outcome.exe_error_code
        fields["exe_error_diag"] = outcome.exe_error_diag[:DIAG_MAX_CHARS]
    return fields


def proven(outcome: Outcome, job: Job | MalformedJob | None, log: FileReport | None, problem: str) -> Outcome:
    """The outcome once the logs are stored. A finished job needs its log in the report (server rule): without even a bundle
    it cannot be finished. ``problem``: why there is none.
    """
    needed = isinstance(job, Job) and job.log is not None
    if outcome.state is JobState.FINISHED and needed and log is None:
        return with_error(outcome, Diagnosis(PilotError.LOG_CREATION_FAILURE, problem))
    return outcome


def _metrics(account: Account, outcome: Outcome, log: FileReport | None) -> Mapping[str, object]:
    metrics: dict[str, object] = dict(outcome.notes)
    if account.isolation:
        metrics["isolation"] = account.isolation
    if account.usage is not None and account.usage.pss_is_rss:
        metrics["pssIsRss"] = 1
    if log is not None and log.surl is None:
        metrics["logStored"] = 0
    return metrics
