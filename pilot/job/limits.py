"""A job's limits: Limits and a Sample -> Breach or None; and how soon to look again. Pure; the monitor does the looking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Job
from pilot.job.queue import Queue

STDOUT_LIMIT_BYTES = 2 << 30  # the established pilot's: what a person can still open
OUTPUT_LIMIT_BYTES = 500 << 30  # of one output file; the established pilot's
LOOPING_LIMIT_S = 7200.0
MAX_PROCESSES = 4096
MAX_INODES = 1_000_000
POD_MARGIN = 0.95  # the kernel takes the pilot along when the pod's own limit is hit, so the payload must go before
JOB_MEMORY_PARAM = "job_minramcount"  # CRIC params: Harvester sizes the pod by the job's minRamCount, not by maxrss


class BreachKind(Enum):
    """Which limit was exceeded."""

    CONTAINER_MEMORY = "container memory"  # no time to be polite: the kernel is next
    MEMORY = "memory"
    WALLTIME = "walltime"
    WORKDIR = "workdir"
    STDOUT = "stdout"
    OUTPUT = "output"
    PROCESSES = "processes"
    LOOPING = "looping"


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What the operator sets. Bytes and seconds; 0 and None: no limit.

    ``container_memory_bytes``: the container's own memory limit; ``disk_limit_bytes``: the pod's disk ceiling.
    ``absent_container_bytes``: the memory limit of a container that is not here, where a job is run again: what it would use
    cannot be measured, so the payload's own memory is held to it.
    """

    container_memory_bytes: int | None = None
    absent_container_bytes: int | None = None
    disk_limit_bytes: int | None = None
    looping_s: float = LOOPING_LIMIT_S
    max_processes: int = MAX_PROCESSES
    max_inodes: int = MAX_INODES
    max_stdout_bytes: int = STDOUT_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """What a payload may use; None: no limit. ``sources`` says in words where a limit comes from, by the field's name."""

    memory_bytes: int | None = None
    walltime_s: float | None = None
    workdir_bytes: int | None = None
    stdout_bytes: int | None = STDOUT_LIMIT_BYTES
    looping_s: float | None = None
    container_bytes: int | None = None
    inodes: int | None = None
    output_bytes: int | None = OUTPUT_LIMIT_BYTES
    processes: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured at one moment. None: not measured.

    ``memory_bytes``: PSS of the tree where readable, else RSS (``memory_kind`` says which); ``container_bytes``: what the
    kernel holds against the container's limit and cannot drop at once; ``quiet_s``: since the payload last wrote anything
    or used a processor.
    """

    elapsed_s: float
    memory_bytes: int | None = None
    workdir_bytes: int | None = None
    stdout_bytes: int | None = None
    quiet_s: float | None = None
    container_bytes: int | None = None
    inodes: int | None = None
    output_bytes: int | None = None
    processes: int | None = None
    memory_kind: str = "PSS"


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that was exceeded, with the diagnosis the server gets."""

    kind: BreachKind
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class _Bound:
    most: float
    source: str


def limits_for(job: Job, queue: Queue, settings: LimitSettings | None = None) -> Limits:
    """CRIC's limits with their graces, the job's own, the container's less a margin, and the operator's.

    Memory: ``maxrss`` x ``pilot_rss_grace``; ``minRamCount`` x the same, where the queue has ``job_minramcount`` (its pods are
    then cut to the job's size) or no ``maxrss``. Work folder: ``maxwdir`` x ``pilot_maxwdir_grace``, and the pod's disk limit
    less a margin. Wall time: the job's ``maxWalltime`` x ``pilot_walltime_grace``, and the queue's ``maxtime``.
    """
    settings = settings or LimitSettings()
    found = {
        "memory_bytes": _memory(job, queue, settings.absent_container_bytes),
        "container_bytes": _with_margin("the container's memory limit", settings.container_memory_bytes),
        "walltime_s": _walltime(job, queue),
        "workdir_bytes": _workdir(queue, settings.disk_limit_bytes),
        "looping_s": _Bound(settings.looping_s, "--looping-s") if settings.looping_s and job.looping_check else None,
        "inodes": _Bound(settings.max_inodes, "--max-inodes") if settings.max_inodes else None,
        "processes": _Bound(settings.max_processes, "--max-processes") if settings.max_processes else None,
        "stdout_bytes": _Bound(settings.max_stdout_bytes, "--max-stdout-mib") if settings.max_stdout_bytes else None,
    }
    return Limits(
        memory_bytes=_whole(found["memory_bytes"]),
        walltime_s=found["walltime_s"].most if found["walltime_s"] else None,
        workdir_bytes=_whole(found["workdir_bytes"]),
        looping_s=found["looping_s"].most if found["looping_s"] else None,
        container_bytes=_whole(found["container_bytes"]),
        inodes=_whole(found["inodes"]),
        processes=_whole(found["processes"]),
        stdout_bytes=_whole(found["stdout_bytes"]),
        output_bytes=output_limit_bytes(queue),
        sources={name: bound.source for name, bound in found.items() if bound},
    )


def output_limit_bytes(queue: Queue) -> int:
    """What one output file may have, holes counted: no more than the queue's work folder could hold, were it written out."""
    most_bytes = queue.max_workdir_bytes
    return OUTPUT_LIMIT_BYTES if most_bytes is None else min(OUTPUT_LIMIT_BYTES, int(most_bytes * queue.workdir_grace))


def breach(limits: Limits, sample: Sample) -> Breach | None:
    """The first limit the sample exceeds, the most urgent first; None when it keeps to all of them."""
    return (
        _memory_breach(limits, sample)
        or _time_breach(limits, sample)
        or _disk_breach(limits, sample)
        or _life_breach(limits, sample)
    )


def next_look_s(used: float, limit: float, growth_per_s: float, least_growth_per_s: float) -> float:
    """Seconds until the next look at something that grows: half of what it needs to reach its limit at that growth.

    ``least_growth_per_s`` is assumed of what has not grown lately: a sleeper may wake.
    """
    return max(0.0, limit - used) / (2 * max(growth_per_s, least_growth_per_s))


def _memory(job: Job, queue: Queue, absent_container_bytes: int | None) -> _Bound | None:
    asked, pod = job.resources.min_ram_bytes, _with_margin("the memory limit of the job's pod", absent_container_bytes)
    bounds = [pod] if pod else []
    if queue.max_rss_bytes:
        bounds.append(
            _times(f"maxrss {_mb(queue.max_rss_bytes)} of queue {queue.name}", queue.max_rss_bytes, queue.rss_grace)
        )
    if asked and (not queue.max_rss_bytes or queue.params.get(JOB_MEMORY_PARAM) is True):
        bounds.append(_times(f"minRamCount {_mb(asked)} of the job", asked, queue.rss_grace))
    return _smallest(bounds)


def _walltime(job: Job, queue: Queue) -> _Bound | None:
    own, bounds = job.resources.max_walltime_s, []
    if own:
        bounds.append(_times(f"maxWalltime {own} s of the job", own, queue.walltime_grace))
    if queue.max_time_s:
        bounds.append(_Bound(queue.max_time_s, f"maxtime of queue {queue.name}"))
    return _smallest(bounds)


def _workdir(queue: Queue, disk_limit_bytes: int | None) -> _Bound | None:
    ceiling = _with_margin("the pod's disk limit", disk_limit_bytes)
    bounds = [ceiling] if ceiling else []
    if queue.max_workdir_bytes:
        source = f"maxwdir {_mb(queue.max_workdir_bytes)} of queue {queue.name}"
        bounds.append(_times(source, queue.max_workdir_bytes, queue.workdir_grace))
    return _smallest(bounds)


def _with_margin(name: str, limit_bytes: int | None) -> _Bound | None:
    return _times(f"{name} {_mb(limit_bytes)}", limit_bytes, POD_MARGIN) if limit_bytes else None


def _times(source: str, value: float, factor: float) -> _Bound:
    return _Bound(value * factor, source if factor == 1 else f"{source} x {factor:g}")


def _smallest(bounds: list[_Bound]) -> _Bound | None:
    return min(bounds, key=lambda bound: bound.most, default=None)


def _whole(bound: _Bound | None) -> int | None:
    return None if bound is None else int(bound.most)


def _memory_breach(limits: Limits, sample: Sample) -> Breach | None:
    if _over(sample.container_bytes, limits.container_bytes):
        text = f"the container uses {_mb(sample.container_bytes, up=True)}, {_mb(limits.container_bytes)} allowed"
        return _breach(
            limits, BreachKind.CONTAINER_MEMORY, PilotError.PAYLOAD_EXCEEDED_MAX_MEM, "container_bytes", text
        )
    if _over(sample.memory_bytes, limits.memory_bytes):
        kind = sample.memory_kind
        text = f"the payload uses {_mb(sample.memory_bytes, up=True)} ({kind}), {_mb(limits.memory_bytes)} allowed"
        return _breach(limits, BreachKind.MEMORY, PilotError.PAYLOAD_EXCEEDED_MAX_MEM, "memory_bytes", text)
    return None


def _time_breach(limits: Limits, sample: Sample) -> Breach | None:
    if not _over(sample.elapsed_s, limits.walltime_s):
        return None
    text = f"the payload ran for {math.ceil(sample.elapsed_s)} s, {limits.walltime_s or 0:.0f} s allowed"
    return _breach(limits, BreachKind.WALLTIME, PilotError.REACHED_MAX_TIME, "walltime_s", text)


def _disk_breach(limits: Limits, sample: Sample) -> Breach | None:
    if _over(sample.workdir_bytes, limits.workdir_bytes):
        text = f"{_mb(sample.workdir_bytes, up=True)} in the work folder, {_mb(limits.workdir_bytes)} allowed"
        return _breach(limits, BreachKind.WORKDIR, PilotError.WORKDIR_TOO_LARGE, "workdir_bytes", text)
    if _over(sample.inodes, limits.inodes):
        text = f"{sample.inodes} files and folders in the work folder, {limits.inodes} allowed"
        return _breach(limits, BreachKind.WORKDIR, PilotError.WORKDIR_TOO_LARGE, "inodes", text)
    if _over(sample.stdout_bytes, limits.stdout_bytes):
        text = f"{_mb(sample.stdout_bytes, up=True)} written to stdout or stderr, {_mb(limits.stdout_bytes)} allowed"
        return _breach(limits, BreachKind.STDOUT, PilotError.STDOUT_TOO_BIG, "stdout_bytes", text)
    if _over(sample.output_bytes, limits.output_bytes):
        text = f"an output file has {_mb(sample.output_bytes, up=True)}, {_mb(limits.output_bytes)} allowed"
        return _breach(limits, BreachKind.OUTPUT, PilotError.OUTPUT_FILE_TOO_LARGE, "output_bytes", text)
    return None


def _life_breach(limits: Limits, sample: Sample) -> Breach | None:
    if _over(sample.processes, limits.processes):
        text = f"the payload has {sample.processes} processes, {limits.processes} allowed"
        return _breach(limits, BreachKind.PROCESSES, PilotError.PAYLOAD_EXECUTION_FAILURE, "processes", text)
    if _over(sample.quiet_s, limits.looping_s):
        text = f"nothing written and no CPU used for {sample.quiet_s or 0:.0f} s, {limits.looping_s or 0:.0f} s allowed"
        return _breach(limits, BreachKind.LOOPING, PilotError.LOOPING_JOB, "looping_s", text)
    return None


def _breach(limits: Limits, kind: BreachKind, error: PilotError, name: str, text: str) -> Breach:
    source = limits.sources.get(name)
    return Breach(kind, Diagnosis(error, f"{text} ({source})" if source else text))


def _over(used: float | None, allowed: float | None) -> bool:
    return used is not None and allowed is not None and used > allowed


def _mb(size_bytes: int | None, *, up: bool = False) -> str:
    """Whole MB. A use is rounded up and a limit down, so that what is too much also looks it."""
    size_mb = (size_bytes or 0) / (1 << 20)
    return f"{math.ceil(size_mb) if up else math.floor(size_mb)} MB"
