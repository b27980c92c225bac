"""From what the pilot has of a job to the story that its page tells.

    story = cleaned(tell(Known(attempt, written_at_s, job=job, outcome=outcome, ...)), redactor.clean)
    html = job_page(story)

Everything but the attempt may be missing. Nothing is invented: what the pilot did not measure is not on the page.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pilot.job.history import UsagePoint
from pilot.job.limits import Limits
from pilot.job.model import Attempt, FileSpec, Job, MalformedJob
from pilot.job.outcome import Outcome
from pilot.job.report import FileReport, Identity, StageTimes, Usage
from pilot.job.states import JobState
from pilot.logs.page import words
from pilot.logs.page.story import (
    Direction,
    FirstError,
    JobStory,
    LogStory,
    StageSpan,
    StoryEvent,
    TransferStory,
    Where,
    no_limits,
)

# StageTimes' fields in the order of a job's life (jobrun.py), and what people call them.
STAGES: Mapping[str, str] = {
    "stage_in_s": "stage-in",
    "setup_s": "setup",
    "payload_s": "payload",
    "stage_out_s": "stage-out",
    "log_s": "logs",
    "report_s": "report",
}
_ABLE_TO_FAIL = ("stage_in_s", "setup_s", "payload_s", "stage_out_s")
TAIL_LINES = 100
COMMAND_MAX_CHARS = 20_000
TRACEBACK_MAX_CHARS = 20_000
MOST_TRANSFERS = 200


@dataclass(frozen=True, slots=True)
class Known:
    """What the pilot has of a job when its page is made. Times in seconds; ``..._at_s`` since 1970.

    ``begins_s``: when stages began, since the job was acquired, by StageTimes' field names; a stage without one follows
    the stage before it. ``took_s``: how long a file's transfer took, by LFN. ``outputs``: those stored and verified.
    """

    attempt: Attempt
    written_at_s: float
    job: Job | MalformedJob | None = None
    outcome: Outcome | None = None
    identity: Identity | None = None
    queue_name: str = ""
    acquired_at_s: float | None = None
    times: StageTimes = field(default_factory=StageTimes)
    begins_s: Mapping[str, float] = field(default_factory=dict)
    usage: Usage | None = None
    points: tuple[UsagePoint, ...] = ()
    limits: Limits = field(default_factory=no_limits)
    isolation: str = ""
    image: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[FileReport, ...] = ()
    took_s: Mapping[str, float] = field(default_factory=dict)
    first_error: str = ""
    traceback: str = ""
    error_in: str = ""
    logs: tuple[LogStory, ...] = ()
    events: tuple[StoryEvent, ...] = ()
    log_url: str = ""
    monitor_url: str = ""


def tell(known: Known) -> JobStory:
    """The story. The caller passes it through the redactor (``story.cleaned``) before it makes the page."""
    job = known.job if isinstance(known.job, Job) else None
    stages = tuple(_stages(known))
    payload = next((stage for stage in stages if stage.name == "payload"), None)
    return JobStory(
        attempt=known.attempt,
        written_at_s=known.written_at_s,
        name=job.name if job else "",
        task_id=job.task_id if job else None,
        request_id=job.request_id if job else None,
        label=job.prod_source_label if job else "",
        command=_command(job)[:COMMAND_MAX_CHARS] if job else "",
        where=_where(known),
        resources=job.resources if job else None,
        acquired_at_s=known.acquired_at_s,
        outcome=known.outcome,
        stages=stages,
        events=known.events,
        payload_began_s=payload.begin_s if payload else 0.0,
        usage=known.usage if payload else None,
        points=known.points,
        limits=known.limits if job else no_limits(),
        error=_error(known),
        transfers=tuple(_transfers(known, job))[:MOST_TRANSFERS] if job else (),
        logs=known.logs,
        log_url=known.log_url,
        monitor_url=known.monitor_url,
    )


def log_story(
    name: str, size_bytes: int | None, tail: bytes, segments: tuple[str, ...] = (), note: str = ""
) -> LogStory:
    """A log with its last lines. ``tail``: the end of the log as it is stored, secrets masked, however long."""
    whole = size_bytes is None or len(tail) >= size_bytes
    return LogStory(name, size_bytes, words.last_lines(tail, TAIL_LINES, whole), segments, note)


def _where(known: Known) -> Where:
    identity = known.identity or Identity(site_name="", node="")
    return Where(
        queue=known.queue_name,
        site=identity.site_name,
        node=identity.node,
        batch_id=identity.batch_id or "",
        scheduler_id=identity.scheduler_id or "",
        image=known.image,
        isolation=known.isolation,
        pilot_version=identity.pilot_version,
        versions=known.versions,
    )


def _stages(known: Known) -> Iterator[StageSpan]:
    """The stages that were begun, as spans; the last that can fail has failed when the job has."""
    begun = [name for name in STAGES if getattr(known.times, name) > 0 or name in known.begins_s]
    failed = known.outcome is not None and known.outcome.state is JobState.FAILED
    guilty = next((name for name in reversed(_ABLE_TO_FAIL) if name in begun), None) if failed else None
    if known.times.acquire_s > 0:
        yield StageSpan("acquire", -known.times.acquire_s, 0.0)
    now_s = 0.0
    for name in begun:
        begin_s = max(now_s, known.begins_s.get(name, now_s))
        length_s = getattr(known.times, name)
        now_s = begin_s + length_s
        yield StageSpan(STAGES[name], begin_s, now_s if length_s > 0 else None, failed=name == guilty)


def _error(known: Known) -> FirstError | None:
    if not known.first_error and not known.traceback:
        return None
    traceback = known.traceback.strip("\n")
    return FirstError(known.first_error, traceback[-TRACEBACK_MAX_CHARS:], known.error_in)


def _transfers(known: Known, job: Job) -> Iterator[TransferStory]:
    detail = known.outcome.pilot_error.detail if known.outcome and known.outcome.pilot_error else ""
    staged_in = known.times.setup_s > 0 or known.times.payload_s > 0
    for file in job.inputs:
        problem = "" if staged_in else detail if file.lfn in detail else "not fetched when the job ended"
        yield _moved(Direction.IN, file, known, problem=problem)
    stored = {report.lfn: report for report in known.outputs}
    for file in job.outputs:
        report = stored.get(file.lfn)
        if report is not None:
            took_s = known.took_s.get(file.lfn)
            yield TransferStory(
                Direction.OUT, file.lfn, report.size_bytes, took_s, f"adler32:{report.adler32}", report.surl or ""
            )
        elif known.outcome is not None and file.lfn not in job.allow_no_output:
            missing = "not stored" if known.times.stage_out_s > 0 else "not stored: the job ended before stage-out"
            yield _moved(Direction.OUT, file, known, problem=detail if file.lfn in detail else missing)


def _moved(direction: Direction, file: FileSpec, known: Known, problem: str) -> TransferStory:
    checksum = str(file.checksum) if file.checksum else ""
    return TransferStory(direction, file.lfn, file.size_bytes, known.took_s.get(file.lfn), checksum, "", problem)


def _command(job: Job) -> str:
    """What the job runs, readable: Rubin's shells carry their text in base64."""
    name = job.transformation.split("?")[0].rstrip("/").rpartition("/")[2]
    if name.startswith("bash-c-enc"):
        try:
            return base64.b64decode(job.parameters.split()[0], validate=True).decode()
        except (binascii.Error, ValueError, IndexError):
            return f"{name} {job.parameters}"
    return job.parameters if name == "bash-c" else f"{job.transformation} {job.parameters}".strip()
