"""What a payload's folder holds, and since when nothing has happened: no output and no CPU time.

Changes are dated by the monotonic clock when they are seen, never by comparing file times with the wall clock: a step of
that clock is no silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAX_FOLDER_ENTRIES = 2_000_000
IDLE_CPU_SHARE = 0.01  # of one core: a process that only asks a queue now and then is not at work
CPU_WINDOW_S = 5.0
OWN_NAMES = "memory_monitor"  # a monitor that writes its table shows no progress


class FolderUse(NamedTuple):
    """Bytes on disk, the newest modification time (s since 1970), and how many files and folders."""

    used_bytes: int = 0
    newest_s: float = 0.0
    entries: int = 0


def folder_use(folders: tuple[Path, ...], cancelled: Callable[[], bool] = lambda: False) -> FolderUse:
    """What lies below some folders. Links are not followed; what cannot be read is not counted."""
    used, newest_s, seen, todo = 0, 0.0, 0, [os.fspath(folder) for folder in folders]
    while todo and seen < MAX_FOLDER_ENTRIES and not cancelled():
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    seen += 1
                    try:
                        status = entry.stat(follow_symlinks=False)
                        used += status.st_blocks * 512
                        if not entry.name.startswith(OWN_NAMES):
                            newest_s = max(newest_s, status.st_mtime)
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                    except OSError:
                        continue
        except OSError:
            continue
    return FolderUse(used, newest_s, seen)


def size_bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


class Activity:
    """Since when a payload has been quiet; all times in seconds since its start."""

    def __init__(self, window_s: float = CPU_WINDOW_S) -> None:
        self._window_s = window_s
        self._last_s = 0.0
        self._output: object = None
        self._mark_s, self._mark_cpu_s = 0.0, 0.0

    def quiet_s(self, elapsed_s: float) -> float:
        return max(0.0, elapsed_s - self._last_s)

    def saw_output(self, elapsed_s: float, figures: object) -> None:
        """``figures`` of the files: any difference from the last ones is output."""
        if figures != self._output:
            self._output, self._last_s = figures, elapsed_s

    def saw_cpu(self, elapsed_s: float, cpu_s: float) -> None:
        """CPU seconds used so far. Judged over windows, because the kernel counts in hundredths of a second."""
        past_s = elapsed_s - self._mark_s
        if past_s < self._window_s:
            return
        if cpu_s - self._mark_cpu_s > IDLE_CPU_SHARE * past_s:
            self._last_s = elapsed_s
        self._mark_s, self._mark_cpu_s = elapsed_s, cpu_s
