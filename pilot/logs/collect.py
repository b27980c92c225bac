"""Which files are a job's logs, opened in a way that no payload can bend: no link is followed, no pipe waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError
from pilot.storage.transfer import open_regular

TEXT_TYPE = "text/plain; charset=utf-8"
# Names are the monitor's: it makes the links to stdout, stderr and the memory plots from them.
PILOT_FILES = ("pilotlog.txt", "payload.stdout", "payload.stderr", "replay.json")
PAYLOAD_FILES = ("payload-log.json", "memory_monitor_summary.json", "memory_monitor_output.txt")
BUNDLED_FILE_MAX_BYTES = 10 << 20
BUNDLE_MAX_BYTES = 200 << 20
BUNDLE_MAX_FILES = 2000


@dataclass(frozen=True, slots=True)
class LogFile:
    """One log: the name of its object, the folder it lies in, and its name there."""

    name: str
    folder: Path

    def open(self) -> BinaryIO:
        """Raises LocalFileError when it is not there, or no regular file."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return open_regular(self.name, dir_fd=descriptor)
        finally:
            os.close(descriptor)

    def size_bytes(self) -> int | None:
        """None when it is not there."""
        try:
            return (self.folder / self.name).lstat().st_size
        except OSError:
            return None


def log_files(folder: JobFolder) -> tuple[LogFile, ...]:
    """The logs that go out as objects of their own, existing ones only; the pilot's own log last, so that it is complete."""
    files = [LogFile(name, folder.work) for name in PAYLOAD_FILES]
    files += [LogFile(name, folder.logs) for name in reversed(PILOT_FILES)]
    return tuple(file for file in files if file.size_bytes() is not None)


def bundle_members(folder: JobFolder, left_out: frozenset[str]) -> Iterator[tuple[str, BinaryIO]]:
    """Name in the bundle and open file of all that belongs into log.tgz: the logs and the payload's small files.

    Inputs and outputs (``left_out``), links, sockets, big files and what exceeds the bounds are passed over.
    """
    budget_bytes, members = BUNDLE_MAX_BYTES, 0
    for file in log_files(folder):
        try:
            opened = file.open()
        except (LocalFileError, OSError):
            continue
        budget_bytes -= os.fstat(opened.fileno()).st_size
        yield file.name, opened
    if not folder.work.is_dir():  # a payload may have removed its own folder; its logs are worth keeping all the same
        return
    for where, names, files, descriptor in os.fwalk(folder.work, follow_symlinks=False):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if name in left_out or name in PAYLOAD_FILES or name.startswith("."):
                continue
            try:
                opened = open_regular(name, dir_fd=descriptor)
            except LocalFileError:
                continue
            size_bytes = os.fstat(opened.fileno()).st_size
            if size_bytes > min(BUNDLED_FILE_MAX_BYTES, budget_bytes) or members >= BUNDLE_MAX_FILES:
                opened.close()
                continue
            budget_bytes -= size_bytes
            members += 1
            yield str(Path("work") / Path(where).relative_to(folder.work) / name), opened
