"""``replay.json``: what it takes to run a job again, left beside its logs by the pilot and read by ``pilot-replay``. Pure.

The document holds the job's definition, what its payload was made ready with and how it ended; no secret. Who reads it must
not trust it: it lies in a bucket, and much of it was hostile from the start. So every value is checked, the definition goes
through parse.py, and what would open the reader's machine (paths of binds and images) is only told, never obeyed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pilot.job.limits import LimitSettings
from pilot.job.model import Attempt, Checksum, ChecksumAlgorithm, Job, MalformedJob
from pilot.job.outcome import Outcome, outcome_from_record, outcome_record
from pilot.job.parse import FILES_MAX, parse_job, without_secrets
from pilot.job.queue import Queue, QueueStatus

FORMAT = 1
REPLAY_NAME = "replay.json"
MAX_DOCUMENT_BYTES = 32 << 20
MAX_TEXT_CHARS = 4096
MAX_VALUE_CHARS = 120_000  # of a variable; the kernel takes 128 KiB
MAX_VARIABLES = 2000
MAX_URLS = 20
DEEPEST = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_HEX = re.compile(r"[0-9a-f]{8,64}")
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{0,100}")
# Who the job's owner is does not help to run it, and logs are public.
_PERSONAL = frozenset({"prodUserID"})
# Without them there is nothing to run.
_COMMAND_KEYS = ("transformation", "jobPars")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a payload was made ready with, but for its job. ``environment``: what is no secret; ``hidden``: names of what is.

    ``image``: as it was asked for, empty without one; ``binds``: ``source:target[:ro]``; ``own_containers``: its commands
    start containers themselves; ``grace_s``: from SIGTERM to SIGKILL.
    """

    queue: Queue
    limits: LimitSettings = field(default_factory=LimitSettings)
    environment: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    image: str = ""
    image_checksum: Checksum | None = None
    binds: tuple[str, ...] = ()
    own_containers: bool = False
    realtime_logfiles: str = ""
    grace_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Replay:
    """A job that can be run again. ``sources``: where each input can be had, by LFN. ``outcome`` None: it was still running.

    ``masked``: keys of the definition out of which a secret was taken, so that they are not what they were.
    """

    job: Job | MalformedJob
    recipe: Recipe
    isolation: str = ""
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outcome: Outcome | None = None
    pilot_version: str = ""
    masked: tuple[str, ...] = ()

    @property
    def attempt(self) -> Attempt | None:
        return self.job.attempt

    @property
    def lost_command(self) -> str:
        """Which part of the command is not what it was, in words; empty: none."""
        return " and ".join(key for key in _COMMAND_KEYS if key in self.masked)


# --- writing ----------------------------------------------------------------------------------------------------------


def replay_document(replay: Replay, definition: Mapping[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """The document, as JSON values. ``clean`` takes secrets out of a text (the redactor's)."""
    open_definition = {key: value for key, value in without_secrets(definition).items() if key not in _PERSONAL}
    cleaned = {str(key): _cleaned(value, clean, DEEPEST) for key, value in open_definition.items()}
    recipe = replay.recipe
    safe = {name: value for name, value in recipe.environment.items() if clean(value) == value}
    hidden = {*recipe.hidden, *(name for name in recipe.environment if name not in safe)}
    return {
        "format": FORMAT,
        "pilot_version": replay.pilot_version,
        "definition": cleaned,
        "masked": sorted(key for key, value in open_definition.items() if cleaned[str(key)] != value),
        "sources": {lfn: [clean(url) for url in urls] for lfn, urls in replay.sources.items()},
        "isolation": replay.isolation,
        "queue": _queue_record(recipe.queue, clean),
        "limits": {name: getattr(recipe.limits, name) for name in _LIMITS},
        "environment": safe,
        "hidden": sorted(hidden),
        "image": clean(recipe.image),
        "image_checksum": str(recipe.image_checksum) if recipe.image_checksum else None,
        "binds": [clean(bind) for bind in recipe.binds],
        "own_containers": recipe.own_containers,
        "realtime_logfiles": recipe.realtime_logfiles,
        "grace_s": recipe.grace_s,
        "outcome": _cleaned(outcome_record(replay.outcome), clean, DEEPEST) if replay.outcome else None,
    }


def replay_text(document: Mapping[str, Any]) -> str:
    """The document as it is stored: a line for each of its keys, which can be read and takes a third of the time of more."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _cleaned(value: Any, clean: Callable[[str], str], depth: int) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping) and depth:
        return {clean(str(key)): _cleaned(inner, clean, depth - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_cleaned(inner, clean, depth - 1) for inner in value]
    return value if value is None or isinstance(value, bool | int | float) else clean(str(value)[:MAX_TEXT_CHARS])


_SIZES = ("max_rss_bytes", "max_workdir_bytes", "max_input_bytes", "max_time_s")
_GRACES = ("rss_grace", "workdir_grace", "walltime_grace")
_LIMITS = ("container_memory_bytes", "disk_limit_bytes", "looping_s", "max_processes", "max_inodes", "max_stdout_bytes")
_JOB_MEMORY = "job_minramcount"


def _queue_record(queue: Queue, clean: Callable[[str], str]) -> dict[str, Any]:
    """The fields by which a queue limits its payloads and starts their containers."""
    return {
        "name": queue.name,
        **{name: getattr(queue, name) for name in (*_SIZES, *_GRACES)},
        _JOB_MEMORY: queue.params.get(_JOB_MEMORY) is True,
        "container_options": clean(queue.container_options),
    }


# --- reading ----------------------------------------------------------------------------------------------------------


class _Unfit(Exception):
    """A value is not what it should be; only read_replay sees this."""


def read_replay(document: object) -> Replay | str:
    """The job of a document, or what is wrong with it in a few words. Never raises."""
    try:
        return _replay(_Reader(document, "the document"))
    except _Unfit as unfit:
        return str(unfit)


class _Reader:
    """A mapping of unknown origin, from which values are taken only as what they should be. Raises _Unfit."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, Mapping):
            raise _Unfit(f"{what} is no object")
        self._value = value

    def below(self, key: str) -> _Reader:
        return _Reader(self._value.get(key), key)

    def get(self, key: str) -> Any:
        return self._value.get(key)

    def text(self, key: str, most_chars: int = MAX_TEXT_CHARS) -> str:
        value = self._value.get(key, "")
        if not isinstance(value, str) or len(value) > most_chars or not _plain(value):
            raise _Unfit(f"{key} is no plain text of at most {most_chars} characters")
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        value = self._value.get(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise _Unfit(f"{key} is no list of at most {most} texts")
        return tuple(_Reader({key: inner}, key).text(key) for inner in value)

    def whole(self, key: str) -> int | None:
        value = self._value.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63):
            raise _Unfit(f"{key} is no whole number")
        return value

    def number(self, key: str, default: float, most: float) -> float:
        value = self._value.get(key, default)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not 0 <= value <= most:
            raise _Unfit(f"{key} is no number between 0 and {most:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        return self._value.get(key) is True


def _plain(text: str) -> bool:
    """No NUL byte, and nothing that could be written to no file."""
    return "\0" not in text and (text.isascii() or not any(0xD800 <= ord(char) <= 0xDFFF for char in text))


def _replay(document: _Reader) -> Replay:
    if document.get("format") != FORMAT:
        raise _Unfit(f"its format is not {FORMAT}: it was written by another version of the pilot")
    job = parse_job(document.get("definition"))
    return Replay(
        job=job,
        recipe=_recipe(document),
        isolation=document.text("isolation"),
        sources=_sources(document.below("sources")) if document.get("sources") else {},
        outcome=_outcome(document.get("outcome")),
        pilot_version=document.text("pilot_version", 100),
        masked=document.texts("masked", 1000),
    )


def _recipe(document: _Reader) -> Recipe:
    limits = document.below("limits")
    return Recipe(
        queue=_queue(document.below("queue")),
        limits=LimitSettings(
            container_memory_bytes=limits.whole("container_memory_bytes"),
            disk_limit_bytes=limits.whole("disk_limit_bytes"),
            looping_s=limits.number("looping_s", 0.0, 1e9),
            max_processes=limits.whole("max_processes") or 0,
            max_inodes=limits.whole("max_inodes") or 0,
            max_stdout_bytes=limits.whole("max_stdout_bytes") or 0,
        ),
        environment=_environment(document.get("environment")),
        hidden=tuple(name for name in document.texts("hidden", MAX_VARIABLES) if _NAME.fullmatch(name)),
        image=document.text("image"),
        image_checksum=_checksum(document.get("image_checksum")),
        binds=document.texts("binds", 100),
        own_containers=document.flag("own_containers"),
        realtime_logfiles=document.text("realtime_logfiles", 1000),
        grace_s=document.number("grace_s", 2.0, 3600.0),
    )


def _queue(queue: _Reader) -> Queue:
    name = queue.text("name", 100)
    if not _QUEUE.fullmatch(name):
        raise _Unfit("the queue's name is none")
    return Queue(
        name=name,
        resource=name,
        site="",
        active=True,
        status=QueueStatus.ONLINE,
        max_rss_bytes=queue.whole("max_rss_bytes"),
        max_workdir_bytes=queue.whole("max_workdir_bytes"),
        max_input_bytes=queue.whole("max_input_bytes"),
        max_time_s=queue.whole("max_time_s"),
        rss_grace=queue.number("rss_grace", 2.0, 1000.0),
        workdir_grace=queue.number("workdir_grace", 1.2, 1000.0),
        walltime_grace=queue.number("walltime_grace", 1.0, 1000.0),
        container_options=queue.text("container_options"),
        params={_JOB_MEMORY: queue.flag(_JOB_MEMORY)},
    )


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > MAX_VARIABLES:
        raise _Unfit("environment is no object of a sensible size")
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _Unfit("environment holds a name that is none")
        if not isinstance(text, str) or len(text) > MAX_VALUE_CHARS or not _plain(text):
            raise _Unfit(f"the value of {name} is no plain text")
    return dict(value)


def _sources(sources: _Reader) -> dict[str, tuple[str, ...]]:
    value = sources._value
    if len(value) > FILES_MAX:
        raise _Unfit(f"sources has more than {FILES_MAX} entries")
    return {str(lfn): sources.texts(lfn, MAX_URLS) for lfn in value}


def _checksum(text: object) -> Checksum | None:
    """``sha256:<digits>``; None for anything else: a checksum is a help, and not to be relied on in a hostile document."""
    algorithm, _, digits = text.partition(":") if isinstance(text, str) else ("", "", "")
    if algorithm in get_args(ChecksumAlgorithm) and _HEX.fullmatch(digits):
        return Checksum(algorithm, digits)  # type: ignore[arg-type]
    return None


def _outcome(record: object) -> Outcome | None:
    """How it ended, to compare with; None when that cannot be read."""
    if not isinstance(record, Mapping):
        return None
    try:
        outcome = outcome_from_record(record)
    except (KeyError, TypeError, ValueError):
        return None
    texts = (outcome.exe_error_diag, outcome.pilot_error.detail if outcome.pilot_error else "")
    fits = all(isinstance(text, str) and len(text) <= MAX_TEXT_CHARS for text in texts)
    return outcome if fits and isinstance(outcome.trans_exit_code, int | None) else None
