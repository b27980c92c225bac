"""The metrics in Prometheus' text form (version 0.0.4), from the counts and from what stands on the board.

Forty lines of our own and no library (docs/adr/0014): counting must be there before anybody asks, and the rest is this text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import psutil

from pilot.runtime import metrics
from pilot.runtime.metrics import METRICS, Counted, Metric, Spread
from pilot.runtime.progress import Progress

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class About:
    """What a pilot is. ``started_at``: seconds since 1970."""

    version: str
    queue: str
    node: str
    started_at: float


@dataclass(frozen=True, slots=True)
class OwnUse:
    """What the pilot's own process uses."""

    memory_bytes: int
    cpu_s: float

    @classmethod
    def now(cls) -> OwnUse:
        process = psutil.Process()
        with process.oneshot():
            times = process.cpu_times()
            return cls(process.memory_info().rss, times.user + times.system)


def rendered(about: About, progress: Progress, counted: Counted, own: OwnUse, now_s: float, *, up: bool = True) -> str:
    """All metrics as text; one without any series yet is left out. ``now_s``: of the monotonic clock."""
    gauges: dict[Metric, dict[Labels, float]] = defaultdict(dict)
    for metric, labels, value in _gauges(about, progress, own, now_s, up=up):
        gauges[metric][labels] = value
    lines: list[str] = []
    for metric in METRICS:
        series = [
            *(_line(metric.name, metric.labels, labels, value) for labels, value in gauges[metric].items()),
            *(_line(metric.name, metric.labels, key[1], n) for key, n in counted.counters.items() if key[0] is metric),
            *(line for key, s in counted.spreads.items() if key[0] is metric for line in _spread(metric, key[1], s)),
        ]
        if not series and not metric.labels and metric.kind == "counter":
            series = [_line(metric.name, (), (), 0)]
        if series:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *series]
    return "\n".join(lines) + "\n"


def _gauges(
    about: About, progress: Progress, own: OwnUse, now_s: float, *, up: bool
) -> Iterator[tuple[Metric, Labels, float]]:
    yield metrics.INFO, (about.version, about.queue, about.node), 1
    yield metrics.UP, (), int(up)
    yield metrics.OWN_MEMORY, (), own.memory_bytes
    yield metrics.OWN_CPU, (), own.cpu_s
    yield metrics.OWN_START, (), about.started_at
    waits_since_s = progress.report_since_s
    yield metrics.OUTBOX_AGE, (), 0 if waits_since_s is None else now_s - waits_since_s
    for direction in ("in", "out"):
        yield metrics.MOVING, (direction,), sum(file.direction == direction for file in progress.transfers)
    if progress.job is not None:
        job = progress.job
        yield metrics.JOB_INFO, (str(job.panda_id), str(job.attempt_nr), job.stage), 1
        yield metrics.STAGE_AGE, (), now_s - job.stage_began_s
    if progress.heard_s is not None:
        yield metrics.HEARTBEAT_AGE, (), now_s - progress.heard_s
    payload = progress.payload
    if payload is None:
        return
    optional: list[tuple[Metric, Labels, float | None]] = [
        (metrics.MEMORY, ("payload",), payload.memory_bytes),
        (metrics.MEMORY, ("container",), payload.container_bytes),
        (metrics.MEMORY_LIMIT, ("payload",), payload.memory_limit_bytes),
        (metrics.MEMORY_LIMIT, ("container",), payload.container_limit_bytes),
        (metrics.WORKDIR, (), payload.workdir_bytes),
        (metrics.PAYLOAD_CPU, (), payload.cpu_s),
        (metrics.PAYLOAD_PROCESSES, (), payload.processes),
    ]
    yield from ((metric, labels, value) for metric, labels, value in optional if value is not None)


def _spread(metric: Metric, labels: Labels, spread: Spread) -> Iterator[str]:
    """A histogram's series: each bucket counts what is at most its bound."""
    bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
    for bound, count in zip(bounds, accumulate(spread.counts), strict=True):
        yield _line(f"{metric.name}_bucket", (*metric.labels, "le"), (*labels, bound), count)
    yield _line(f"{metric.name}_sum", metric.labels, labels, spread.total)
    yield _line(f"{metric.name}_count", metric.labels, labels, sum(spread.counts))


def _line(name: str, names: Labels, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(names, labels, strict=True))
    shown = str(value) if isinstance(value, int) else f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{name}{{{pairs}}} {shown}" if pairs else f"{name} {shown}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


# --- the documentation's table ----------------------------------------------------------------------------------------


def table() -> str:
    """The metrics as a Markdown table (docs/metrics.md)."""
    rows = ["| name | type | labels | what it is |", "| --- | --- | --- | --- |"]
    rows += [f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |" for m in METRICS]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
