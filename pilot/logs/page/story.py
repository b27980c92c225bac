"""JobStory: all that a job page shows. Frozen values; times in seconds, sizes in bytes, None for what is not known.

A job that failed early has little of all this, and its page is made all the same: only the attempt and the moment of
writing are demanded. Everything here may quote payloads, stores and servers, so ``cleaned`` must have been called with the
redactor before a page is published; the page itself escapes every text and redacts none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from pilot.job.history import UsagePoint
from pilot.job.limits import Limits
from pilot.job.model import Attempt, Resources
from pilot.job.outcome import Outcome
from pilot.job.report import Usage

T = TypeVar("T")


def no_limits() -> Limits:
    return Limits(stdout_bytes=None, output_bytes=None)


@dataclass(frozen=True, slots=True)
class StageSpan:
    """One stage on the time line, in seconds since the job was acquired. ``end_s`` None: not over when the page was made."""

    name: str
    begin_s: float
    end_s: float | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class StoryEvent:
    """Something that happened at one moment, in seconds since the job was acquired."""

    at_s: float
    text: str


class Direction(Enum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class TransferStory:
    """One file that was moved, or was to be. ``problem``: why it was not, empty when it was."""

    direction: Direction
    name: str
    size_bytes: int | None = None
    took_s: float | None = None
    checksum: str = ""
    url: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class LogStory:
    """One object beside the page: ``name`` is its relative link; ``lines`` are its last ones, for logs that show them.

    ``segments``: further objects that hold the earlier parts of a large log, oldest first.
    """

    name: str
    size_bytes: int | None = None
    lines: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class FirstError:
    """The payload's first error: ``CLASS: MESSAGE``, the traceback as it was logged, and the log it stands in."""

    text: str
    traceback: str = ""
    found_in: str = ""


@dataclass(frozen=True, slots=True)
class Where:
    """Where a job ran, and in what. Empty: not known."""

    queue: str = ""
    site: str = ""
    node: str = ""
    batch_id: str = ""
    scheduler_id: str = ""
    image: str = ""
    isolation: str = ""
    pilot_version: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # of other parts: the container runtime, the payload


@dataclass(frozen=True, slots=True)
class JobStory:
    """What a job page tells. ``written_at_s`` and ``acquired_at_s``: seconds since 1970.

    ``outcome`` None: the job was still at work when the page was made. ``points`` begin with the payload, which began
    ``payload_began_s`` after the job was acquired. ``log_url``: the public address that the monitor knows the job by.
    """

    attempt: Attempt
    written_at_s: float
    name: str = ""
    task_id: int | None = None
    request_id: int | None = None
    label: str = ""
    command: str = ""
    where: Where = field(default_factory=lambda: Where())
    resources: Resources | None = None
    acquired_at_s: float | None = None
    outcome: Outcome | None = None
    stages: tuple[StageSpan, ...] = ()
    events: tuple[StoryEvent, ...] = ()
    payload_began_s: float = 0.0
    usage: Usage | None = None
    points: tuple[UsagePoint, ...] = ()
    limits: Limits = field(default_factory=no_limits)
    error: FirstError | None = None
    transfers: tuple[TransferStory, ...] = ()
    logs: tuple[LogStory, ...] = ()
    log_url: str = ""
    monitor_url: str = ""

    @property
    def payload(self) -> StageSpan | None:
        """The payload's span on the time line; None when none was started."""
        return next((stage for stage in self.stages if stage.name == "payload"), None)


def cleaned(value: T, clean: Callable[[str], str]) -> T:
    """The same value with ``clean`` applied to every text in it, however deep; keys of mappings included."""
    return _cleaned(value, clean)  # type: ignore[no-any-return]


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, int | float | Enum | UsagePoint):  # of those points there are thousands
        return value
    if isinstance(value, tuple):
        return tuple(_cleaned(item, clean) for item in value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(item, clean) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _cleaned_fields(value, clean)
    return value


def _cleaned_fields(value: Any, clean: Callable[[str], str]) -> Any:
    changes = {}
    for place in fields(value):
        before = getattr(value, place.name)
        after = _cleaned(before, clean)
        if place.init and after is not before:
            changes[place.name] = after
    return replace(value, **changes) if changes else value
