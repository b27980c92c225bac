"""What this node gives: room and right to write, memory, the time of day, places for what is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

from pilot.check.finding import Finding, note, ok, unknown, warning, wrong
from pilot.job.errors import ExitCode
from pilot.job.model import MEGABYTE
from pilot.job.queue import Queue
from pilot.payload.cgroup import MemoryGroup
from pilot.runtime import health
from pilot.runtime.clock import utc_now
from pilot.runtime.workdir import RESERVE_BYTES, WorkVolume

TRIAL_BYTES = 4096
SKEW_NOTED_S, SKEW_WRONG_S = 30.0, 300.0  # Google takes no signature that is more than some minutes off
ELSEWHERE = "free some space, or give another folder with --workdir DIR"


@contextmanager
def folder_made(root: Path) -> Iterator[OSError | None]:
    """While inside, the work folder is there, as a run makes it; what was made for this is gone afterwards."""
    made: list[Path] = []
    trouble = None
    try:
        for folder in [*reversed(root.parents), root]:
            if not folder.exists():
                folder.mkdir(mode=0o755)
                made.append(folder)
        if not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
    except OSError as error:
        trouble = error
    try:
        yield trouble
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # not empty: somebody has begun to use it
                folder.rmdir()


def work_folder(volume: WorkVolume, making: OSError | None, min_free_bytes: int) -> list[Finding]:
    """There, ours to write, free, and with room for a job to be asked for."""
    name, root = "work folder", volume.root
    if making is not None:
        return [wrong(name, f"{root} cannot be made: {making.strerror}", ELSEWHERE, ExitCode.MKDIR)]
    trouble = _write_trial(root)
    if trouble is not None and trouble.errno not in (errno.ENOSPC, errno.EDQUOT):
        return [wrong(name, f"{root} cannot be written: {trouble.strerror}", ELSEWHERE, ExitCode.MKDIR)]
    free_bytes = volume.free_bytes()
    needed_bytes = min_free_bytes + (0 if volume.reserve.exists() else RESERVE_BYTES)
    detail = f"{root} has {_mb(free_bytes)} free"
    if trouble is not None or free_bytes < needed_bytes:
        remedy = f"{ELSEWHERE}, or a smaller --min-free-mib"
        return [wrong(name, f"{detail}, {_mb(needed_bytes)} are needed", remedy, ExitCode.NO_LOCAL_SPACE)]
    found = [ok(name, detail)]
    if _is_held(root):
        remedy = "nothing, when it is the pilot you are looking at; a second one there would leave with 65"
        found = [warning(name, f"{detail}; a pilot works there now ({health.look(str(root))[1]})", remedy)]
    if volume.jobs.is_dir() and (left := [folder.root.name for folder in volume.known_jobs()]) and not _is_held(root):
        words = f"{', '.join(left[:5])}{' and more' if len(left) > 5 else ''}"
        found.append(note("earlier jobs", f"{words} of an earlier pilot; a run brings them to their end first"))
    return found


def _write_trial(root: Path) -> OSError | None:
    path = root / f".check-{secrets.token_hex(6)}"
    try:
        try:
            with path.open("xb") as file:
                file.write(b"\0" * TRIAL_BYTES)
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


def _is_held(root: Path) -> bool:
    """Whether a living pilot holds the folder's lock."""
    try:
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def room_for_jobs(volume: WorkVolume, queue: Queue | None, disk_limit_bytes: int | None) -> Finding:
    """What a job may be told it has, against what the queue promises: the pilot asks for smaller jobs where it is less."""
    name = "room for jobs"
    if queue is None:
        return unknown(name, "the queue is not known")
    try:
        free_bytes = volume.free_bytes()
    except OSError as error:
        return unknown(name, f"{volume.root}: {error.strerror}")
    have_bytes = min(free_bytes, disk_limit_bytes or free_bytes)
    promised_bytes = queue.max_workdir_bytes
    source = "the pod's disk limit" if disk_limit_bytes and disk_limit_bytes < free_bytes else "free"
    if promised_bytes is None:
        return ok(name, f"{_mb(have_bytes)} ({source}); queue {queue.name} sets no limit")
    words = f"{_mb(have_bytes)} ({source}); queue {queue.name} promises {_mb(promised_bytes)} (maxwdir)"
    if have_bytes < promised_bytes:
        remedy = "only jobs that ask for no more are taken: give the pod more disk, or lower maxwdir in CRIC"
        return warning(name, words, remedy)
    return ok(name, words)


def memory(group: MemoryGroup | None, queue: Queue | None) -> Finding:
    """The container's memory limit against what the queue lets a payload use."""
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    promised_bytes = None if queue is None or not queue.max_rss_bytes else queue.max_rss_bytes
    most_bytes = min(total_bytes, group.limit_bytes) if group else total_bytes
    whose = f"the container's limit is {_mb(group.limit_bytes)}, {_mb(group.used_bytes() or 0)} used" if group else (
        f"no limit of the container's own; the node has {_mb(total_bytes)}")  # fmt: skip
    if promised_bytes is None:
        return ok("memory", whose)
    detail = f"{whose}; queue {queue.name if queue else ''} has maxrss {_mb(promised_bytes)}"
    if most_bytes < promised_bytes:
        remedy = (
            "payloads that use what the queue promises are killed (1235): give the pod more memory, or lower maxrss"
        )
        return warning("memory", detail, remedy)
    return ok("memory", detail)


def clock(dates: Mapping[str, tuple[str, float]]) -> Finding:
    """Our time of day against that of each server. ``dates``: Date headers by URL, with our own time when they came."""
    skews_s: dict[str, float] = {}
    for url, (date, at) in dates.items():
        with suppress(ValueError, TypeError):
            skews_s[url] = at - parsedate_to_datetime(date).timestamp() - 0.5  # the header has whole seconds
    here = f"it is {utc_now():%Y-%m-%d %H:%M:%S} UTC here"
    if not skews_s:
        return unknown("clock", f"no server told the time; {here}")
    worst = max(skews_s, key=lambda url: abs(skews_s[url]))
    skew_s = skews_s[worst]
    if abs(skew_s) <= SKEW_NOTED_S:
        return ok("clock", f"within {max(1.0, abs(skew_s)):.0f} s of {len(skews_s)} servers")
    detail = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} {worst}; {here}"
    remedy = "set this node's clock (NTP): signatures are refused and certificates misjudged"
    return wrong("clock", detail, remedy) if abs(skew_s) > SKEW_WRONG_S else warning("clock", detail, remedy)


def file_place(name: str, path: Path) -> Finding:
    """Whether a file can be left there: its folder is there and writable."""
    folder = path.parent
    if not folder.is_dir():
        return warning(name, f"{path}: there is no folder {folder}", "make the folder, or name another file")
    trouble = _write_trial(folder)
    if trouble is not None:
        detail = f"{path} cannot be written: {trouble.strerror}"
        return warning(name, detail, "name another file, or change its folder's rights")
    return ok(name, str(path))


def port_place(name: str, address: str, port: int) -> Finding:
    """Whether the port is free."""
    try:
        socket.create_server((address, port)).close()
    except OSError as error:
        return warning(name, f"{address}:{port}: {error.strerror}", "name another port; the pilot works without it")
    return ok(name, f"{address}:{port}")


def _mb(size_bytes: int) -> str:
    return f"{size_bytes // MEGABYTE} MB"
