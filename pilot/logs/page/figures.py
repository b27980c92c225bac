"""Which plots a job page has: memory, CPU, traffic and disk over time, each with its limits."""

from __future__ import annotations

from collections.abc import Iterator

from pilot.job.limits import Limits
from pilot.logs.page import words
from pilot.logs.page.plots import LimitLine, Line, Plot
from pilot.logs.page.series import Points, column, counter
from pilot.logs.page.story import JobStory

_NEAR = 1.25  # a wall time limit within this of the payload's time is on the time axis


def plots_of(story: JobStory) -> tuple[Plot, ...]:
    """The plots of a story, on one time axis: seconds since the job was acquired. None without points."""
    if not story.points:
        return ()
    begin_s = story.payload_began_s
    last_s = begin_s + story.points[-1].elapsed_s
    payload = story.payload
    end_s = max(last_s, payload.end_s or 0.0 if payload else 0.0)
    marks, end_s = _marks(story, end_s)
    return tuple(_plots(story, begin_s, max(end_s, begin_s + 0.1), marks))


def _marks(story: JobStory, end_s: float) -> tuple[tuple[tuple[float, str], ...], float]:
    """Moments to mark, and the end of the axis: beyond a wall time limit that was nearly reached."""
    marks = [(event.at_s, event.text[:40]) for event in story.events]
    limit_s = story.limits.walltime_s
    if limit_s is not None and story.payload_began_s + limit_s <= story.payload_began_s + _NEAR * (
        end_s - story.payload_began_s
    ):
        marks.append((story.payload_began_s + limit_s, f"wall time limit {words.duration(limit_s)}"))
        end_s = max(end_s, story.payload_began_s + limit_s * 1.01)
    return tuple(marks), end_s


def _plots(story: JobStory, begin_s: float, end_s: float, marks: tuple[tuple[float, str], ...]) -> Iterator[Plot]:
    points, limits = story.points, story.limits
    on_pss = not (story.usage and story.usage.pss_is_rss)
    memory = [
        Line(
            "memory (PSS)" if on_pss else "memory (RSS)", _from(begin_s, column(points, "memory_bytes")), 1, filled=True
        )
    ]
    if any(point.container_bytes is not None for point in points):
        memory.append(Line("container", _from(begin_s, column(points, "container_bytes")), 3))
    if any(point.swap_bytes for point in points):
        memory.append(Line("swap", _from(begin_s, column(points, "swap_bytes")), 2))
    yield Plot(
        "Memory", tuple(memory), begin_s, end_s, words.size, tuple(_memory_limits(limits)), marks,
        note="" if on_pss else "The kernel does not show PSS here, so pages that processes share count for each of them.",
    )  # fmt: skip
    marks = tuple((at_s, "") for at_s, _text in marks)  # named once is enough
    cores = story.resources.core_count if story.resources else None
    yield Plot(
        "CPU",
        (Line("cores in use", _from(begin_s, counter(points, "cpu_s")), 1, filled=True),),
        begin_s,
        end_s,
        words.number,
        (LimitLine(cores, "cores asked for", "coreCount of the job; nobody stops it for using more", hard=False),)
        if cores
        else (),
        marks,
        binary=False,
    )
    last = points[-1]
    yield Plot(
        "Read and written",
        (
            Line("read", _from(begin_s, counter(points, "read_bytes")), 1),
            Line("written", _from(begin_s, counter(points, "written_bytes")), 2),
        ),
        begin_s,
        end_s,
        words.rate,
        marks=marks,
        note=f"Together {words.size(last.read_bytes)} read, of it {words.size(last.disk_read_bytes)} from a disk; "
        f"{words.size(last.written_bytes)} written, of it {words.size(last.disk_written_bytes)} to a disk.",
    )
    disk = column(points, "disk_bytes")
    if disk:
        limit = (_limit(limits, "workdir_bytes", "limit", limits.workdir_bytes),) if limits.workdir_bytes else ()
        yield Plot(
            "Work folder",
            (Line("on disk", _from(begin_s, disk), 4, filled=True),),
            begin_s,
            end_s,
            words.size,
            limit,
            marks,
        )


def _memory_limits(limits: Limits) -> Iterator[LimitLine]:
    if limits.memory_bytes:
        yield _limit(limits, "memory_bytes", "limit", limits.memory_bytes)
    if limits.container_bytes:
        yield _limit(limits, "container_bytes", "container limit", limits.container_bytes)


def _limit(limits: Limits, key: str, name: str, value: float) -> LimitLine:
    return LimitLine(value, name, limits.sources.get(key, ""))


def _from(begin_s: float, points: Points) -> Points:
    """The points on the job's time axis instead of the payload's."""
    return [(begin_s + at_s, value) for at_s, value in points]
