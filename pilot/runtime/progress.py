"""What the pilot is doing at this moment: written by whoever does it, read by anybody, without a lock.

Each fact is a frozen value behind one reference and has one writer, who puts a new value in its place; a reader takes the
references as they stand. Files on their way tell how far they are only when somebody asks. Reading disturbs nobody, and
when nobody reads it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Literal

from pilot.runtime.clock import monotonic_s

Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class PilotAt:
    """The pilot itself. ``doing``: a few words for people; the jobs are those brought to their end."""

    queue: str = ""
    doing: str = "starting"
    finished: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class JobAt:
    """The job in hand and its stage. Times of the monotonic clock; ``logs``: the folder of its growing logs."""

    panda_id: int
    attempt_nr: int
    task_id: int | None
    name: str
    log_url: str
    logs: Path
    stage: str
    began_s: float
    stage_began_s: float


@dataclass(frozen=True, slots=True)
class PayloadAt:
    """What the running payload uses, against its limits (None: there is none, or it is not measured). Bytes and seconds."""

    elapsed_s: float
    memory_bytes: int
    cpu_s: float
    processes: int
    memory_limit_bytes: int | None = None
    walltime_limit_s: float | None = None
    container_bytes: int | None = None
    container_limit_bytes: int | None = None
    workdir_bytes: int | None = None
    workdir_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TransferAt:
    """A file on its way, ``in`` or ``out``. ``total_bytes`` None: not known yet."""

    name: str
    direction: Direction
    moved_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything, at one moment.

    ``heard_s``: when the server last took an update of the job; ``report_since_s``: since when a final report waits for its
    acknowledgement. Both of the monotonic clock, None where it does not apply.
    """

    pilot: PilotAt
    job: JobAt | None = None
    payload: PayloadAt | None = None
    transfers: tuple[TransferAt, ...] = ()
    heard_s: float | None = None
    report_since_s: float | None = None


Moved = Callable[[], tuple[int, int | None]]  # bytes moved so far, and in all


class Board:
    """Where it stands. Writers: the conductor (``pilot``, ``job``, ``report_since_s``), the monitor (``payload``), whoever
    speaks to the server about the job (``heard_s``), each file's own thread (``moving``).
    """

    def __init__(self) -> None:
        self.pilot = PilotAt()
        self.job: JobAt | None = None
        self.payload: PayloadAt | None = None
        self.heard_s: float | None = None
        self.report_since_s: float | None = None
        self._moving: tuple[tuple[str, Direction, Moved], ...] = ()
        self._lock = Lock()  # of two files that begin or end at the same moment; readers do not take it

    def now(self) -> Progress:
        transfers = tuple(TransferAt(name, direction, *moved()) for name, direction, moved in self._moving)
        return Progress(self.pilot, self.job, self.payload, transfers, self.heard_s, self.report_since_s)

    def doing(self, words: str) -> None:
        """The pilot, between jobs, is now at this."""
        self.pilot = replace(self.pilot, doing=words)

    def counted(self, *, finished: bool) -> None:
        """One more job is brought to its end."""
        at = self.pilot
        self.pilot = replace(at, finished=at.finished + finished, failed=at.failed + (not finished))

    def stage(self, name: str) -> None:
        """The job in hand goes into its next stage; what a payload used is history once another stage begins."""
        if self.job is not None:
            self.job = replace(self.job, stage=name, stage_began_s=monotonic_s())
            self.payload = None

    @contextmanager
    def job_in_hand(self, job: JobAt) -> Iterator[None]:
        """While inside, this is the job."""
        self.job = job
        try:
            yield
        finally:
            self.job = self.payload = self.heard_s = self.report_since_s = None

    @contextmanager
    def moving(self, name: str, direction: Direction, moved: Moved) -> Iterator[None]:
        """While inside, a file is on its way; ``moved`` is called by whoever looks, and must only look."""
        mine = (name, direction, moved)
        with self._lock:
            self._moving = (*self._moving, mine)
        try:
            yield
        finally:
            with self._lock:
                self._moving = tuple(other for other in self._moving if other is not mine)


board = Board()
