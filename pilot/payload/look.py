"""What an operator sees of a running job: the end of a file, a folder, what takes the room, the processes. No shell.

Names come from the server and files from the payload, and both are hostile. A name is taken apart and followed step by step
from an open folder of the job, never through a link; what is read is bounded in bytes, entries and seconds; secrets are masked
before anything is cut, and what a terminal would obey is taken out. On rung B the payload's folders are seen with its own eyes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from pilot.payload import procfs
from pilot.payload.diagnosis import log_record, without_escapes
from pilot.payload.procfs import Process
from pilot.ports import Question, Sight
from pilot.runtime.clock import monotonic_s
from pilot.runtime.events import redactor
from pilot.runtime.workdir import JobFolder

STREAMS = ("payload.stdout", "payload.stderr")
LOG_NAMES = (*STREAMS, "pilotlog.txt")
TAIL_BYTES = 256 << 10  # of which 2 kB will be shown: a line of a JSON log may hold a long traceback
MOST_ENTRIES = 20_000  # of a folder that is listed
MOST_COUNTED = 500_000  # below a folder that is measured
MOST_DEPTH = 60
LONGEST_LOOK_S = 2.0
NAME_MAX_CHARS = 200
COMMAND_MAX_CHARS = 200
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANYTHING = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {stat.S_IFDIR: "/", stat.S_IFLNK: "@", stat.S_IFIFO: "|", stat.S_IFSOCK: "="}

Eyes = Callable[[], AbstractContextManager[None]]


class _NotShown(Exception):
    """Why something is not shown, in words."""


class _Place(NamedTuple):
    """A folder of the job, the steps down from it, and whose eyes may look."""

    folder: Path
    steps: list[str]
    eyes: Eyes


def look(
    question: Question,
    folder: JobFolder,
    most_bytes: int,
    eyes: Eyes = nullcontext,
    members: Callable[[], list[Process]] = list,
) -> str:
    """The answer, printable, of at most ``most_bytes`` bytes of UTF-8. Raises nothing that a name or a payload can cause.

    ``eyes``: inside it this thread sees what another user keeps to itself. ``members``: the job's processes.
    """
    try:
        if question.sight is Sight.TAIL:
            return _last(_tail(question, folder, eyes), most_bytes)
        if question.sight is Sight.PS:
            with eyes():
                lines = _processes(members())
        else:
            with _opened(question.name, folder, eyes, _ANYTHING) as opened:
                lines = (_listing if question.sight is Sight.LS else _sizes)(opened, question.name)
    except _NotShown as reason:
        lines = [str(reason)]
    except OSError as error:
        lines = [f"{_shown(question.name)}: {error.strerror}"]
    return _first(lines, most_bytes)


# --- where it is ------------------------------------------------------------------------------------------------------


def _places(name: str, folder: JobFolder, eyes: Eyes) -> list[_Place]:
    """Where this name may lie: in the payload's folder before all; the logs under their own names. Raises _NotShown."""
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if name.startswith("/") or "\0" in name or ".." in steps or len(steps) > MOST_DEPTH:
        raise _NotShown(f"{_shown(name)}: only what lies below the job's own folder is shown")
    if len(steps) == 1 and steps[0] in LOG_NAMES:
        return [_Place(folder.logs, steps, nullcontext)]
    places = [_Place(folder.work, steps, eyes)]
    rooms = (
        _Place(folder.work, steps[1:], eyes),
        _Place(folder.tmp, steps[1:], eyes),
        _Place(folder.logs, steps[1:], nullcontext),
    )
    return [*places, *(room for room in rooms if steps and steps[0] == room.folder.name)]


@contextmanager
def _opened(name: str, folder: JobFolder, eyes: Eyes, flags: int) -> Iterator[int]:
    """The named file or folder, opened and looked at with the right eyes. Raises _NotShown, OSError."""
    for place in _places(name, folder, eyes):
        try:
            here = os.open(place.folder, _STEP)
        except FileNotFoundError:
            continue
        with place.eyes():
            try:
                found = _reached(here, place.steps, flags)
            except FileNotFoundError:
                continue
            try:
                yield found
            finally:
                os.close(found)
            return
    raise _NotShown(f"{_shown(name) or 'the work folder'}: there is no such file; the logs are {', '.join(LOG_NAMES)}")


def _reached(here: int, steps: list[str], flags: int) -> int:
    """Open what is at the end of the steps; ``here`` is closed. A link is no step, and nothing to read from."""
    *ways, last = steps or ["."]
    try:
        for step in ways:
            below = os.open(step, _STEP, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags, dir_fd=here)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            text = f"{_shown('/'.join(steps))}: a part of it is no folder, or a link; links are not followed"
            raise _NotShown(text) from None
        raise
    finally:
        os.close(here)


# --- the end of a file ------------------------------------------------------------------------------------------------


def _tail(question: Question, folder: JobFolder, eyes: Eyes) -> list[str]:
    """The last lines, oldest first."""
    name = question.name or _grew_last(folder)
    if not name:
        return ["the payload has not been started yet"]
    with _opened(name, folder, eyes, _FILE) as opened:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _NotShown(f"{_shown(name)} is not a regular file with one name")
        with redactor.reading(os.fdopen(os.dup(opened), "rb")) as file:
            file.seek(max(0, status.st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    lines = [_line(line) for line in text.rstrip().split("\n")]
    if status.st_size > TAIL_BYTES and len(lines) > 1:
        lines = lines[1:]  # the first is cut
    if not text.strip():
        lines = ["(nothing so far)"]
    lines = lines if question.lines is None else lines[len(lines) - min(question.lines, len(lines)) :]
    return lines if question.name else [f"{name}:", *lines]


def _grew_last(folder: JobFolder) -> str:
    """Of the payload's two streams the one that was written to last; empty when there is none."""
    times_ns = {}
    for name in STREAMS:
        try:
            status = (folder.logs / name).lstat()
            times_ns[name] = (status.st_size > 0, status.st_mtime_ns)
        except OSError:
            continue
    return max(times_ns, key=lambda name: times_ns[name], default="")


def _line(line: str) -> str:
    """One line as it can be shown: of a progress bar its last state, of a JSON log what the record says."""
    record = log_record(line.encode("utf-8", "replace"))
    if record is not None and isinstance(record.get("message"), str):
        when, level = record.get("asctime", ""), record.get("levelname", "")
        line = f"{when} {level} {record['message']}".strip()
    return _printable(line.rstrip("\r").rpartition("\r")[2])


# --- folders ----------------------------------------------------------------------------------------------------------


def _listing(opened: int, name: str) -> list[str]:
    """A folder's entries, newest first; or the one file."""
    status = os.fstat(opened)
    if not stat.S_ISDIR(status.st_mode):
        return [_entry(status, name)]
    folder = os.open(".", _FOLDER, dir_fd=opened)
    try:
        found: list[tuple[os.stat_result, str]] = []
        more = False
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found) == MOST_ENTRIES:
                    more = True
                    break
                try:
                    found.append((entry.stat(follow_symlinks=False), entry.name))
                except OSError:
                    continue  # gone meanwhile
    finally:
        os.close(folder)
    found.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
    count = f"more than {MOST_ENTRIES} entries, some of them" if more else f"{len(found)} entries, newest first"
    return [count, *(_entry(status, name) for status, name in found)]


def _entry(status: os.stat_result, name: str) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(max(0, min(status.st_mtime, 1 << 36))))
    return f"{status.st_size:>12} {when} {_shown(name)}{_KINDS.get(stat.S_IFMT(status.st_mode), '')}"


def _sizes(opened: int, name: str) -> list[str]:
    """What takes the room: the entries of a folder with all that is below them, largest first. Bytes on disk."""
    status = os.fstat(opened)
    if not stat.S_ISDIR(status.st_mode):
        return [f"{_mb(status.st_blocks * 512)} {_shown(name)}"]
    count = _Count(monotonic_s() + LONGEST_LOOK_S)
    folder = os.open(".", _FOLDER, dir_fd=opened)
    try:
        sizes = count.entries(folder)
    finally:
        os.close(folder)
    total = (
        f"{_mb(sum(sizes.values()))} in {count.seen} files and folders{'' if count.whole else ', not all were seen'}"
    )
    largest = sorted(sizes.items(), key=lambda item: item[1], reverse=True)
    return [total, *(f"{_mb(size_bytes)} {_shown(name)}" for name, size_bytes in largest)]


class _Count:
    """Adds up a tree of a payload's, who may have made it of any size and depth."""

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s
        self.seen, self.whole = 0, True

    def entries(self, folder: int, depth: int = 0) -> dict[str, int]:
        """The entries of an open folder, and the bytes of all that is below each."""
        sizes: dict[str, int] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if self.seen >= MOST_COUNTED or monotonic_s() > self._until_s:
                    self.whole = False
                    break
                self.seen += 1
                try:
                    sizes[entry.name] = entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        sizes[entry.name] += self._below(folder, entry.name, depth)
                except OSError:
                    self.whole = False
        return sizes

    def _below(self, folder: int, name: str, depth: int) -> int:
        if depth >= MOST_DEPTH:
            self.whole = False
            return 0
        below = os.open(name, _FOLDER, dir_fd=folder)
        try:
            return sum(self.entries(below, depth + 1).values())
        finally:
            os.close(below)


# --- processes --------------------------------------------------------------------------------------------------------


def _processes(members: list[Process]) -> list[str]:
    """The job's processes, those that use most memory first."""
    if not members:
        return ["no process of the payload is running"]
    now_s = procfs.up_s()
    heading = f"{'PID':>7} {'PPID':>7} S {'AGE s':>7} {'CPU s':>8} {'RSS MB':>7} THR COMMAND"
    largest = sorted(members, key=lambda process: process.rss_bytes, reverse=True)
    return [heading, *(_process(process, now_s) for process in largest)]


def _process(process: Process, now_s: float) -> str:
    age_s = max(0.0, now_s - process.started / procfs.TICKS_PER_S)
    words = procfs.command_line(process.pid).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    command = _printable(redactor.clean(words or f"[{process.comm}]"))
    figures = f"{process.pid:>7} {process.ppid:>7} {process.state} {age_s:>7.0f} {process.cpu_s:>8.1f}"
    return f"{figures} {process.rss_bytes >> 20:>7} {process.threads:>3} {command[:COMMAND_MAX_CHARS]}"


# --- text -------------------------------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    """A name as it can be printed, whoever chose it."""
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in redactor.clean(name)
    )
    return text if len(text) <= NAME_MAX_CHARS else f"{text[:NAME_MAX_CHARS]}..."


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in without_escapes(text))


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):>9.1f} MB"


def _first(lines: list[str], most_bytes: int) -> str:
    """As many lines as there is room for, and how many there are more."""
    kept: list[str] = []
    left_bytes = most_bytes - 20  # for the last line
    for line in lines:
        left_bytes -= len(line.encode()) + 1
        if left_bytes < 0:
            return "\n".join([*kept, f"and {len(lines) - len(kept)} more"])
        kept.append(line)
    return "\n".join(kept)


def _last(lines: list[str], most_bytes: int) -> str:
    """As many of the last lines as there is room for; of a single one that is too long, its end."""
    kept: list[str] = []
    left_bytes = most_bytes
    for line in reversed(lines):
        left_bytes -= len(line.encode()) + 1
        if left_bytes < 0 and kept:
            break
        kept.append(line)
    text = "\n".join(reversed(kept))
    return text.encode()[-most_bytes:].decode("utf-8", "ignore") if len(text.encode()) > most_bytes else text
