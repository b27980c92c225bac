"""A pilot's life: deliver what an earlier one left, then acquire, run, next, until there is a reason to leave."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pilot.job.errors import ExitCode
from pilot.job.parse import MEGABYTE
from pilot.job.queue import Queue
from pilot.jobrun import JobParts, JobRecord, run_job
from pilot.outbox import resend_outbox
from pilot.ports import Acquired, AcquireRequest, CredentialsRefused, NoJob, ServerRefused, ServerUnreachable
from pilot.runtime.clock import monotonic_s, utc_now
from pilot.runtime.journal import Event, Journal
from pilot.runtime.loops import run_stage
from pilot.runtime.stop import Stop, StopKind
from pilot.runtime.workdir import WorkVolume

logger = logging.getLogger("pilot.worker")

LONGEST_WAIT_FACTOR = 6  # 10 s becomes 10 to 60 s
ACQUIRE_BOUND_S = 10.0  # after a stop the acquire in flight may still bring a job; it is waited for


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker may do. Times in seconds; 0 for ``max_jobs`` and ``lifetime_s``: no limit."""

    queue: Queue
    label: str
    job_type: str | None
    resource_type: str | None
    harvester_id: str | None
    worker_id: int | None
    max_jobs: int
    max_empty: int
    empty_wait_s: float
    lifetime_s: float
    time_floor_s: float
    final_retry_s: float
    disk_limit_bytes: int | None
    push_job: Acquired | None = None


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """Why the worker left: an exit code, a sentence, and the jobs it ran."""

    exit_code: ExitCode
    reason: str
    jobs: tuple[JobRecord, ...] = ()


@dataclass
class Worker:
    """One pilot process. ``after_job`` is called after each job (the summary)."""

    plan: WorkerPlan
    parts: JobParts
    volume: WorkVolume
    stop: Stop
    after_job: Callable[[Worker], None]
    started_s: float = field(default_factory=monotonic_s)
    started_at: datetime = field(default_factory=utc_now)
    _jobs: list[JobRecord] = field(default_factory=list)
    _empty_answers: int = 0
    _trouble: str = ""

    @property
    def jobs(self) -> tuple[JobRecord, ...]:
        """The jobs run so far."""
        return tuple(self._jobs)

    def live(self) -> WorkerEnd:
        """The whole life; raises nothing a person can cause."""
        if not resend_outbox(self.parts.server, self.volume, self.stop, self.plan.final_retry_s):
            return self._end(ExitCode.SERVER_COMMUNICATION, "a final report of an earlier pilot cannot be delivered")
        self._tell_harvester("started")
        journal = Journal(self.volume.worker_journal)
        try:
            end = self._push() if self.plan.push_job else self._pull(journal)
        finally:
            journal.close()
            self._tell_harvester("finished")
        return end

    def _push(self) -> WorkerEnd:
        """Exactly the one job that was given, and no acquire."""
        assert self.plan.push_job is not None  # noqa: S101  (live() asks first)
        undelivered = self._run(self.plan.push_job, 0.0)
        return undelivered or self._end(self._duty_done(), "the job that was given is done")

    def _pull(self, journal: Journal) -> WorkerEnd:
        while True:
            reason = self._reason_to_leave()
            if reason:
                return self._end(self._duty_done(), reason)
            asked_s = monotonic_s()
            answer = self._acquire(journal)
            if isinstance(answer, Acquired):
                self._empty_answers = 0
                undelivered = self._run(answer, monotonic_s() - asked_s)
                if undelivered:
                    return undelivered
                continue
            if answer is None and self._empty_answers + 1 >= self.plan.max_empty and not self._jobs:
                return self._end(ExitCode.SERVER_COMMUNICATION, self._trouble)
            self._empty_answers += 1
            self._wait_after_nothing()

    def _reason_to_leave(self) -> str:
        """Why no further job is taken; empty when one may be."""
        if self.stop.reason is not None:
            return str(self.stop.reason)
        if 0 < self.plan.max_jobs <= len(self._jobs):
            return f"{len(self._jobs)} jobs done, as --max-jobs says"
        if self._empty_answers >= self.plan.max_empty:
            return f"the server had no job {self._empty_answers} times in a row"
        if self._jobs and monotonic_s() - self.started_s >= self.plan.time_floor_s:
            return "the queue's timefloor has passed"
        return ""

    def _acquire(self, journal: Journal) -> Acquired | NoJob | None:
        """One request; None when the server gave no usable answer. Never aborted: a lost answer is a lost job."""
        request = self._request()
        journal.append(Event.ACQUIRE_INTENT, durable=False)
        try:
            answer = run_stage(
                "acquire", lambda: self.parts.server.acquire(request, self.stop), self.stop, ACQUIRE_BOUND_S
            )
        except CredentialsRefused as trouble:
            self._trouble = str(trouble)
        except (ServerUnreachable, ServerRefused) as trouble:
            self._trouble = str(trouble)
        else:
            if isinstance(answer, NoJob):
                logger.info("no job for %s (%s)", self.plan.queue.name, answer.message)
            journal.append(Event.ACQUIRE_RESULT, durable=False, job=isinstance(answer, Acquired))
            return answer
        logger.warning("no answer to acquire: %s", self._trouble)
        journal.append(Event.ACQUIRE_RESULT, durable=False, job=False)
        return None

    def _request(self) -> AcquireRequest:
        plan, queue, identity = self.plan, self.plan.queue, self.parts.identity
        return AcquireRequest(
            site_name=queue.resource,
            prod_source_label=plan.label,
            memory_mb=queue.max_rss_bytes // MEGABYTE if queue.max_rss_bytes else None,
            disk_space_mb=self._disk_space_mb(),
            remaining_time_s=self._remaining_s(),
            resource_type=plan.resource_type,
            computing_element=queue.name,
            node=identity.node,
            job_type=plan.job_type,
            scheduler_id=identity.scheduler_id,
            harvester_id=plan.harvester_id,
            worker_id=plan.worker_id,
        )

    def _disk_space_mb(self) -> int:
        """min(maxwdir, free, the pod's ceiling), in MB: the server's unit here."""
        ceilings = [self.plan.queue.max_workdir_bytes, self.plan.disk_limit_bytes, self.volume.free_bytes()]
        return min(ceiling for ceiling in ceilings if ceiling) // MEGABYTE

    def _remaining_s(self) -> int | None:
        """Seconds a job may still take: what is left of the lifetime or the queue's maxtime."""
        limits = [limit for limit in (self.plan.lifetime_s, self.plan.queue.max_time_s) if limit]
        return max(1, int(min(limits) - (monotonic_s() - self.started_s))) if limits else None

    def _run(self, acquired: Acquired, acquire_s: float) -> WorkerEnd | None:
        """Run one job; a WorkerEnd when none may follow it."""
        record = run_job(acquired, self.parts, self.volume, self.stop, acquire_s)
        if record is None:
            return None
        self._jobs.append(record)
        self.after_job(self)
        if not record.delivery.settled:
            return self._end(
                ExitCode.SERVER_COMMUNICATION,
                f"the final report of job {record.attempt} is not delivered; it is kept in {self.volume.root} for a successor",
            )
        if record.abandoned_helpers:
            return self._end(
                ExitCode.GENERAL, f"{', '.join(record.abandoned_helpers)} did not end; no further job is taken"
            )
        return None

    def _wait_after_nothing(self) -> None:
        if self._empty_answers < self.plan.max_empty:
            self.stop.wait(random.uniform(self.plan.empty_wait_s, LONGEST_WAIT_FACTOR * self.plan.empty_wait_s))

    def _duty_done(self) -> ExitCode:
        reason = self.stop.reason
        if reason is None:
            return ExitCode.OK
        return {StopKind.SIGTERM: ExitCode.SIGTERM, StopKind.SIGINT: ExitCode.SIGINT}.get(reason.kind, ExitCode.OK)

    def _tell_harvester(self, status: str) -> None:
        """Only with both Harvester ids known (server rule); a failure is logged and nothing more."""
        plan = self.plan
        if plan.harvester_id is None or plan.worker_id is None:
            return
        try:
            self.parts.server.worker_status(
                plan.harvester_id, plan.worker_id, status, plan.queue.resource, self.parts.identity.node, self.stop
            )
        except (ServerUnreachable, ServerRefused) as trouble:
            logger.warning("worker status %s not delivered: %s", status, trouble)

    def _end(self, exit_code: ExitCode, reason: str) -> WorkerEnd:
        return WorkerEnd(exit_code, reason, tuple(self._jobs))
