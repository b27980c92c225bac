"""The last line that a payload wrote, for people who watch: secrets masked, however the line is cut."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pilot.logs.page.words import last_lines
from pilot.runtime.events import redactor

TAIL_BYTES = 4 << 10
NAMES = ("payload.stdout", "payload.stderr")


def last_line(logs: Path) -> str:
    """The last line of whichever of stdout and stderr was written to last; empty when there is none."""
    newest = max((logs / name for name in NAMES), key=_written_ns)
    with suppress(OSError), redactor.reading(newest.open("rb")) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        file.seek(max(0, size_bytes - TAIL_BYTES))
        lines = last_lines(file.read(TAIL_BYTES), 1, size_bytes <= TAIL_BYTES)
        return lines[-1] if lines else ""
    return ""


def _written_ns(path: Path) -> int:
    """When a file was last written; one without content counts for less than any other."""
    try:
        status = path.lstat()
    except OSError:
        return -1
    return status.st_mtime_ns if status.st_size else 0
