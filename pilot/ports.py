"""The narrow Protocols between the flow (worker.py, jobrun.py) and the parts that app.py gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # these are shapes, and a pilot that gets no job needs none of them
    from pilot.job.account import Account
    from pilot.job.errors import Diagnosis
    from pilot.job.model import ApiGeneration, Attempt, Job
    from pilot.job.replay import Recipe
    from pilot.job.report import FieldValue, FileReport, StagedFile
    from pilot.runtime.payload_end import PayloadEnd
    from pilot.runtime.stop import Stop
    from pilot.runtime.workdir import JobFolder

# --- the PanDA server -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """What the pilot tells the server when it asks for a job. Sizes in MB: the server's unit here. None: leave out."""

    site_name: str
    prod_source_label: str
    memory_mb: int | None
    disk_space_mb: int | None
    remaining_time_s: int | None
    resource_type: str | None
    computing_element: str
    node: str
    job_type: str | None = None
    scheduler_id: str | None = None
    harvester_id: str | None = None
    worker_id: int | None = None


@dataclass(frozen=True, slots=True)
class Acquired:
    """A job definition as the server sent it, and the API generation the job now belongs to."""

    definition: Mapping[str, Any]
    api: ApiGeneration


@dataclass(frozen=True, slots=True)
class NoJob:
    """The server has nothing for this queue now. ``message`` is its own word."""

    message: str


@dataclass(frozen=True, slots=True)
class UpdateAnswer:
    """The server took an update (StatusCode 0). ``commands``: its words, for instance ``tobekilled`` or ``debug``."""

    commands: tuple[str, ...] = ()

    @property
    def kill(self) -> bool:
        return "tobekilled" in self.commands

    @property
    def already_done(self) -> bool:
        return "alreadydone" in self.commands


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The server's word on a job: ``status`` as it spells it; None when it does not know the job."""

    status: str | None
    attempt_nr: int | None


class ServerUnreachable(Exception):
    """Nothing was delivered and no usable answer came back; the same call may succeed later. One sentence."""


class CredentialsRefused(ServerUnreachable):
    """The server (or its TLS) does not take our proxy or token; may succeed once the files were renewed."""


class ServerRefused(Exception):
    """The server will never take this request as it is: a bug of ours. Asking again does not help. One sentence."""


class PandaServer(Protocol):
    """The server, whichever generation. Every call retries what passes, within its stop scope.

    Raises ServerUnreachable (CredentialsRefused among it: may be tried later) or ServerRefused (will not get better).
    """

    def acquire(self, request: AcquireRequest, stop: Stop) -> Acquired | NoJob: ...

    def update(self, fields: Mapping[str, FieldValue], api: ApiGeneration, stop: Stop) -> UpdateAnswer: ...

    def job_status(self, attempt: Attempt, api: ApiGeneration, stop: Stop) -> JobStatus: ...

    def worker_status(
        self, harvester_id: str, worker_id: int, status: str, site: str, node: str, stop: Stop
    ) -> None: ...

    def close(self) -> None: ...


# --- storage ----------------------------------------------------------------------------------------------------------


class Stager(Protocol):
    """Moves a job's files. Raises StageInError or StageOutError with the PanDA code; Stopped when its scope ends."""

    def stage_in(self, job: Job, into: Path, stop: Stop) -> tuple[StagedFile, ...]: ...

    def sources(self, job: Job, stop: Stop) -> Mapping[str, tuple[str, ...]]:
        """Where each input can be had from, best first, by LFN. Raises what ``stage_in`` would for the same reason."""
        ...

    def stage_out(self, job: Job, from_folder: Path, stop: Stop) -> tuple[FileReport, ...]: ...


@dataclass(frozen=True, slots=True)
class LogsStored:
    """What became of a job's logs. ``bundle`` is log.tgz as made, its ``surl`` None when it could not be stored."""

    bundle: FileReport | None
    problem: str = ""

    @property
    def complete(self) -> bool:
        return self.bundle is not None and self.bundle.surl is not None


class JobLogs(Protocol):
    """The public place of the jobs' logs. ``url`` is known before a job starts and stays the same.

    ``follow`` shows the growing logs until ``stop``; ``store`` writes them whole, at the end, and never raises but Stopped.
    """

    def url(self, panda_id: int) -> str: ...

    def follow(self, attempt: Attempt, folder: JobFolder, stop: Stop) -> None: ...

    def store(self, account: Account, folder: JobFolder, stop: Stop) -> LogsStored: ...


class Follower(Protocol):
    """Looks on while a job runs, on a helper thread of that name, until ``stop``. It raises nothing: no job ends for it."""

    @property
    def name(self) -> str: ...

    def follow(self, job: Job, folder: JobFolder, stop: Stop) -> None: ...


# --- payload ----------------------------------------------------------------------------------------------------------


class Sight(Enum):
    """What there is to see of a job while it runs. The values are the operators' words for it."""

    TAIL = "tail"
    LS = "ls"
    DU = "du"
    PS = "ps"


@dataclass(frozen=True, slots=True)
class Question:
    """One thing an operator wants to see. ``name``: a file or folder as it was written, and hostile; empty: the usual one.

    ``lines``: how many of a file's last lines; None: as many as there is room for.
    """

    sight: Sight
    name: str = ""
    lines: int | None = None


class Payload(Protocol):
    """Prepares and runs a payload.

    ``prepare`` finds the command, the runtime and the image (downloads included) and raises PayloadError when it cannot.
    ``run`` starts it and returns when nothing of it is left; it is stopped through ``stop``.
    """

    def look(self, question: Question, folder: JobFolder, most_bytes: int) -> str:
        """What there is to see at any time of a job's life, secrets masked, as printable text of at most ``most_bytes``.

        It never leaves the job's folder and raises nothing: what cannot be seen is said in words.
        """
        ...

    def prepare(self, job: Job, folder: JobFolder, stop: Stop) -> PreparedPayload: ...

    def recipe(self, job: Job) -> Recipe:
        """What this job's payload is made ready with, as far as is known by now, for whoever wants to run it again."""
        ...

    def lay_to_rest(self, mark: Mapping[str, Any], folder: JobFolder) -> Diagnosis:
        """End what is left of a payload whose pilot died, by its mark; the diagnosis is the cause as far as traces tell."""
        ...


class PreparedPayload(Protocol):
    """A payload ready to start. ``mark``: what a successor needs to find what is left of it (JSON values)."""

    @property
    def isolation(self) -> str: ...

    @property
    def mark(self) -> Mapping[str, Any]: ...

    def run(self, stop: Stop, started: Callable[[int], None]) -> PayloadEnd:
        """Start the payload, call ``started`` with its pid, and return when nothing of it is left."""
        ...
