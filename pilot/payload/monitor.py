"""Watching a payload: sample its process tree, keep peaks and averages, and stop it when it exceeds a limit.

Cheap by design: one pass over /proc per sample, PSS (which makes the kernel walk page tables) only now and then, and
pauses that grow from 50 ms to 5 s, so that a short job has a peak and a long one costs next to nothing; near a limit they
shrink again. The container's own memory, where the kernel's patience ends, has a watch of its own (container_watch.py).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import add, sub
from pathlib import Path
from typing import NamedTuple

from pilot.job.history import History, UsagePoint
from pilot.job.limits import Breach, BreachKind, Limits, Sample, breach, next_look_s
from pilot.job.report import Usage
from pilot.payload import procfs
from pilot.payload.activity import CPU_WINDOW_S, Activity, FolderUse, folder_use, size_bytes
from pilot.payload.cgroup import MemoryGroup
from pilot.payload.container_watch import ContainerWatch
from pilot.payload.leftovers import write_last_sample
from pilot.payload.process import PayloadProcess
from pilot.payload.procfs import Process
from pilot.runtime.clock import monotonic_s
from pilot.runtime.probe import Point, probe
from pilot.runtime.progress import PayloadAt, board
from pilot.runtime.stop import Stop, StopKind, StopReason

logger = logging.getLogger("pilot.monitor")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
PAUSE_GROWTH = 1.8
CLOSEST_PAUSE_S = 0.5  # right at the memory limit
LEAST_GROWTH_PER_S = 100 << 20  # assumed of memory that has not grown lately
LEAST_WRITING_PER_S = 200 << 20  # and of the work folder
PSS_SHARE = 20.0  # PSS is read again after this many times the time its last reading took
FOLDER_PAUSE_S = 30.0
FOLDER_SHARE = 50.0
_NOTHING: tuple[float, ...] = (0.0,) * 6  # of an account
SUMMARY_NAME = "memory_monitor_summary.json"  # prmon's names: the monitor's plots look for them
OUTPUT_NAME = "memory_monitor_output.txt"

# prmon's columns. Memory in kB, traffic in bytes, times in seconds.
_COLUMNS = (
    "Time",
    "wtime",
    "utime",
    "stime",
    "nprocs",
    "nthreads",
    "vmem",
    "pss",
    "rss",
    "swap",
    "rchar",
    "wchar",
    "read_bytes",
    "write_bytes",
)
_COUNTERS = frozenset({"wtime", "utime", "stime", "rchar", "wchar", "read_bytes", "write_bytes"})


@dataclass(frozen=True, slots=True)
class TreeSample:
    """The process tree at one moment, summed. Traffic and CPU grow; ended processes stay counted."""

    time_s: float
    elapsed_s: float
    processes: int
    threads: int
    rss_bytes: int
    pss_bytes: int | None
    vmem_bytes: int
    swap_bytes: int
    user_s: float
    system_s: float
    rchar: int
    wchar: int
    read_bytes: int
    written_bytes: int

    @property
    def memory_bytes(self) -> int:
        """What counts against the limit: shared pages once, where the kernel tells."""
        return self.rss_bytes if self.pss_bytes is None else self.pss_bytes

    def point(self, disk_bytes: int | None, container_bytes: int | None) -> UsagePoint:
        """The sample as a point of the history, with what was last seen of the work folder and the container."""
        return UsagePoint(
            elapsed_s=self.elapsed_s,
            memory_bytes=self.memory_bytes,
            rss_bytes=self.rss_bytes,
            swap_bytes=self.swap_bytes,
            container_bytes=container_bytes,
            disk_bytes=disk_bytes,
            vmem_bytes=self.vmem_bytes,
            cpu_s=self.user_s + self.system_s,
            system_s=self.system_s,
            read_bytes=self.rchar,
            written_bytes=self.wchar,
            disk_read_bytes=self.read_bytes,
            disk_written_bytes=self.written_bytes,
            processes=self.processes,
            threads=self.threads,
        )


def prmon_row(point: UsagePoint, began_at_s: float) -> dict[str, float]:
    """A point in prmon's names and units. ``began_at_s``: when the payload was started, in seconds since 1970."""
    return {
        "Time": int(began_at_s + point.elapsed_s),
        "wtime": round(point.elapsed_s),
        "utime": round(point.cpu_s - point.system_s),
        "stime": round(point.system_s),
        "nprocs": point.processes,
        "nthreads": point.threads,
        "vmem": point.vmem_bytes // 1024,
        "pss": point.memory_bytes // 1024,
        "rss": point.rss_bytes // 1024,
        "swap": point.swap_bytes // 1024,
        "rchar": point.read_bytes,
        "wchar": point.written_bytes,
        "read_bytes": point.disk_read_bytes,
        "write_bytes": point.disk_written_bytes,
    }


class _Seen(NamedTuple):
    """A process as it was last seen: what tells it from another of its pid, its parent, its account."""

    key: tuple[int, int]
    ppid: int
    account: tuple[float, ...]


@dataclass(slots=True)
class _Peaks:
    """Running maxima and time-weighted sums of the four memory figures."""

    highest: dict[str, int] = field(default_factory=dict)
    weighted: dict[str, float] = field(default_factory=dict)
    weight_s: float = 0.0

    def add(self, figures: dict[str, int], seconds: float) -> None:
        for name, value in figures.items():
            self.highest[name] = max(self.highest.get(name, 0), value)
            self.weighted[name] = self.weighted.get(name, 0.0) + value * seconds
        self.weight_s += seconds

    def average(self, name: str) -> int:
        return round(self.weighted.get(name, 0.0) / self.weight_s) if self.weight_s else self.highest.get(name, 0)


class Monitor:
    """Samples one payload on a thread of its own, from ``start`` to ``finish``. ``usage`` may be asked at any time."""

    def __init__(
        self,
        process: PayloadProcess,
        limits: Limits,
        scope: Stop,
        folders: tuple[Path, ...],
        outputs: tuple[Path, ...],
        infrastructure: Callable[[Process], bool] = lambda _process: False,
        *,
        declared: tuple[Path, ...] = (),
        group: MemoryGroup | None = None,
        record: Path | None = None,
        eyes: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``outputs``: stdout and stderr; ``declared``: the output files the job is to make; ``record``: where the
        container's memory is kept for a successor, should the kernel take the pilot along; ``eyes``: inside it this
        thread sees what another user keeps to itself."""
        self._process, self._limits, self._scope = process, limits, scope
        self._folders, self._outputs, self._infrastructure = folders, outputs, infrastructure
        self._declared, self._group, self._record, self._eyes = declared, group, record, eyes
        self._lock = threading.Lock()
        self._peaks = _Peaks()
        self._history = History()
        self._living: dict[int, _Seen] = {}  # by pid, as last seen
        self._ended = _NOTHING  # CPU and traffic of those that have ended, and that no living one has taken over
        self._last: TreeSample | None = None
        self._pss_due_s, self._folder_due_s = 0.0, FIRST_PAUSE_S * 4
        self._pss_last: tuple[int, int] | None = None  # PSS and the RSS it was measured at
        self._pss_seen = False
        self._folder, self._folder_seen_s = FolderUse(), 0.0
        self._activity = Activity(min(CPU_WINDOW_S, (limits.looping_s or CPU_WINDOW_S) / 4))
        self._container_bytes: int | None = None
        self._container_last: int | None = None
        self._container_high: int | None = None  # since the last sample
        self._nudged, self._finished = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._watch = (
            ContainerWatch(group, limits.container_bytes, self._container_looked)
            if group is not None and limits.container_bytes is not None
            else None
        )
        self.breach: Breach | None = None

    def start(self) -> None:
        if self._watch is not None:
            self._watch.start()
        self._thread.start()

    def finish(self, bound_s: float = 5.0) -> bool:
        """End the sampling; False when a thread did not end within the bound."""
        self._finished.set()
        self._nudged.set()
        watch_ended = self._watch is None or self._watch.finish(bound_s)
        if self._thread.ident is not None:  # else no thread was to be had
            self._thread.join(bound_s)
        return watch_ended and not self._thread.is_alive()

    @property
    def last(self) -> TreeSample | None:
        """The newest sample, for people who watch."""
        return self._last

    @property
    def history(self) -> tuple[UsagePoint, ...]:
        """What was used over time, so far."""
        with self._lock:
            return self._history.points

    def usage(self, cpu_s: float | None = None, max_single_rss_bytes: int = 0) -> Usage:
        """Peaks and averages so far. ``cpu_s`` and ``max_single_rss_bytes`` are the kernel's own account, at the end."""
        with self._lock:
            peaks, last = self._peaks, self._last
            sampled_cpu_s = last.user_s + last.system_s if last else 0.0
            rss = max(peaks.highest.get("rss", 0), max_single_rss_bytes)
            pss = peaks.highest.get("pss", 0) if self._pss_seen else rss
            return Usage(
                cpu_s=sampled_cpu_s if cpu_s is None else cpu_s,
                max_rss_bytes=rss,
                max_pss_bytes=min(pss, rss) if self._pss_seen else rss,
                max_vmem_bytes=peaks.highest.get("vmem", 0),
                max_swap_bytes=peaks.highest.get("swap", 0),
                avg_rss_bytes=peaks.average("rss"),
                avg_pss_bytes=peaks.average("pss"),
                avg_vmem_bytes=peaks.average("vmem"),
                avg_swap_bytes=peaks.average("swap"),
                read_bytes=last.read_bytes if last else 0,
                written_bytes=last.written_bytes if last else 0,
                pss_is_rss=not self._pss_seen,
            )

    # --- sampling -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._sample_on()
        except (OSError, ValueError, LookupError) as error:
            logger.error("the monitor failed", exc_info=error)
            self._scope.request(StopReason(StopKind.INTERNAL, f"monitor failed: {type(error).__name__}: {error}"))

    def _sample_on(self) -> None:
        pause_s = FIRST_PAUSE_S
        due_s = monotonic_s() + pause_s
        while True:
            self._nudged.wait(max(0.0, due_s - monotonic_s()))
            self._nudged.clear()
            if self._finished.is_set():
                return
            self._keep_record()
            if monotonic_s() < due_s:
                continue
            with self._eyes():
                sample = self._take()
            before = self._last
            if (
                sample.processes
            ):  # before a container's first process, and after the last, there is time alone to be judged
                self._remember(sample)
            self._judge(sample)
            pause_s = self._next_pause_s(pause_s, sample, before)
            due_s = monotonic_s() + pause_s

    def _next_pause_s(self, pause_s: float, sample: TreeSample, before: TreeSample | None) -> float:
        limit, walltime_s = self._limits.memory_bytes, self._limits.walltime_s
        longest_s = LONGEST_PAUSE_S
        if walltime_s is not None:  # its end is known
            longest_s = min(longest_s, max(walltime_s - sample.elapsed_s, 0.0) + FIRST_PAUSE_S)
        if limit is not None:
            past_s = sample.elapsed_s - before.elapsed_s if before else sample.elapsed_s
            grown = sample.memory_bytes - (before.memory_bytes if before else 0)
            due_s = next_look_s(sample.memory_bytes, limit, grown / max(past_s, 0.01), LEAST_GROWTH_PER_S)
            longest_s = min(longest_s, max(due_s, CLOSEST_PAUSE_S))
        return min(pause_s * PAUSE_GROWTH, longest_s)

    def _take(self) -> TreeSample:
        members = self._process.members()
        self._process.collect_orphans(members)
        counted = [p for p in members if not p.zombie and not self._infrastructure(p)]
        elapsed_s = monotonic_s() - self._process.started_at_s
        rss = sum(p.rss_bytes for p in counted)
        pss, swap = self._pss(counted, rss, elapsed_s)
        totals = self._accumulate(counted)
        return TreeSample(
            time_s=time.time(),
            elapsed_s=elapsed_s,
            processes=len(counted),
            threads=sum(p.threads for p in counted),
            rss_bytes=rss,
            pss_bytes=pss,
            vmem_bytes=sum(p.vmem_bytes for p in counted),
            swap_bytes=swap,
            user_s=totals[0],
            system_s=totals[1],
            rchar=int(totals[2]),
            wchar=int(totals[3]),
            read_bytes=int(totals[4]),
            written_bytes=int(totals[5]),
        )

    def _accumulate(self, counted: list[Process]) -> list[float]:
        """CPU and traffic of all processes ever seen, with what the living ones took over from children they waited for.

        The kernel adds a child's account to its parent's when it is waited for: what a parent has grown by is not counted
        again as the last that was seen of its ended children.
        """
        now = {p.pid: _Seen(p.key, p.ppid, _account_of(p)) for p in counted}
        gone = {pid: seen for pid, seen in self._living.items() if pid not in now or now[pid].key != seen.key}
        grown = {
            pid: tuple(map(sub, now[pid].account, seen.account))
            for pid, seen in self._living.items()
            if pid not in gone
        }
        left: dict[int, list[tuple[float, ...]]] = {}
        for seen in gone.values():
            left.setdefault(_nearest_living(seen.ppid, gone), []).append(seen.account)
        for ancestor, accounts in left.items():
            taken_over = grown.get(ancestor, _NOTHING)
            lost = (max(0.0, sum(each) - taken) for *each, taken in zip(*accounts, taken_over, strict=True))
            self._ended = tuple(map(add, self._ended, lost))
        self._living = now
        return [sum(figures) for figures in zip(self._ended, *(seen.account for seen in now.values()), strict=True)]

    def _pss(self, counted: list[Process], rss: int, elapsed_s: float) -> tuple[int | None, int]:
        """PSS and swap of the tree. Between two readings PSS is taken to move with RSS, but never over the limit unread."""
        if self._pss_last is None or elapsed_s >= self._pss_due_s or self._pss_is_over(rss):
            begun_s = monotonic_s()
            read = [(p, procfs.pss_and_swap_bytes(p.pid)) for p in counted]
            known = [figures for _, figures in read if figures is not None]
            hiding = [p for p, figures in read if figures is None and _has_memory(p)]
            took_s = monotonic_s() - begun_s
            self._pss_due_s = elapsed_s + max(took_s * PSS_SHARE, LONGEST_PAUSE_S if elapsed_s > 10 else 0.0)
            if len(known) > len(hiding):  # a few that hide theirs count with their RSS
                hidden = sum(p.rss_bytes for p in hiding)
                pss = sum(f[0] for f in known) + hidden
                # Those that ended meanwhile are left out of both: what they shared is counted once, and theirs no more.
                at_rss = sum(p.rss_bytes for p, figures in read if figures is not None) + hidden
                self._pss_seen, self._pss_last = True, (pss, at_rss)
                self._swap_last = sum(f[1] for f in known)
                return pss, self._swap_last
            if not hiding and self._pss_last is not None:  # all have ended
                return 0, 0
        if self._pss_last is None:
            return None, 0
        return self._pss_from(rss), self._swap_last

    def _pss_from(self, rss: int) -> int:
        pss, at_rss = self._pss_last or (rss, rss)
        return max(0, min(rss, pss + (rss - at_rss)))

    def _pss_is_over(self, rss: int) -> bool:
        limit = self._limits.memory_bytes
        return limit is not None and self._pss_from(rss) > limit

    _swap_last = 0

    def _remember(self, sample: TreeSample) -> None:
        figures = {
            "rss": sample.rss_bytes,
            "pss": sample.memory_bytes,
            "vmem": sample.vmem_bytes,
            "swap": sample.swap_bytes,
        }
        with self._lock:
            before_s = self._last.elapsed_s if self._last else 0.0
            self._peaks.add(figures, sample.elapsed_s - before_s)
            self._last = sample
            disk_bytes = self._folder.used_bytes if self._folder_seen_s else None
            self._history.add(sample.point(disk_bytes, self._container_high))
            self._container_high = self._container_last
        self._publish(sample, disk_bytes)

    def _publish(self, sample: TreeSample, disk_bytes: int | None) -> None:
        limits = self._limits
        board.payload = PayloadAt(
            elapsed_s=sample.elapsed_s,
            memory_bytes=sample.memory_bytes,
            cpu_s=sample.user_s + sample.system_s,
            processes=sample.processes,
            memory_limit_bytes=limits.memory_bytes,
            walltime_limit_s=limits.walltime_s,
            container_bytes=self._container_last,
            container_limit_bytes=limits.container_bytes,
            workdir_bytes=disk_bytes,
            workdir_limit_bytes=limits.workdir_bytes,
        )

    def _judge(self, sample: TreeSample) -> None:
        if self.breach is not None or self._scope.is_set():
            return
        scanned = self._scan(sample.elapsed_s)
        figures = self._figures(sample)
        if self._over_quiet(figures) and not scanned:  # not on old figures of the folder
            self._scan(sample.elapsed_s, now=True)
            figures = self._figures(sample)
        found = breach(self._limits, figures)
        if found is not None:
            self._exceeded(found)

    def _figures(self, sample: TreeSample) -> Sample:
        sizes = tuple(size_bytes(path) for path in self._outputs)
        self._activity.saw_output(sample.elapsed_s, (self._folder, sizes))
        self._activity.saw_cpu(sample.elapsed_s, sample.user_s + sample.system_s)
        return Sample(
            elapsed_s=sample.elapsed_s,
            memory_bytes=sample.memory_bytes,
            workdir_bytes=self._folder.used_bytes,
            stdout_bytes=max(sizes, default=0),
            quiet_s=self._activity.quiet_s(sample.elapsed_s),
            container_bytes=sample.memory_bytes if self._watch is None else None,
            inodes=self._folder.entries,
            output_bytes=max((size_bytes(path) for path in self._declared), default=0),
            processes=sample.processes,
            memory_kind="PSS" if sample.pss_bytes is not None else "RSS; the kernel does not show PSS",
        )

    def _over_quiet(self, figures: Sample) -> bool:
        limit_s = self._limits.looping_s
        return limit_s is not None and figures.quiet_s is not None and figures.quiet_s > limit_s

    def _scan(self, elapsed_s: float, *, now: bool = False) -> bool:
        """Look through the work folder when it is time: sooner the nearer its limit, and never for a large part of the time."""
        if elapsed_s < self._folder_due_s and not now:
            return False
        begun_s = monotonic_s()
        with self._eyes():
            found = folder_use(self._folders, self._finished.is_set, self._limits.inodes or 0)
        took_s = monotonic_s() - begun_s
        growth_per_s = (found.used_bytes - self._folder.used_bytes) / max(elapsed_s - self._folder_seen_s, 0.01)
        self._folder, self._folder_seen_s = found, elapsed_s
        pause_s = min(FOLDER_PAUSE_S, max(elapsed_s, FIRST_PAUSE_S))  # often at first, for quick writers
        if self._limits.workdir_bytes is not None:
            pause_s = min(
                pause_s, next_look_s(found.used_bytes, self._limits.workdir_bytes, growth_per_s, LEAST_WRITING_PER_S)
            )
        self._folder_due_s = elapsed_s + max(took_s * FOLDER_SHARE, pause_s)
        return True

    def _container_looked(self, used_bytes: int) -> None:
        """The container's memory has moved, or is too large; called on the watch's own thread."""
        self._container_bytes = used_bytes
        with self._lock:
            self._container_last = used_bytes
            self._container_high = max(used_bytes, self._container_high or 0)
        elapsed_s = monotonic_s() - self._process.started_at_s
        found = breach(self._limits, Sample(elapsed_s, container_bytes=used_bytes))
        if found is not None and found.kind is BreachKind.CONTAINER_MEMORY:
            self._exceeded(found)
        self._nudged.set()

    def _exceeded(self, found: Breach) -> None:
        """Stop the payload; the first breach is the one that is told."""
        with self._lock:
            if self.breach is not None or self._scope.is_set():
                return
            self.breach = found
        probe(Point.BREACH_SEEN)
        self._scope.request(StopReason(StopKind.LIMIT, found.diagnosis.detail))

    def _keep_record(self) -> None:
        """What a successor reads when kernel and pilot were both gone; on a full disk it has to do without."""
        if self._record is not None and self._group is not None and self._container_bytes is not None:
            write_last_sample(self._record, self._container_bytes, self._group.limit_bytes)
            self._container_bytes = None

    # --- prmon's files ------------------------------------------------------------------------------------------------

    def write_files(self, folder: Path) -> None:
        """prmon's summary and table, unless the payload made them itself. Raises OSError.

        A payload that ended before the first sample has them too, with one row of zeros: the monitor's links must not be dead.
        """
        with self._lock:
            began_at_s = self._last.time_s - self._last.elapsed_s if self._last else 0.0
        rows = [prmon_row(point, began_at_s) for point in self.history]
        if not rows:
            rows.append({**dict.fromkeys(_COLUMNS, 0.0), "Time": int(time.time())})
        table = "\n".join(["\t".join(_COLUMNS), *("\t".join(f"{row[c]:.0f}" for c in _COLUMNS) for row in rows)])
        _create(folder / OUTPUT_NAME, table + "\n")
        _create(folder / SUMMARY_NAME, json.dumps(self._summary(rows), indent=4) + "\n")

    def _summary(self, rows: list[dict[str, float]]) -> dict[str, object]:
        usage, last = self.usage(), rows[-1]
        highest = {name: max(row[name] for row in rows) for name in _COLUMNS if name != "Time"}
        highest |= {"rss": usage.max_rss_bytes // 1024, "pss": usage.max_pss_bytes // 1024}
        highest |= {"vmem": usage.max_vmem_bytes // 1024, "swap": usage.max_swap_bytes // 1024}
        seconds = max(last["wtime"], 1)
        average = {n: round(last[n] / seconds) for n in ("rchar", "wchar", "read_bytes", "write_bytes")}
        average |= {"rss": usage.avg_rss_bytes // 1024, "pss": usage.avg_pss_bytes // 1024}
        average |= {"vmem": usage.avg_vmem_bytes // 1024, "swap": usage.avg_swap_bytes // 1024}
        average |= {n: round(sum(row[n] for row in rows) / len(rows)) for n in ("nprocs", "nthreads")}
        memory = os.sysconf("SC_PHYS_PAGES") * procfs.PAGE_BYTES // 1024
        return {"Max": highest, "Avg": average, "HW": {"cpu": {"CPUs": os.cpu_count()}, "mem": {"MemTotal": memory}}}


def _account_of(process: Process) -> tuple[float, ...]:
    """User and system seconds, rchar, wchar, bytes read and written; of its own and of the children it waited for."""
    user_s, system_s = process.user_s + process.waited_user_s, process.system_s + process.waited_system_s
    return (user_s, system_s, *(procfs.io_bytes(process.pid) or (0, 0, 0, 0)))


def _nearest_living(pid: int, gone: Mapping[int, _Seen]) -> int:
    """Whoever may have waited for it: its parent, or that one's parent when it is gone too."""
    for _ in gone:
        if pid not in gone:
            break
        pid = gone[pid].ppid
    return pid


def _has_memory(process: Process) -> bool:
    """False for one that has ended since it was looked at, or is about to."""
    now = procfs.read_process(process.pid)
    return now is not None and now.key == process.key and not now.zombie and now.vmem_bytes > 0


def _create(path: Path, text: str) -> None:
    """Write a new file; whatever the payload has put there, a link included, is left as it is."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
