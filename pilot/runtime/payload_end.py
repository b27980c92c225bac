"""How a payload ended: the value that passes from the payload's runner to the flow."""

from __future__ import annotations

from dataclasses import dataclass

from pilot.job.errors import Diagnosis
from pilot.job.history import UsagePoint
from pilot.job.limits import Limits
from pilot.job.outcome import PayloadFacts, StopCause
from pilot.job.report import Usage
from pilot.runtime.stop import StopReason


@dataclass(frozen=True, slots=True)
class PayloadEnd:
    """How a payload ended. Exactly one of ``exit_code`` and ``signal`` is set when it ran; neither: it never started.

    ``container_message``: the container runtime's own words when it, and not the payload, failed.
    ``oom_kills``: how often the kernel's memory guard struck during the payload (cgroup counters).
    ``first_error``: the payload's own words on its first error, ``traceback``: the traceback that came with it.
    ``no_work``: it said that there was nothing to do. ``history``: what it used over time, ``limits``: what it was
    allowed, ``image``: the name of the image it ran in, empty without one.
    """

    exit_code: int | None
    signal: int | None
    usage: Usage
    wall_s: float
    isolation: str
    oom_kills: int = 0
    stopped_by: StopReason | None = None
    breach: Diagnosis | None = None
    container_message: str | None = None
    first_error: str | None = None
    no_work: bool = False
    traceback: str = ""
    history: tuple[UsagePoint, ...] = ()
    limits: Limits | None = None
    image: str = ""


def facts_of(end: PayloadEnd, cause: StopCause | None, breach: Diagnosis | None = None) -> PayloadFacts:
    """What job/outcome.py judges by. ``cause``: who stopped it; ``breach``: what only its surroundings know to be wrong."""
    return PayloadFacts(
        exit_code=end.exit_code,
        signal=end.signal,
        oom_kills=end.oom_kills,
        stop=cause,
        stop_detail=end.stopped_by.detail if end.stopped_by else "",
        breach=end.breach or breach,
        container_message=end.container_message,
        first_error=end.first_error,
        no_work=end.no_work,
    )
