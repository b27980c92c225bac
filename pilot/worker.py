"""A pilot's life: deliver what an earlier one left, then acquire, run, next, until there is a reason to leave."""

from __future__ import annotations

import errno
import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pilot.job.errors import Diagnosis, ExitCode, PilotCannotWork, PilotError
from pilot.job.model import MEGABYTE, Attempt
from pilot.job.queue import Queue
from pilot.job.states import JobState
from pilot.ports import Acquired, AcquireRequest, NoJob, PandaServer, ServerRefused, ServerUnreachable
from pilot.runtime.clock import monotonic_s, utc_now
from pilot.runtime.journal import Event, Journal
from pilot.runtime.loops import run_stage
from pilot.runtime.metrics import ACQUIRES, JOBS, RECOVERED, counts
from pilot.runtime.probe import Point, probe
from pilot.runtime.progress import board
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.runtime.workdir import RESERVE_BYTES, WorkVolume

if TYPE_CHECKING:
    from pilot.jobnotes import JobRecord
    from pilot.jobrun import JobParts

logger = logging.getLogger("pilot.worker")

LONGEST_WAIT_FACTOR = 6  # 10 s grows to 60 s
REFUSALS = {
    ExitCode.QUEUE_NOT_ACTIVE: PilotError.QUEUE_NOT_ACTIVE,
    ExitCode.QUEUE_NOT_ONLINE: PilotError.QUEUE_NOT_ONLINE,
}
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
    node: str
    scheduler_id: str | None
    max_jobs: int
    max_empty: int
    empty_wait_s: float
    lifetime_s: float
    time_floor_s: float
    final_retry_s: float
    disk_limit_bytes: int | None
    push_job: Acquired | None = None
    recover_only: bool = False
    refusal: PilotCannotWork | None = None  # why no job may be asked for, once earlier ones are brought to their end
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """Why the worker left: an exit code, a sentence, and which jobs it ran."""

    exit_code: ExitCode
    reason: str
    jobs: tuple[Attempt, ...] = ()


@dataclass
class Worker:
    """One pilot process. ``make_parts``: what jobs run with, made for the first; ``after_job`` is called after each job.

    ``get_ready`` is called while the server looks for a job; it raises nothing.
    """

    plan: WorkerPlan
    server: PandaServer
    make_parts: Callable[[], JobParts]
    volume: WorkVolume
    stop: Stop
    after_job: Callable[[Worker, JobRecord], None]
    get_ready: Callable[[], object] | None = None
    started_s: float = field(default_factory=monotonic_s)
    started_at: datetime = field(default_factory=utc_now)
    _parts: JobParts | None = None
    _jobs: list[Attempt] = field(default_factory=list)  # of thousands no more is kept
    _empty_answers: int = 0
    _trouble: str = ""

    @property
    def parts(self) -> JobParts:
        """What jobs run with."""
        if self._parts is None:
            self._parts = self.make_parts()
        return self._parts

    def live(self) -> WorkerEnd:
        """The whole life; raises nothing a person can cause."""
        with self._lifetime():
            return self._live()

    @contextmanager
    def _lifetime(self) -> Iterator[None]:
        """While inside, the worker is stopped when its lifetime is over."""
        if not self.plan.lifetime_s:
            yield
            return
        left_s = max(0.0, self.started_s + self.plan.lifetime_s - monotonic_s())
        timer = threading.Timer(left_s, self.stop.request, (StopReason(StopKind.LIFETIME),))
        timer.name, timer.daemon = "lifetime", True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _live(self) -> WorkerEnd:
        undelivered = self._recover()
        if undelivered or self.plan.recover_only:
            return undelivered or self._end(self._duty_done(), "what an earlier pilot left is brought to its end")
        if self.plan.refusal is not None:
            return self._refuse(self.plan.refusal)
        return self._push() if self.plan.push_job else self._pull()

    def _recover(self) -> WorkerEnd | None:
        """Bring every job an earlier pilot left to its end; a WorkerEnd when a report could not be delivered."""
        folders = self.volume.known_jobs()
        if not folders:
            return None
        from pilot.jobrun import finish_job
        from pilot.recovery import read_unfinished

        for folder in folders:
            board.doing("finishing what an earlier pilot left")
            try:
                left = read_unfinished(folder)
            except OSError as error:
                return self._end(
                    ExitCode.MISSING_FILE,
                    f"the journal of an unfinished job in {folder.root} cannot be read: {error.strerror}; it is kept there",
                )
            if left is None:
                logger.info("%s holds no durable job and is removed", folder.root.name)
                run_stage("clear-away", folder.remove, Stop())
                continue
            record = finish_job(left, folder, self.parts, self.volume, self.stop)
            if record is not None:
                counts.add(RECOVERED)
            ended = self._close_job(record)
            if ended:
                return ended
        return None

    def _refuse(self, refusal: PilotCannotWork) -> WorkerEnd:
        """No work for this queue. A job that was given is reported: the server would wait for half an hour to find out."""
        from pilot.jobrun import run_job

        given = self.plan.push_job
        if given is not None and not self._is_over(given):
            diagnosis = Diagnosis(REFUSALS.get(refusal.exit_code, PilotError.GENERAL), str(refusal))
            record = run_job(given, self.parts, self.volume, self.stop, refusal=diagnosis)
            undelivered = self._close_job(record)
            if undelivered:
                return undelivered
        return self._end(refusal.exit_code, str(refusal))

    def _push(self) -> WorkerEnd:
        """Exactly the one job that was given, and no acquire."""
        assert self.plan.push_job is not None  # noqa: S101  (live() asks first)
        if self._is_over(self.plan.push_job):
            return self._end(self._duty_done(), "the job that was given was brought to its end before")
        undelivered = self._run(self.plan.push_job, 0.0)
        return undelivered or self._end(self._duty_done(), "the job that was given is done")

    def _is_over(self, given: Acquired) -> bool:
        """True when an earlier pilot on this volume has had its report acknowledged."""
        from pilot.job.parse import parse_job

        attempt = parse_job(given.definition).attempt
        return attempt is not None and self.volume.is_over(attempt)

    def _pull(self) -> WorkerEnd:
        """Acquire and run. What was asked and got stands in the worker's journal: no asking when that cannot be written."""
        try:
            journal = Journal(self.volume.worker_journal)
        except OSError as error:
            return self._unwritable(error)
        try:
            return self._take_turns(journal)
        finally:
            journal.close()

    def _take_turns(self, journal: Journal) -> WorkerEnd:
        while True:
            reason = self._reason_to_leave()
            if reason:
                return self._end(self._duty_done(), reason)
            no_room = self._no_room()
            if no_room:
                return no_room
            asked_s = monotonic_s()
            try:
                journal.append(Event.ACQUIRE_INTENT, durable=False)
            except OSError as error:
                return self._unwritable(error)
            answer = self._acquire(journal)
            if isinstance(answer, Acquired):
                jobs_before = len(self._jobs)
                undelivered = self._run(answer, monotonic_s() - asked_s)
                if undelivered:
                    return undelivered
                if len(self._jobs) > jobs_before:
                    self._empty_answers = 0
                    continue
                # a definition without a PandaID: as good as none, and no reason to ask again at once
            if self.stop.is_set():
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
        board.doing("asking for a job")
        probe(Point.ACQUIRE_ASKING)
        try:
            answer = run_stage(
                "acquire",
                lambda: self.server.acquire(request, self.stop),
                self.stop,
                ACQUIRE_BOUND_S,
                meanwhile=self.get_ready,
            )
        except (ServerUnreachable, ServerRefused, Stopped) as trouble:
            self._trouble = str(trouble)
        else:
            if isinstance(answer, NoJob):
                logger.info("no job for %s (%s)", self.plan.queue.name, answer.message)
            counts.add(ACQUIRES, "job" if isinstance(answer, Acquired) else "none")
            self._note(journal, isinstance(answer, Acquired))
            return answer
        counts.add(ACQUIRES, "trouble")
        logger.warning("no answer to acquire: %s", self._trouble)
        self._note(journal, job=False)
        return None

    def _note(self, journal: Journal, job: bool) -> None:
        """Journal the answer. A job that came is run even if that cannot be written: it is ours now."""
        try:
            journal.append(Event.ACQUIRE_RESULT, durable=False, job=job)
        except OSError as error:
            logger.error("the journal %s cannot be written: %s", journal.path, error.strerror)

    def _request(self) -> AcquireRequest:
        plan, queue = self.plan, self.plan.queue
        return AcquireRequest(
            site_name=queue.resource,
            prod_source_label=plan.label,
            memory_mb=queue.max_rss_bytes // MEGABYTE if queue.max_rss_bytes else None,
            disk_space_mb=self._disk_space_mb(),
            remaining_time_s=self._remaining_s(),
            resource_type=plan.resource_type,
            computing_element=queue.name,
            node=plan.node,
            job_type=plan.job_type,
            scheduler_id=plan.scheduler_id,
            harvester_id=plan.harvester_id,
            worker_id=plan.worker_id,
        )

    def _disk_space_mb(self) -> int:
        """min(maxwdir, free, the pod's ceiling), in MB: the server's unit here. At least 1: 0 means no limit there."""
        ceilings = [self.plan.queue.max_workdir_bytes, self.plan.disk_limit_bytes, self.volume.free_bytes()]
        return max(1, min(ceiling for ceiling in ceilings if ceiling is not None) // MEGABYTE)

    def _remaining_s(self) -> int | None:
        """Seconds a job may still take: what is left of the lifetime or the queue's maxtime."""
        limits = [limit for limit in (self.plan.lifetime_s, self.plan.queue.max_time_s) if limit]
        return max(1, int(min(limits) - (monotonic_s() - self.started_s))) if limits else None

    def _run(self, acquired: Acquired, acquire_s: float) -> WorkerEnd | None:
        """Run one job; a WorkerEnd when none may follow it."""
        from pilot.jobrun import run_job

        return self._close_job(run_job(acquired, self.parts, self.volume, self.stop, acquire_s))

    def _close_job(self, record: JobRecord | None) -> WorkerEnd | None:
        """Count a job that was run or recovered; a WorkerEnd when none may follow it."""
        if record is None:
            return None
        self._jobs.append(record.attempt)
        outcome = record.outcome
        board.counted(finished=outcome.state is JobState.FINISHED)
        counts.add(JOBS, outcome.state.value, str(outcome.pilot_error.code if outcome.pilot_error else 0))
        self.after_job(self, record)
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
        """The waits double, so that a job that comes soon is found soon and an empty queue is asked rarely; half of each is
        left to chance, so that pilots that were started together, or lost the server together, do not ask together.
        """
        if self._empty_answers < self.plan.max_empty:
            doubled = 2.0 ** min(self._empty_answers, LONGEST_WAIT_FACTOR)
            longest_s = self.plan.empty_wait_s * min(doubled, LONGEST_WAIT_FACTOR)
            board.doing(f"waiting, {self._empty_answers} empty answers so far")
            self.stop.wait(random.uniform(longest_s / 2, longest_s))

    def _duty_done(self) -> ExitCode:
        reason = self.stop.reason
        if reason is None:
            return ExitCode.OK
        return {StopKind.SIGTERM: ExitCode.SIGTERM, StopKind.SIGINT: ExitCode.SIGINT}.get(reason.kind, ExitCode.OK)

    def _no_room(self) -> WorkerEnd | None:
        """No job is asked for that could not even be reported, nor one that is bound to fill the disk: others can take it."""
        try:
            reserved, needed_bytes = self.volume.keep_reserve(), self.plan.min_free_bytes
        except OSError as error:
            return self._unwritable(error)
        free_bytes = self.volume.free_bytes()
        if reserved and free_bytes >= needed_bytes:
            return None
        needed_bytes += 0 if reserved else RESERVE_BYTES
        return self._end(
            ExitCode.NO_LOCAL_SPACE,
            f"the work folder {self.volume.root} has {free_bytes / MEGABYTE:.0f} MB left and a job needs "
            f"{needed_bytes / MEGABYTE:.0f}, so none is taken: free some space, give another with --workdir DIR, or a smaller "
            "--min-free-mib",
        )

    def _unwritable(self, error: OSError) -> WorkerEnd:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return self._end(
            ExitCode.NO_LOCAL_SPACE if full else ExitCode.MKDIR,
            f"the work folder {self.volume.root} cannot be written ({error.strerror}), so no job is taken: "
            "free some space, or give another with --workdir DIR",
        )

    def _end(self, exit_code: ExitCode, reason: str) -> WorkerEnd:
        board.doing("leaving")
        return WorkerEnd(exit_code, reason, tuple(self._jobs))
