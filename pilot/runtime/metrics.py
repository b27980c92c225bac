"""What is counted: one table of metrics (docs/metrics.md is made from it), and the counts.

Counting is always on: a dictionary entry and an int under a lock that nobody holds for longer, once for a job, a stage, a
file or a request, never in the middle of one. Writing it out for Prometheus is watch/'s, and imported only when asked for.
The values of labels come from closed sets, so that no payload or server can make the table grow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

STAGE_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 60, 300, 900, 3600, 10800, 43200)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; it equals itself alone. ``name`` ends in its unit, as Prometheus has it; ``labels`` tell series apart."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# --- counted where it happens -----------------------------------------------------------------------------------------

JOBS = Metric(
    "pilot_jobs_total",
    "counter",
    "Jobs brought to their end, by final state and pilotErrorCode (0: none).",
    ("state", "code"),
)
STAGES = Metric(
    "pilot_stage_duration_seconds",
    "histogram",
    "How long the stages of jobs took.",
    ("stage",),
    STAGE_BUCKETS_S,
)
ACQUIRES = Metric(
    "pilot_acquire_answers_total",
    "counter",
    "Answers to the question for a job: job, none, or no usable answer (trouble).",
    ("answer",),
)
RECOVERED = Metric(
    "pilot_recovered_jobs_total",
    "counter",
    "Jobs of an earlier pilot on the work volume, brought to their end by this one.",
)
REQUESTS = Metric(
    "pilot_server_requests_total",
    "counter",
    "Requests to the PanDA server, by method and what came of them: ok, no_job, retry (no answer, or an error that may "
    "pass), credentials, refused, other_api, tls (not trusted).",
    ("method", "result"),
)
TRANSFERS = Metric(
    "pilot_transfers_total",
    "counter",
    "Files moved or given up. Purpose: transfer (inputs, outputs, images), log upload, live log. Result: ok, failed, stopped.",
    ("direction", "purpose", "result"),
)
TRANSFERRED = Metric(
    "pilot_transferred_bytes_total",
    "counter",
    "Bytes of files that were moved whole and verified.",
    ("direction", "scheme"),
)
RETRIES = Metric(
    "pilot_transfer_failed_tries_total", "counter", "Tries of a transfer that failed in a way that may pass."
)

# --- looked at when somebody asks -------------------------------------------------------------------------------------

INFO = Metric("pilot_info", "gauge", "Always 1; says what this pilot is.", ("version", "queue", "node"))
UP = Metric("pilot_up", "gauge", "1 while the pilot works, 0 in the last words it leaves in the metrics file.")
JOB_INFO = Metric(
    "pilot_job_info", "gauge", "Always 1, while there is a job in hand; says which.", ("panda_id", "attempt", "stage")
)
STAGE_AGE = Metric("pilot_stage_age_seconds", "gauge", "How long the job in hand has been in its stage.")
HEARTBEAT_AGE = Metric(
    "pilot_heartbeat_age_seconds",
    "gauge",
    "Since the server last took an update of the job in hand (its limit: two hours).",
)
OUTBOX_AGE = Metric(
    "pilot_outbox_age_seconds",
    "gauge",
    "How long a final report has been waiting for its acknowledgement; 0: none waits.",
)
MEMORY = Metric(
    "pilot_payload_memory_bytes",
    "gauge",
    "What the running payload's processes use (kind: payload; PSS where the kernel tells), and the container (container).",
    ("kind",),
)
MEMORY_LIMIT = Metric(
    "pilot_payload_memory_limit_bytes", "gauge", "The limits of the same, where there are any.", ("kind",)
)
WORKDIR = Metric("pilot_payload_workdir_bytes", "gauge", "What the running payload has in its work folder.")
PAYLOAD_CPU = Metric("pilot_payload_cpu_seconds", "gauge", "CPU time of the running payload so far.")
PAYLOAD_PROCESSES = Metric("pilot_payload_processes", "gauge", "Processes of the running payload.")
MOVING = Metric("pilot_transfers_running", "gauge", "Files on their way at this moment.", ("direction",))
OWN_MEMORY = Metric("process_resident_memory_bytes", "gauge", "Resident memory of the pilot itself.")
OWN_CPU = Metric("process_cpu_seconds_total", "counter", "User and system CPU time of the pilot itself.")
OWN_START = Metric("process_start_time_seconds", "gauge", "When the pilot was started, in seconds since 1970.")

METRICS: tuple[Metric, ...] = (
    INFO, UP, JOBS, RECOVERED, ACQUIRES, STAGES, REQUESTS, TRANSFERS, TRANSFERRED, RETRIES, JOB_INFO, STAGE_AGE, HEARTBEAT_AGE,
    OUTBOX_AGE, MEMORY, MEMORY_LIMIT, WORKDIR, PAYLOAD_CPU, PAYLOAD_PROCESSES, MOVING, OWN_MEMORY, OWN_CPU, OWN_START,
)  # fmt: skip

Series = tuple[Metric, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram's series: observations in each bucket (the last: beyond all bounds), and their sum."""

    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts at one moment."""

    counters: Mapping[Series, int] = field(default_factory=dict)
    spreads: Mapping[Series, Spread] = field(default_factory=dict)


class Counts:
    """The counters and histograms of this process."""

    def __init__(self) -> None:
        self._counters: dict[Series, int] = {}
        self._spreads: dict[Series, tuple[list[int], float]] = {}
        self._lock = Lock()

    def add(self, metric: Metric, *labels: str, amount: int = 1) -> None:
        """Count ``amount`` more; ``labels`` in the order of the metric's."""
        with self._lock:
            series = (metric, labels)
            self._counters[series] = self._counters.get(series, 0) + amount

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """One more observation of a histogram."""
        with self._lock:
            series = (metric, labels)
            counts, total = self._spreads.get(series) or ([0] * (len(metric.buckets) + 1), 0.0)
            counts[bisect_left(metric.buckets, value)] += 1
            self._spreads[series] = counts, total + value

    def now(self) -> Counted:
        with self._lock:
            spreads = {series: Spread(tuple(counts), total) for series, (counts, total) in self._spreads.items()}
            return Counted(dict(self._counters), spreads)


counts = Counts()
