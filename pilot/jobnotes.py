"""What is known of a job while it lives: kept by ``jobrun.py``, told to the server, the job's page, the summary and people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pilot.job.account import Account
from pilot.job.model import Attempt, Job, MalformedJob
from pilot.job.outcome import Outcome
from pilot.job.report import FieldValue, FileReport, Identity, StagedFile, StageTimes, Usage, update_fields
from pilot.job.states import JobState
from pilot.outbox import Delivery
from pilot.ports import LogsStored
from pilot.runtime.clock import monotonic_s, server_time, utc_now
from pilot.runtime.metrics import STAGES, counts
from pilot.runtime.payload_end import PayloadEnd
from pilot.runtime.progress import JobAt, board

T = TypeVar("T")


@dataclass(frozen=True)
class JobRecord:
    """What is left of a job for the summary: its outcome, times, and whether the server knows."""

    attempt: Attempt
    task_id: int | None
    outcome: Outcome
    delivery: Delivery
    log_url: str
    times: StageTimes = field(default_factory=StageTimes)
    usage: Usage = field(default_factory=Usage)
    isolation: str = ""
    logs: LogsStored = field(default_factory=lambda: LogsStored(None))
    abandoned_helpers: tuple[str, ...] = ()

    def summary(self) -> dict[str, object]:
        """The job as the summary file shows it; times in seconds, memory in bytes."""
        error = self.outcome.pilot_error
        return {
            "panda_id": self.attempt.panda_id,
            "task_id": self.task_id,
            "attempt": self.attempt.attempt_nr,
            "state": self.outcome.state.value,
            "pilot_error_code": error.code if error else 0,
            "pilot_error_diag": str(error) if error else "",
            "exe_error_code": self.outcome.exe_error_code or 0,
            "trans_exit_code": self.outcome.trans_exit_code,
            "log_url": self.log_url,
            "isolation": self.isolation,
            "cpu_s": round(self.usage.cpu_s, 3),
            "max_pss_bytes": self.usage.max_pss_bytes,
            "stages_s": {
                name: round(getattr(self.times, f"{name}_s"), 3)
                for name in ("stage_in", "payload", "stage_out", "log", "report")
            },
        }


@dataclass
class JobNotes:
    """Written by the job's own thread. ``end`` None: no payload has run here; ``sources``: where inputs can be had, by LFN."""

    attempt: Attempt
    parsed: Job | MalformedJob
    identity: Identity
    log_url: str
    times: StageTimes
    usage: Usage = field(default_factory=Usage)
    isolation: str = ""
    end: PayloadEnd | None = None
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: tuple[StagedFile, ...] = ()
    outputs: tuple[FileReport, ...] = ()
    started_at: datetime = field(default_factory=utc_now)
    _born_s: float = field(default_factory=monotonic_s)
    _began_s: dict[str, float] = field(default_factory=dict)
    _events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def job(self) -> Job | None:
        """None when its definition could not be understood."""
        return self.parsed if isinstance(self.parsed, Job) else None

    def timed(self, stage: str, body: Callable[[], T]) -> T:
        """What ``body`` gives, its time noted; ``stage``: a field of StageTimes."""
        started_s, name = monotonic_s(), stage.removesuffix("_s")
        self._began_s[stage] = started_s - self._born_s
        board.stage(name)
        try:
            return body()
        finally:
            took_s = monotonic_s() - started_s
            self.times = replace(self.times, **{stage: took_s})
            counts.observe(STAGES, took_s, name)

    def happened(self, text: str) -> None:
        """Something at this moment, for the job's page."""
        self._events.append((monotonic_s() - self._born_s, text))

    # --- told ---------------------------------------------------------------------------------------------------------

    def fields(self, state: JobState) -> dict[str, FieldValue]:
        """What every update of the job says."""
        fields = update_fields(self.attempt, state, self.identity, self.log_url)
        fields["start_time"] = server_time(self.started_at)
        return fields

    def account(self, outcome: Outcome) -> Account:
        """All that is known of the job by now."""
        end = self.end
        return Account(
            self.attempt,
            self.parsed,
            outcome,
            self.identity,
            acquired_at_s=self.started_at.timestamp(),
            times=self.times,
            begins_s=self._began_s.copy(),
            usage=self.usage,
            points=end.history if end else (),
            limits=end.limits if end else None,
            isolation=self.isolation,
            image=end.image if end else "",
            outputs=self.outputs,
            took_s={file.lfn: file.took_s for file in self.inputs} | {file.lfn: file.took_s for file in self.outputs},
            first_error=(end.first_error or "") if end else "",
            traceback=end.traceback if end else "",
            error_in=("payload-log.json" if end.traceback else "payload.stderr") if end and end.first_error else "",
            events=tuple(self._events),
            log_url=self.log_url,
        )

    def record(self, outcome: Outcome, delivery: Delivery, logs: LogsStored, abandoned: tuple[str, ...]) -> JobRecord:
        """What is left when it is over. ``abandoned``: helpers that did not end."""
        task_id = self.job.task_id if self.job else None
        told = (self.log_url, self.times, self.usage, self.isolation)
        return JobRecord(self.attempt, task_id, outcome, delivery, *told, logs, abandoned)

    def at(self, logs: Path) -> JobAt:
        """The job as people see it while it runs. ``logs``: the folder they grow in."""
        now_s = monotonic_s()
        return JobAt(
            panda_id=self.attempt.panda_id,
            attempt_nr=self.attempt.attempt_nr,
            task_id=self.job.task_id if self.job else None,
            name=self.job.name if self.job else "",
            log_url=self.log_url,
            logs=logs,
            stage="starting",
            began_s=now_s,
            stage_began_s=now_s,
        )
