"""What a person sees of a running pilot: a few lines of text, made from what stands on the board. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from unicodedata import combining, east_asian_width

from pilot.logs.page.words import size
from pilot.runtime.progress import JobAt, PayloadAt, Progress, TransferAt

MOST_COLUMNS = 100
MOST_TRANSFERS = 4
BAR_COLUMNS = 20
NEAR = 0.9  # of a limit: worth a colour
STAGES = {
    "starting": "asking the server to start it",
    "stage_in": "fetching its inputs",
    "setup": "preparing its payload",
    "payload": "running",
    "stage_out": "storing its outputs",
    "log": "storing its logs",
    "report": "reporting",
}
MOVING_STAGES = frozenset({"stage_in", "setup", "stage_out", "log"})  # in others only live logs are on their way
Style = Literal["", "bold", "dim", "warn"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without a line end. ``style``: how a terminal shows it."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The last lines of the logs; empty: none. ``pilot``'s is for a terminal on which the pilot's own lines do not appear."""

    payload: str = ""
    pilot: str = ""


def frame(progress: Progress, said: Said, now_s: float, columns: int) -> list[Line]:
    """The view, every line shorter than ``columns``."""
    most = max(1, min(columns - 1, MOST_COLUMNS))
    return [Line(fitted(line.text, most), line.style) for line in _lines(progress, said, now_s)]


def _lines(progress: Progress, said: Said, now_s: float) -> Iterator[Line]:
    pilot, job = progress.pilot, progress.job
    yield Line(f"-- queue {pilot.queue or '?'}: {pilot.finished} finished, {pilot.failed} failed --", "bold")
    if job is None:
        yield Line(pilot.doing)
    else:
        yield from _of_job(job, progress, now_s)
    if said.payload:
        yield Line(f"  | {said.payload}", "dim")
    if said.pilot:
        yield Line(f"log: {said.pilot}", "dim")


def _of_job(job: JobAt, progress: Progress, now_s: float) -> Iterator[Line]:
    about = ", ".join(word for word in (f"task {job.task_id}" if job.task_id else "", job.name) if word)
    words = STAGES.get(job.stage, job.stage)
    since = clock(now_s - job.stage_began_s)
    yield Line(f"job {job.panda_id}.{job.attempt_nr}{f' ({about})' if about else ''}: {words}, {since}")
    if job.stage in MOVING_STAGES:
        yield from map(_of_transfer, progress.transfers[:MOST_TRANSFERS])
        if (more := len(progress.transfers) - MOST_TRANSFERS) > 0:
            yield Line(f"  and {more} more files")
    if progress.payload is not None:
        yield from _of_payload(progress.payload)


def _of_transfer(file: TransferAt) -> Line:
    name = fitted(file.name, 28)
    if not file.total_bytes:
        return Line(f"  {name:<28} {size(file.moved_bytes)}")
    share = min(1.0, file.moved_bytes / file.total_bytes)
    return Line(f"  {name:<28} {bar(share)} {share:>4.0%} of {size(file.total_bytes)}")


def _of_payload(payload: PayloadAt) -> Iterator[Line]:
    yield _against("memory", payload.memory_bytes, payload.memory_limit_bytes)
    if payload.container_bytes is not None:
        yield _against("container", payload.container_bytes, payload.container_limit_bytes)
    if payload.workdir_bytes is not None:
        yield _against("work folder", payload.workdir_bytes, payload.workdir_limit_bytes)
    yield Line(f"  {'cpu':<11} {clock(payload.cpu_s)} in {payload.processes} process{'es' * (payload.processes != 1)}")


def _against(what: str, used_bytes: int, limit_bytes: int | None) -> Line:
    if limit_bytes is None:
        return Line(f"  {what:<11} {size(used_bytes)}, no limit")
    share = used_bytes / limit_bytes
    text = f"  {what:<11} {bar(share)} {size(used_bytes)} of {size(limit_bytes)}"
    return Line(text, "warn" if share >= NEAR else "")


def bar(share: float) -> str:
    full = max(0, min(BAR_COLUMNS, round(share * BAR_COLUMNS)))
    return "[" + "#" * full + "." * (BAR_COLUMNS - full) + "]"


def clock(seconds: float) -> str:
    """``0:07``, ``3:07``, ``1:02:03``."""
    minutes, left_s = divmod(max(0, int(seconds)), 60)
    hours, left_min = divmod(minutes, 60)
    return f"{hours}:{left_min:02}:{left_s:02}" if hours else f"{minutes}:{left_s:02}"


def fitted(text: str, columns: int) -> str:
    """The text on one line of at most ``columns``: what a terminal would obey, or show two columns wide or none, is ``?``."""
    shown = "".join(char if _is_one_column(char) else "?" for char in text[: columns + 1].replace("\t", " "))
    return shown if len(shown) <= columns else shown[: max(0, columns - 3)] + "..."[:columns]


def _is_one_column(char: str) -> bool:
    return char.isprintable() and not combining(char) and east_asian_width(char) not in ("W", "F")
