"""The work volume: one writer by lock, a folder for each job, and how much room is left."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import Attempt
from pilot.runtime.files import sync_folder
from pilot.runtime.journal import FULL

logger = logging.getLogger("pilot.workdir")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT_JOURNALS = 100  # of settled jobs
RESERVE_BYTES = 16 << 20  # kept free so that the last report can be written on a full disk
REPORT_BYTES = 1 << 20  # of the reserve: the journal's last records, the report's body among them


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The places of one job.

    ``work`` is the payload's own folder (inputs, outputs, TMPDIR below it); everything else is the pilot's.
    """

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def stdout(self) -> Path:
        return self.logs / "payload.stdout"

    @property
    def stderr(self) -> Path:
        return self.logs / "payload.stderr"

    @property
    def scratch(self) -> Path:
        """What a container sees as ``/tmp`` and ``/var/tmp`` lies here; in no log bundle."""
        return self.root / "tmp"

    @property
    def tmp(self) -> Path:
        """The payload's TMPDIR; ``/tmp`` in a container."""
        return self.scratch / "tmp"

    @property
    def home(self) -> Path:
        return self.tmp / "home"

    @property
    def control(self) -> Path:
        """The pilot's own: the script of a payload without a container."""
        return self.root / "control"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def pilot_log(self) -> Path:
        return self.logs / "pilotlog.txt"

    def free_bytes(self) -> int:
        """Bytes an unprivileged writer may still use on the volume."""
        return _free_bytes(self.root)

    def remove(self) -> None:
        """Remove everything, also what a payload made unwritable. What cannot go is left and found again at the next start."""
        remove_tree(self.root)


def remove_tree(root: Path) -> None:
    """Remove a folder that a payload had its hands on: links are not followed, and no depth of folders is too much.

    The folders in a folder are lifted to the top before it goes, so that nothing grows with the depth: no path, no call stack,
    no number of open files. What cannot be removed is left.
    """
    try:
        top = os.open(root, _FOLDER)
    except OSError:
        return
    try:
        lifted = _names(secrets.token_hex(8))
        while sum(_clear(name, top, lifted) for name in _folders_in(top)):
            continue
    finally:
        os.close(top)
    with suppress(OSError):
        root.rmdir()


def _clear(name: str, top: int, lifted: Iterator[str]) -> bool:
    """Empty the folder ``name`` of ``top`` and remove it; the folders in it come to lie in ``top``. False: nothing changed."""
    changed = False
    with suppress(OSError):  # another user's, opened to our group by its owner
        os.chmod(name, 0o700, dir_fd=top)
    try:
        folder = os.open(name, _FOLDER, dir_fd=top)
    except OSError:
        return False
    try:
        for inner in _folders_in(folder):
            with suppress(OSError):
                os.chmod(inner, 0o700, dir_fd=folder)  # it is written to when its parent changes
            with suppress(OSError):
                os.rename(inner, next(lifted), src_dir_fd=folder, dst_dir_fd=top)
                changed = True
    finally:
        os.close(folder)
    with suppress(OSError):
        os.rmdir(name, dir_fd=top)
        changed = True
    return changed


def _folders_in(folder: int) -> list[str]:
    """The names of the folders in an open folder, from which everything else is removed."""
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError:
        return []
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            with suppress(OSError):
                os.unlink(entry.name, dir_fd=folder)
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _names(word: str) -> Iterator[str]:
    for number in count():
        yield f".{word}-{number}"


class VolumeInUse(PilotCannotWork):
    """Another living pilot holds the volume: what is there, and what is told of it, is the other one's."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            ExitCode.GENERAL, f"another pilot works in {root}; give this one another folder with --workdir DIR"
        )


class WorkVolume:
    """``workdir``: jobs/<PandaID>.<attempt>/ for each job, worker.journal, images/, cric/, and the lock of its one writer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / "jobs"

    @property
    def worker_journal(self) -> Path:
        return self.root / "worker.journal"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the volume and hold its lock. Raises PilotCannotWork with a sentence: unwritable, full, or in use."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._close_to_others()
            self.jobs.mkdir(exist_ok=True, mode=0o755)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PilotCannotWork(
                ExitCode.MKDIR,
                f"cannot make the work folder {self.root}: {error.strerror}; give another with --workdir DIR",
            ) from None
        try:
            self._lock(descriptor)
            with suppress(OSError):  # whoever needs it asks again
                self.keep_reserve()
            yield
        finally:
            os.close(descriptor)

    def _close_to_others(self) -> None:
        """What lies in the volume is renamed by nobody else: an emptyDir is open to every user of the pod."""
        status = self.root.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o022:
            self.root.chmod(stat.S_IMODE(status.st_mode) & ~0o022)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VolumeInUse(self.root) from None
        except OSError as error:
            raise PilotCannotWork(
                ExitCode.MKDIR,
                f"the work folder {self.root} cannot be locked: {error.strerror}; give another with --workdir DIR",
            ) from None

    def free_bytes(self) -> int:
        """Bytes an unprivileged writer may still use on the volume."""
        return _free_bytes(self.root)

    @property
    def reserve(self) -> Path:
        """A file of RESERVE_BYTES that is given up when the disk is full, so that the last report can be written."""
        return self.root / "reserve"

    def keep_reserve(self) -> bool:
        """Make the reserve unless it is there; False when the volume has no room for it. Raises OSError: it is broken."""
        try:
            descriptor = os.open(self.reserve, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_blocks * 512 < RESERVE_BYTES:
                    os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.release_reserve()
            if error.errno not in FULL:
                raise
            return False
        return True

    def open_reserve_for_logs(self) -> None:
        """On a nearly full disk, give all of the reserve but what the report itself needs to the log bundle."""
        try:
            if self.free_bytes() < RESERVE_BYTES and self.reserve.lstat().st_size > REPORT_BYTES:
                os.truncate(self.reserve, REPORT_BYTES)
        except OSError:
            return  # there is none, or it is spent

    def release_reserve(self) -> bool:
        """Give the reserve up; True when there was one."""
        try:
            kept_bytes = self.reserve.lstat().st_blocks * 512
            self.reserve.unlink()
        except OSError:
            return False
        return kept_bytes > 0

    def open_job(self, attempt: Attempt) -> JobFolder:
        """Make the folder of an attempt, on a full disk at the reserve's expense. Raises OSError."""
        try:
            return self._open_job(attempt)
        except OSError as error:
            if error.errno not in FULL or not self.release_reserve():
                raise
            return self._open_job(attempt)

    def _open_job(self, attempt: Attempt) -> JobFolder:
        folder = JobFolder(self.jobs / str(attempt))
        for path in (folder.root, folder.work, folder.logs, folder.scratch, folder.tmp, folder.home, folder.control):
            path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.jobs)  # the folder's own name must outlast a power cut, or its journal is lost with it
        return folder

    def archive(self, folder: JobFolder) -> None:
        """A settled job's folder goes; its journal stays in ``done/``, where a later pilot sees that the attempt is over."""
        try:
            try:
                self._archive_journal(folder)
            except OSError as error:  # a job that is forgotten here would run again where it is given and not asked for
                if error.errno not in FULL or not self.release_reserve():
                    raise
                self._archive_journal(folder)
        except OSError as error:
            logger.warning("the journal of job %s is not archived: %s", folder.root.name, error.strerror)
        folder.remove()

    def _archive_journal(self, folder: JobFolder) -> None:
        done = self.root / "done"
        done.mkdir(exist_ok=True, mode=0o700)
        folder.journal.rename(done / f"{folder.root.name}.journal")
        for old in sorted(done.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_JOURNALS]:
            old.unlink()

    def is_over(self, attempt: Attempt) -> bool:
        """True when this attempt was brought to its acknowledged report on this volume."""
        return (self.root / "done" / f"{attempt}.journal").exists()

    def known_jobs(self) -> list[JobFolder]:
        """Folders an earlier pilot left, oldest first."""
        folders = [path for path in self.jobs.iterdir() if path.is_dir() and not path.is_symlink()]
        return [JobFolder(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime)]


def _free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
