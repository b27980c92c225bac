"""What a payload's folder holds, and since when nothing has happened: no output and no CPU time.

Changes are dated by the monotonic clock when they are seen, never by comparing file times with the wall clock: a step of
that clock is no silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MAX_FOLDER_ENTRIES = 2_000_000
LONGEST_PATH_BYTES = 3800  # of a folder; the kernel's bound of 4096 is for a file in it
NAMES_A_STEP = 15  # of at most 255 bytes each
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
IDLE_CPU_SHARE = 0.01  # of one core: a process that only asks a queue now and then is not at work
CPU_WINDOW_S = 5.0
OWN_NAMES = "memory_monitor"  # a monitor that writes its table shows no progress


class FolderUse(NamedTuple):
    """Bytes on disk, the newest modification time (s since 1970), and how many files and folders."""

    used_bytes: int = 0
    newest_s: float = 0.0
    entries: int = 0


def folder_use(
    folders: tuple[Path, ...], cancelled: Callable[[], bool] = lambda: False, most_allowed: int = 0
) -> FolderUse:
    """What lies below some folders, however deep. Links are not followed; what cannot be read is not counted.

    Counts to ``MAX_FOLDER_ENTRIES``, and beyond that until there are more than are allowed.
    """
    most = max(MAX_FOLDER_ENTRIES, most_allowed + 1)
    used, newest_s, seen, todo = 0, 0.0, 0, [os.fspath(folder.absolute()) for folder in folders]
    while todo and seen < most and not cancelled():
        where = todo.pop()
        try:
            with _scan(where) as entries:
                for entry in entries:
                    seen += 1
                    try:
                        status = entry.stat(follow_symlinks=False)
                        used += status.st_blocks * 512
                        if not entry.name.startswith(OWN_NAMES):
                            newest_s = max(newest_s, status.st_mtime)
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(f"{where}/{entry.name}")
                    except OSError:
                        continue
        except OSError:
            continue
    return FolderUse(used, newest_s, seen)


@contextmanager
def _scan(folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """The entries of a folder, also of one that lies deeper than the kernel takes a path: a payload would hide there."""
    if len(os.fsencode(folder)) <= LONGEST_PATH_BYTES:
        with os.scandir(folder) as entries:
            yield entries
        return
    names, descriptor = folder.lstrip("/").split("/"), os.open("/", _FOLDER)
    try:
        for first in range(0, len(names), NAMES_A_STEP):
            below = os.open("/".join(names[first : first + NAMES_A_STEP]), _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


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
