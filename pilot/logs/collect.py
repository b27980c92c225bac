"""Which files are a job's logs, opened in a way that no payload can bend: no link is followed, no pipe waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
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
# A payload may leave a million files, or folders in folders without an end: what is looked at is bounded.
LOOKED_AT_MAX_FILES = 20_000
DEEPEST = 32
TOLD_MAX_FILES = 1000


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


class PassedOver:
    """The files of a payload that are not in its bundle, and why; of many only the first are told by name."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, name: str, why: str) -> None:
        self._count += 1
        if self._count <= TOLD_MAX_FILES:
            self._lines.append(f"{name!r}: {why}")

    def text(self) -> str:
        more = f"and {self._count - TOLD_MAX_FILES} more\n" if self._count > TOLD_MAX_FILES else ""
        return "These files of the work folder are not in this bundle:\n\n" + "\n".join(self._lines) + f"\n{more}"


@dataclass
class Budget:
    """What a payload's files may still take of the bundle, and of the pilot's time; ``passed_over``: what was too much."""

    bytes_: int = BUNDLE_MAX_BYTES
    members: int = BUNDLE_MAX_FILES
    entries: int = LOOKED_AT_MAX_FILES
    passed_over: PassedOver = field(default_factory=PassedOver)


def bundle_members(
    folder: JobFolder, moved: frozenset[str], budget: Budget | None = None
) -> Iterator[tuple[str, BinaryIO]]:
    """Name in the bundle and open file of all that belongs into log.tgz: the logs and the payload's small files.

    Inputs and outputs (``moved``), hidden files, links, sockets, big files and what exceeds the budget are passed over.
    """
    budget = budget or Budget()
    for file in log_files(folder):
        try:
            opened = file.open()
        except (LocalFileError, OSError) as error:
            budget.passed_over.add(file.name, str(error))
            continue
        budget.bytes_ -= os.fstat(opened.fileno()).st_size
        yield file.name, opened
    try:
        work = os.open(folder.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # a payload may have removed its own folder; its logs are worth keeping all the same
        return
    yield from _below(work, "work", moved.union(PAYLOAD_FILES), budget, DEEPEST)


def _below(
    descriptor: int, where: str, others: frozenset[str], budget: Budget, deeper: int
) -> Iterator[tuple[str, BinaryIO]]:
    """The members in the open folder ``descriptor``, which is closed in the end, and below it."""
    try:
        with os.scandir(descriptor) as listing:
            entries = sorted(islice(listing, budget.entries + 1), key=lambda entry: entry.name)
        if len(entries) > budget.entries:
            budget.passed_over.add(f"{where}/", f"it has too many files: {budget.entries} of them are looked at")
            entries = entries[: budget.entries]
        budget.entries -= len(entries)
        for entry in entries:
            if entry.name.startswith(".") or entry.name in others:
                continue
            name = f"{where}/{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                yield from _member(descriptor, entry.name, name, budget)
            elif deeper == 0:
                budget.passed_over.add(name, f"more than {DEEPEST} folders deep")
            else:
                yield from _in_folder(descriptor, entry.name, name, others, budget, deeper - 1)
    finally:
        os.close(descriptor)


def _in_folder(
    parent: int, folder: str, name: str, others: frozenset[str], budget: Budget, deeper: int
) -> Iterator[tuple[str, BinaryIO]]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        budget.passed_over.add(name, error.strerror or str(error))
        return
    yield from _below(descriptor, name, others, budget, deeper)


def _member(descriptor: int, file: str, name: str, budget: Budget) -> Iterator[tuple[str, BinaryIO]]:
    try:
        opened = open_regular(file, dir_fd=descriptor)
    except LocalFileError as error:
        budget.passed_over.add(name, str(error))
        return
    size_bytes = os.fstat(opened.fileno()).st_size
    if why := _unwanted(size_bytes, budget):
        opened.close()
        budget.passed_over.add(name, why)
        return
    budget.bytes_ -= size_bytes
    budget.members -= 1
    yield name, opened


def _unwanted(size_bytes: int, budget: Budget) -> str:
    if size_bytes > BUNDLED_FILE_MAX_BYTES:
        return f"{size_bytes} bytes, files of up to {BUNDLED_FILE_MAX_BYTES} bytes are taken"
    if size_bytes > budget.bytes_:
        return f"{size_bytes} bytes, and the bundle is full: {BUNDLE_MAX_BYTES} bytes"
    return "" if budget.members else f"the bundle is full: {BUNDLE_MAX_FILES} files"
