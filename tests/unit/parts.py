"""Stand-ins at the ports of pilot.ports: a server that keeps books, and parts that do what a test tells them to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilot.job.account import Account
from pilot.job.errors import Diagnosis, PilotError, StageError
from pilot.job.model import ApiGeneration, Attempt, Job
from pilot.job.queue import Queue, QueueStatus
from pilot.job.replay import Recipe
from pilot.job.report import FieldValue, FileReport, Identity, StagedFile, Usage
from pilot.jobrun import JobParts
from pilot.ports import (
    Acquired,
    AcquireRequest,
    Follower,
    JobStatus,
    LogsStored,
    NoJob,
    Question,
    ServerUnreachable,
    UpdateAnswer,
)
from pilot.runtime.payload_end import PayloadEnd
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import JobFolder, WorkVolume
from pilot.worker import Worker, WorkerPlan

FINAL = ("finished", "failed")
BUNDLE = FileReport("log.tgz", "guid-of-the-log", 11, "0a0b0c0d", "gs://bucket/log.tgz")


def definition(panda_id: int = 4711, **changes: Any) -> dict[str, Any]:
    """A Rubin job's definition: no files but the log."""
    return {
        "PandaID": panda_id,
        "attemptNr": 2,
        "taskID": 9,
        "jobName": "isr",
        "transformation": "run.sh",
        "jobPars": "--go",
        "outFiles": "log.tgz",
        "logFile": "log.tgz",
        "logGUID": "guid-of-the-log",
    } | changes


WITH_OUTPUT: dict[str, Any] = {"outFiles": "out.root,log.tgz", "scopeOut": "user.jane"}
WITH_INPUT: dict[str, Any] = {"inFiles": "in.fits", "scopeIn": "user.jane"}


@dataclass
class Books:
    """A PanDA server in memory: it hands out definitions, keeps every update, and answers as it is told to."""

    to_give: list[Mapping[str, Any] | Exception | NoJob] = field(default_factory=list)
    requests: list[AcquireRequest] = field(default_factory=list)
    updates: list[dict[str, FieldValue]] = field(default_factory=list)
    worker_states: list[str] = field(default_factory=list)
    statuses: dict[int, JobStatus] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)  # job_status -> command
    trouble: dict[str, list[Exception]] = field(default_factory=dict)  # job_status -> errors before it is taken
    lost_answers: int = 0  # so many final updates are taken while their answer is lost
    on_update: Callable[[Mapping[str, FieldValue]], object] = lambda fields: None
    on_acquire: Callable[[], object] = lambda: None

    def acquire(self, request: AcquireRequest, stop: Stop) -> Acquired | NoJob:
        self.requests.append(request)
        self.on_acquire()
        given = self.to_give.pop(0) if self.to_give else NoJob("No jobs in PanDA")
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, NoJob) else Acquired(given, ApiGeneration.V1)

    def update(self, fields: Mapping[str, FieldValue], api: ApiGeneration, stop: Stop) -> UpdateAnswer:
        state = str(fields["job_status"])
        waiting = self.trouble.get(state)
        if waiting:
            raise waiting.pop(0)
        self.updates.append(dict(fields))
        self.on_update(fields)
        if state in FINAL:
            status = JobStatus("holding", int(fields["attempt_nr"]))
            self.statuses[int(fields["job_id"])] = status
            if self.lost_answers:
                self.lost_answers -= 1
                raise ServerUnreachable("the answer was lost")
        command = self.commands.get(state)
        return UpdateAnswer((command,) if command else ())

    def job_status(self, attempt: Attempt, api: ApiGeneration, stop: Stop) -> JobStatus:
        waiting = self.trouble.get("status")
        if waiting:
            raise waiting.pop(0)
        return self.statuses.get(attempt.panda_id, JobStatus("running", attempt.attempt_nr))

    def worker_status(self, harvester_id: str, worker_id: int, status: str, site: str, node: str, stop: Stop) -> None:
        if self.trouble.get("worker"):
            raise self.trouble["worker"].pop(0)
        self.worker_states.append(status)

    def close(self) -> None:
        pass

    @property
    def states(self) -> list[str]:
        """The states told, repetitions folded."""
        told = [str(fields["job_status"]) for fields in self.updates]
        return [state for index, state in enumerate(told) if index == 0 or told[index - 1] != state]

    @property
    def final(self) -> dict[str, FieldValue]:
        """The one final report."""
        finals = [fields for fields in self.updates if fields["job_status"] in FINAL]
        assert len(finals) == 1, self.states
        return finals[0]

    @property
    def reported_files(self) -> dict[str, dict[str, Any]]:
        report: dict[str, dict[str, Any]] = json.loads(str(self.final.get("job_output_report", "{}")))
        return report


@dataclass
class Shelf:
    """A stager whose transfers succeed, or fail as told."""

    in_error: Exception | None = None
    out_error: Exception | None = None
    staged: list[str] = field(default_factory=list)
    on_out: Callable[[], object] = lambda: None

    def sources(self, job: Job, stop: Stop) -> Mapping[str, tuple[str, ...]]:
        return {file.lfn: (f"gs://bucket/{file.lfn}",) for file in job.inputs}

    def stage_in(self, job: Job, into: Path, stop: Stop) -> tuple[StagedFile, ...]:
        self.staged.append("in")
        if self.in_error:
            raise self.in_error
        return tuple(StagedFile(file.lfn, 5, 0.1) for file in job.inputs)

    def stage_out(self, job: Job, from_folder: Path, stop: Stop) -> tuple[FileReport, ...]:
        self.staged.append("out")
        self.on_out()
        stop.check()
        if self.out_error:
            raise self.out_error
        return tuple(FileReport(file.lfn, "guid-of-an-output", 5, "01020304", "gs://o") for file in job.outputs)


@dataclass
class Script:
    """A payload that is no process: ``during`` runs in its place."""

    exit_code: int | None = 0
    breach: Diagnosis | None = None
    prepare_error: StageError | None = None
    run_error: Exception | None = None
    during: Callable[[Stop, JobFolder], object] = lambda stop, folder: None
    runs: int = 0
    laid_to_rest: list[Mapping[str, Any]] = field(default_factory=list)
    looked_for: list[Question] = field(default_factory=list)
    look_error: Exception | None = None
    folder: JobFolder | None = None

    @property
    def isolation(self) -> str:
        return "plain"

    @property
    def mark(self) -> Mapping[str, Any]:
        return {"boot_id": "boot-1"}

    def lay_to_rest(self, mark: Mapping[str, Any], folder: JobFolder) -> Diagnosis:
        self.laid_to_rest.append(mark)
        return Diagnosis(PilotError.KILL_SIGNAL, "the pilot died under it")

    def recipe(self, job: Job) -> Recipe:
        return Recipe(QUEUE, environment={"SITE": "here"}, hidden=("PGPASSWORD",), image="gs://images/x.sif")

    def look(self, question: Question, folder: JobFolder, most_bytes: int) -> str:
        self.looked_for.append(question)
        if self.look_error:
            raise self.look_error
        return f"{question.sight.value} of {question.name or 'the usual'}"

    def prepare(self, job: Job, folder: JobFolder, stop: Stop) -> Script:
        if self.prepare_error:
            raise self.prepare_error
        self.folder = folder
        return self

    def run(self, stop: Stop, started: Callable[[int], None]) -> PayloadEnd:
        assert self.folder is not None
        self.runs += 1
        self.folder.stdout.write_text("hello\n")
        started(12345)
        if self.run_error:
            raise self.run_error
        self.during(stop, self.folder)
        exit_code, signal = (None, 15) if stop.is_set() else (self.exit_code, None)
        usage = Usage(cpu_s=1.6, max_rss_bytes=2 << 20)
        return PayloadEnd(exit_code, signal, usage, 1.0, "plain", stopped_by=stop.reason, breach=self.breach)


@dataclass
class Board:
    """The logs: stored, or not when ``down``. The bundle is a real file, so that it can be kept."""

    down: bool = False
    error: Exception | None = None
    no_bundle: bool = False
    stored: list[Attempt] = field(default_factory=list)
    told: list[Account] = field(default_factory=list)
    followed: threading.Event = field(default_factory=threading.Event)
    follow_error: Exception | None = None
    on_store: Callable[[Stop], object] = lambda stop: None

    def url(self, panda_id: int) -> str:
        return f"https://logs.example/Q/PandaJob_{panda_id}/pilotlog.txt"

    def follow(self, attempt: Attempt, folder: JobFolder, stop: Stop) -> None:
        self.followed.set()
        if self.follow_error:
            raise self.follow_error
        stop.wait(None)

    def store(self, account: Account, folder: JobFolder, stop: Stop) -> LogsStored:
        self.on_store(stop)
        self.stored.append(account.attempt)
        self.told.append(account)
        if self.error:
            raise self.error
        if self.no_bundle:
            return LogsStored(None, "the disk is full")
        (folder.logs / "log.tgz").write_text("log in a box")
        return LogsStored(replace(BUNDLE, surl=None), "the store is down") if self.down else LogsStored(BUNDLE)


QUEUE = Queue(
    "Q", "Q_RESOURCE", "SITE", True, QueueStatus.ONLINE, max_rss_bytes=1800 << 20, max_workdir_bytes=100 << 20
)


@dataclass
class Bench:
    """A worker with all its parts stood in for."""

    root: Path
    server: Books = field(default_factory=Books)
    stager: Shelf = field(default_factory=Shelf)
    payload: Script = field(default_factory=Script)
    logs: Board = field(default_factory=Board)
    preempted: bool = False
    followers: tuple[Follower, ...] = ()
    heartbeat_s: float = 60.0
    server_silence_s: float = 3600.0
    start_wait_s: float = 5.0
    final_retry_s: float = 5.0
    shutdown_s: float = 5.0
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.volume = WorkVolume(self.root)
        self.volume.jobs.mkdir(parents=True, exist_ok=True)

    @property
    def parts(self) -> JobParts:
        return JobParts(
            server=self.server,
            stager=self.stager,
            payload=self.payload,
            logs=self.logs,
            identity=Identity("Q_RESOURCE", "node-7", "harvester-x", "pod-1", "Kubernetes", "PR", "0.1.0"),
            heartbeat_s=self.heartbeat_s,
            server_silence_s=self.server_silence_s,
            start_wait_s=self.start_wait_s,
            final_retry_s=self.final_retry_s,
            shutdown_s=self.shutdown_s,
            preempted=lambda: self.preempted,
            followers=self.followers,
        )

    def worker(self, **changes: Any) -> Worker:
        plan = WorkerPlan(
            queue=QUEUE,
            label="managed",
            job_type=None,
            resource_type="SCORE",
            harvester_id=None,
            worker_id=None,
            node="node-7",
            scheduler_id="harvester-x",
            max_jobs=0,
            max_empty=1,
            empty_wait_s=0.0,
            lifetime_s=0.0,
            time_floor_s=3600.0,
            final_retry_s=self.final_retry_s,
            disk_limit_bytes=None,
        )
        self.told: list[int] = []
        return Worker(
            replace(plan, **changes),
            self.server,
            lambda: self.parts,
            self.volume,
            self.stop,
            after_job=lambda _worker, record: self.told.append(record.attempt.panda_id),
        )

    def end(self, kind: StopKind, detail: str = "") -> bool:
        return self.stop.request(StopReason(kind, detail))

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.volume.jobs.iterdir())
