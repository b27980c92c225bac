"""A job's limits: Limits and a Sample -> Breach or None. Pure; whoever samples decides how often."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Job
from pilot.job.queue import Queue

STDOUT_LIMIT_BYTES = 2 << 30  # the established pilot's: what a person can still open
LOOPING_LIMIT_S = 7200.0
POD_MARGIN = 0.95  # the kernel takes the pilot along when the pod's own limit is hit, so the payload must go before


class BreachKind(Enum):
    """Which limit was exceeded."""

    MEMORY = "memory"
    WALLTIME = "walltime"
    WORKDIR = "workdir"
    STDOUT = "stdout"
    LOOPING = "looping"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a payload may use. None: no limit."""

    memory_bytes: int | None = None
    walltime_s: float | None = None
    workdir_bytes: int | None = None
    stdout_bytes: int | None = STDOUT_LIMIT_BYTES
    looping_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured at one moment. ``memory_bytes``: PSS of the tree where readable, else RSS. None: not measured."""

    elapsed_s: float
    memory_bytes: int | None = None
    workdir_bytes: int | None = None
    stdout_bytes: int | None = None
    quiet_s: float | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that was exceeded, with the diagnosis the server gets."""

    kind: BreachKind
    diagnosis: Diagnosis


def limits_for(job: Job, queue: Queue, pod_memory_bytes: int | None = None) -> Limits:
    """CRIC's limits with their graces; the job's own wall time; the pod's memory limit, less a margin.

    Memory: ``maxrss`` x ``pilot_rss_grace`` of the queue. Work folder: ``maxwdir`` x ``pilot_maxwdir_grace``.
    Wall time: the smaller of the job's ``maxWalltime`` x ``pilot_walltime_grace`` and the queue's ``maxtime``.
    """
    memory = [queue.max_rss_bytes * queue.rss_grace] if queue.max_rss_bytes else []
    memory += [pod_memory_bytes * POD_MARGIN] if pod_memory_bytes else []
    wall = [job.resources.max_walltime_s * queue.walltime_grace] if job.resources.max_walltime_s else []
    wall += [float(queue.max_time_s)] if queue.max_time_s else []
    return Limits(
        memory_bytes=int(min(memory)) if memory else None,
        walltime_s=min(wall) if wall else None,
        workdir_bytes=int(queue.max_workdir_bytes * queue.workdir_grace) if queue.max_workdir_bytes else None,
        looping_s=LOOPING_LIMIT_S if job.looping_check else None,
    )


def breach(limits: Limits, sample: Sample) -> Breach | None:
    """The first limit the sample exceeds, the most urgent first; None when it keeps to all of them."""
    if _over(sample.memory_bytes, limits.memory_bytes):
        text = f"{_mb(sample.memory_bytes)} used, {_mb(limits.memory_bytes)} allowed"
        return Breach(BreachKind.MEMORY, Diagnosis(PilotError.PAYLOAD_EXCEEDED_MAX_MEM, text))
    if _over(sample.elapsed_s, limits.walltime_s):
        text = f"the payload ran for {sample.elapsed_s:.0f} s, {limits.walltime_s:.0f} s allowed"
        return Breach(BreachKind.WALLTIME, Diagnosis(PilotError.REACHED_MAX_TIME, text))
    if _over(sample.workdir_bytes, limits.workdir_bytes):
        text = f"{_mb(sample.workdir_bytes)} in the work folder, {_mb(limits.workdir_bytes)} allowed"
        return Breach(BreachKind.WORKDIR, Diagnosis(PilotError.WORKDIR_TOO_LARGE, text))
    if _over(sample.stdout_bytes, limits.stdout_bytes):
        text = f"{_mb(sample.stdout_bytes)} written, {_mb(limits.stdout_bytes)} allowed"
        return Breach(BreachKind.STDOUT, Diagnosis(PilotError.STDOUT_TOO_BIG, text))
    if _over(sample.quiet_s, limits.looping_s):
        text = f"no file written for {sample.quiet_s:.0f} s, {limits.looping_s:.0f} s allowed"
        return Breach(BreachKind.LOOPING, Diagnosis(PilotError.LOOPING_JOB, text))
    return None


def _over(used: float | None, allowed: float | None) -> bool:
    return used is not None and allowed is not None and used > allowed


def _mb(size_bytes: int | None) -> str:
    return f"{(size_bytes or 0) / (1 << 20):.0f} MB"
