"""A memory monitor's table (``memory_monitor_output.txt``, prmon's columns) -> points. It may be a payload's: never raises."""

from __future__ import annotations

import math

from pilot.job.history import History, UsagePoint

MOST_CHARS = 16 << 20
_KILOBYTE = 1024
_MOST = 1 << 60  # a figure beyond this is no measurement


def read_table(text: str) -> tuple[UsagePoint, ...]:
    """The points of a table, bounded as History bounds them; lines that make no sense are passed over."""
    lines = text[:MOST_CHARS].splitlines()
    names = lines[0].split() if lines else []
    if "wtime" not in names or not {"pss", "rss"} & set(names):
        return ()
    history, before_s = History(), -1.0
    for line in lines[1:]:
        row = _row(names, line)
        if row is None or row["wtime"] < before_s:
            continue
        before_s = row["wtime"]
        history.add(_point(row))
    return history.points


def _row(names: list[str], line: str) -> dict[str, float] | None:
    words = line.split()
    if len(words) != len(names):
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    good = all(math.isfinite(value) and 0 <= value < _MOST for value in values)
    return dict(zip(names, values, strict=True)) if good else None


def _point(row: dict[str, float]) -> UsagePoint:
    def whole(name: str, factor: int = 1) -> int:
        return int(row.get(name, 0.0) * factor)

    return UsagePoint(
        elapsed_s=row["wtime"],
        memory_bytes=whole("pss" if "pss" in row else "rss", _KILOBYTE),
        rss_bytes=whole("rss", _KILOBYTE),
        vmem_bytes=whole("vmem", _KILOBYTE),
        swap_bytes=whole("swap", _KILOBYTE),
        cpu_s=row.get("utime", 0.0) + row.get("stime", 0.0),
        system_s=row.get("stime", 0.0),
        read_bytes=whole("rchar"),
        written_bytes=whole("wchar"),
        disk_read_bytes=whole("read_bytes"),
        disk_written_bytes=whole("write_bytes"),
        processes=whole("nprocs"),
        threads=whole("nthreads"),
    )
