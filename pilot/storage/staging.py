"""Stage-in and stage-out: a job's files, the RSE each belongs to, and errors in PanDA's codes."""

from __future__ import annotations

import logging
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pilot.job.endpoint import READ_ACTIVITIES, WRITE_ACTIVITIES, Door, Endpoint, deterministic_path, doors_for
from pilot.job.errors import PilotCannotWork, PilotError, StageError, StageInError, StageOutError
from pilot.job.limits import output_limit_bytes
from pilot.job.model import FileSpec, Job
from pilot.job.queue import Queue, Transfer, storages_for
from pilot.job.report import FileReport, StagedFile
from pilot.runtime.clock import monotonic_s
from pilot.runtime.retry import TRANSFER, RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.download import fetch
from pilot.storage.local import LocalStore
from pilot.storage.names import NameTooLong, require_plain_lfn, require_plain_scope
from pilot.storage.parallel import in_parallel
from pilot.storage.store import (
    AccessRefused,
    ChecksumMismatch,
    LocalFileMissing,
    MissingCredentials,
    NoSpace,
    NotFound,
    SizeMismatch,
    Store,
    StoreError,
    StoreFull,
    Stores,
    TimedOut,
    TooLarge,
    TooSlow,
    Truncated,
    Unavailable,
)
from pilot.storage.transfer import open_regular, require_free_disk
from pilot.storage.upload import send
from pilot.storage.urls import door_url, local_path, shown

logger = logging.getLogger("pilot.storage")

TOLD_ONE_BY_ONE = (
    20  # files of a job; of more the log tells the sum: a line for each costs as much as moving a small one
)

Tell = Callable[..., None]  # a logger's method
EndpointOf = Callable[[str, Stop], Endpoint]  # raises PilotCannotWork: unknown, unreadable, or CRIC out of reach


@dataclass(frozen=True, slots=True)
class Place:
    """One place a file can be read from or written to."""

    rse: str
    url: str
    stores: Stores


class JobStager:
    """Moves a job's inputs and outputs between the RSEs that CRIC names and a folder (ports.Stager).

    ``endpoint_of`` is the CRIC client's. ``places_of``: where an input is, for whoever knows it without asking CRIC; raises
    StageInError. Safe to use for one job after another; not for two at once.
    """

    def __init__(
        self,
        queue: Queue,
        endpoint_of: EndpointOf,
        stores: Stores,
        policy: RetryPolicy = TRANSFER,
        places_of: Callable[[FileSpec], tuple[Place, ...]] | None = None,
    ) -> None:
        self._queue = queue
        self._endpoint_of = endpoint_of
        self._stores = stores
        self._policy = policy
        self._places_of = places_of

    def stage_in(self, job: Job, into: Path, stop: Stop) -> tuple[StagedFile, ...]:
        """Download every input to ``into/<lfn>``, four at a time, verified. Raises StageInError or Stopped."""
        if not job.inputs:
            return ()
        for file in job.inputs:
            _require_names(file, StageInError, PilotError.STAGE_IN_FAILED)
        _require_distinct(job.inputs)
        limit_bytes = self._room_for_unknown(job.inputs, into)
        tell = _teller(job.inputs)
        tasks = [
            partial(self._download, file, self._sources(file, stop), into, limit_bytes, tell) for file in job.inputs
        ]
        began_s = monotonic_s()
        staged = in_parallel(tasks, stop)
        _tell_all("fetched", [file.size_bytes for file in staged], monotonic_s() - began_s)
        return staged

    def stage_out(self, job: Job, from_folder: Path, stop: Stop) -> tuple[FileReport, ...]:
        """Upload every output that must exist, four at a time, verified by what the store says of it.

        All outputs are looked at before the first is sent, so that a missing one costs no upload. Raises StageOutError or
        Stopped.
        """
        there = outputs_there(job, from_folder, output_limit_bytes(self._queue))
        if not there:
            return ()
        tell = _teller(job.outputs)
        tasks = [partial(self._upload, file, self._destination(file, stop), from_folder, tell) for file in there]
        began_s = monotonic_s()
        stored = in_parallel(tasks, stop)
        _tell_all("stored", [file.size_bytes for file in stored], monotonic_s() - began_s)
        return stored

    # --- in

    def sources(self, job: Job, stop: Stop) -> dict[str, tuple[str, ...]]:
        """The URLs each input can be read from, best first, by LFN. Raises StageInError, Stopped."""
        return {file.lfn: tuple(place.url for place in self._sources(file, stop)) for file in job.inputs}

    def _room_for_unknown(self, files: tuple[FileSpec, ...], into: Path) -> int | None:
        """Check the announced sizes against the queue's limit and the disk; return what a file of unknown size may have."""
        total_bytes = sum(file.size_bytes or 0 for file in files)
        limit_bytes = self._queue.max_input_bytes
        if limit_bytes is not None and total_bytes > limit_bytes:
            detail = f"the inputs have {total_bytes} bytes, the queue's maxinputsize is {limit_bytes} bytes"
            raise StageInError(PilotError.SIZE_TOO_LARGE, detail)
        try:
            require_free_disk(into, total_bytes)
        except StoreError as error:
            raise StageInError(_code(error, IN_CODES, PilotError.STAGE_IN_FAILED), str(error)) from error
        return None if limit_bytes is None else limit_bytes - total_bytes

    def _sources(self, file: FileSpec, stop: Stop) -> tuple[Place, ...]:
        """Every door of every RSE the file may be read from, best first."""
        if self._places_of is not None:
            return self._places_of(file)
        with _stage_errors(file, StageInError):
            names = (file.rse,) if file.rse else storages_for(self._queue, Transfer.INPUT)
            return self._places(file, names, READ_ACTIVITIES, self._stores.schemes, stop)

    def _download(
        self,
        file: FileSpec,
        places: tuple[Place, ...],
        into: Path,
        unknown_limit_bytes: int | None,
        tell: Tell,
        stop: Stop,
    ) -> StagedFile:
        """From the first place that has it; the error of the first place is the one that is told.

        A second door of an RSE helps against a door that does not open, not against a file that is missing or wrong.
        """
        began_s = monotonic_s()
        problem: StageInError | None = None
        useless: set[str] = set()
        limit_bytes = unknown_limit_bytes if file.size_bytes is None else None
        for place in places:
            if place.rse in useless:
                continue
            try:
                fetched = fetch(
                    place.stores,
                    place.url,
                    into / file.lfn,
                    stop,
                    checksum=file.checksum,
                    size_bytes=file.size_bytes,
                    max_bytes=limit_bytes,
                    policy=self._policy,
                )
                tell("input %s: %d bytes from %s", file.lfn, fetched.size_bytes, shown(place.url))
                return StagedFile(file.lfn, fetched.size_bytes, monotonic_s() - began_s)
            except (NoSpace, TooLarge) as error:
                raise StageInError(IN_CODES[type(error)], _told(file, place, error)) from error
            except StoreError as error:
                if isinstance(error, NotFound | SizeMismatch | ChecksumMismatch):
                    useless.add(place.rse)
                code = _code(error, IN_CODES, PilotError.STAGE_IN_FAILED)
                problem = problem or StageInError(code, _told(file, place, error))
        assert problem is not None  # noqa: S101 - there is at least one place
        raise problem

    # --- out

    def _destination(self, file: FileSpec, stop: Stop) -> Place:
        """The first door of the first RSE that has one we can write to."""
        with _stage_errors(file, StageOutError):
            names = (file.rse,) if file.rse else storages_for(self._queue, Transfer.OUTPUT)
            schemes = tuple(scheme for scheme in self._stores.schemes if scheme != "https")  # that store only reads
            return self._places(file, names, WRITE_ACTIVITIES, schemes, stop)[0]

    def _upload(self, file: FileSpec, place: Place, from_folder: Path, tell: Tell, stop: Stop) -> FileReport:
        began_s = monotonic_s()
        try:
            folder = os.open(from_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                with open_regular(file.lfn, dir_fd=folder) as content:
                    before = os.fstat(content.fileno())
                    _require_output(file, before, output_limit_bytes(self._queue))
                    stored = send(place.stores, content, place.url, stop, policy=self._policy)
                    _require_the_same(file, before, os.fstat(content.fileno()))
                    _require_the_same(file, before, os.stat(file.lfn, dir_fd=folder, follow_symlinks=False))
            finally:
                os.close(folder)
        except StoreError as error:
            code = _code(error, OUT_CODES, PilotError.STAGE_OUT_FAILED)
            raise StageOutError(code, _told(file, place, error)) from error
        except OSError as error:
            raise StageOutError(PilotError.STAGE_OUT_FAILED, f"{from_folder}: {error.strerror}") from error
        tell("output %s: %d bytes at %s", file.lfn, stored.size_bytes, shown(stored.url))
        guid, took_s = file.guid or str(uuid.uuid4()), monotonic_s() - began_s
        return FileReport(file.lfn, guid, stored.size_bytes, stored.adler32, stored.url, took_s)

    # --- both

    def _places(
        self, file: FileSpec, rses: tuple[str, ...], activities: tuple[str, ...], schemes: tuple[str, ...], stop: Stop
    ) -> tuple[Place, ...]:
        """The doors of ``rses`` that speak one of ``schemes``; raises StageError when there is none."""
        if not rses:
            raise StageError(PilotError.NO_STORAGE, f"queue {self._queue.name} names no storage in CRIC (astorages)")
        found: list[Place] = []
        problem: StageError | None = None
        for rse in rses:
            try:
                doors = self._doors(rse, activities, schemes, stop)
            except StageError as error:
                problem = problem or error
                continue
            path = deterministic_path(file.scope, file.lfn)
            found += [Place(rse, door_url(door, path), self._stores_of(door)) for door in doors]
        if not found and problem is not None:
            raise problem
        return tuple(found)

    def _doors(self, rse: str, activities: tuple[str, ...], schemes: tuple[str, ...], stop: Stop) -> tuple[Door, ...]:
        try:
            endpoint = self._endpoint_of(rse, stop)
        except PilotCannotWork as error:
            raise StageError(PilotError.NO_STORAGE, f"storage {rse}: {error}") from error
        if not endpoint.active:
            raise StageError(PilotError.NO_STORAGE, f"storage {rse} is not ACTIVE in CRIC")
        if not endpoint.deterministic:
            raise StageError(PilotError.NON_DETERMINISTIC_DDM, f"storage {rse} is not deterministic in CRIC")
        doors = doors_for(endpoint, activities, schemes)
        if not doors:
            detail = f"storage {rse} has no {', '.join(schemes)} door for {', '.join(activities)} in CRIC"
            raise StageError(PilotError.NO_STORAGE_PROTOCOL, detail)
        return doors

    def _stores_of(self, door: Door) -> Stores:
        """A local door opens its own folder and nothing beside it."""
        if door.scheme != "file":
            return self._stores
        root = Path(local_path(door.url("")) or "/nonexistent")

        def local() -> Store:
            return LocalStore((root,))

        return Stores({"file": local})


def _teller(files: tuple[FileSpec, ...]) -> Tell:
    return logger.info if len(files) <= TOLD_ONE_BY_ONE else logger.debug


def _tell_all(done: str, sizes_bytes: list[int], took_s: float) -> None:
    """``took_s`` tells the rate of all together; the threads that move files are several."""
    if len(sizes_bytes) > 1:
        total_mb = sum(sizes_bytes) / 2**20
        text = "%d files %s: %.1f MB in %.2f s, %.0f MB/s"
        logger.info(text, len(sizes_bytes), done, total_mb, took_s, total_mb / max(took_s, 1e-3))


# --- errors -----------------------------------------------------------------------------------------------------------

IN_CODES: dict[type[StoreError], PilotError] = {
    NotFound: PilotError.MISSING_INPUT_FILE,
    MissingCredentials: PilotError.MISSING_CREDENTIALS,
    AccessRefused: PilotError.STAGE_IN_AUTHENTICATION,
    NoSpace: PilotError.NO_LOCAL_SPACE,
    TooLarge: PilotError.SIZE_TOO_LARGE,
    TimedOut: PilotError.STAGE_IN_TIMEOUT,
    TooSlow: PilotError.STAGE_IN_TIMEOUT,
    Truncated: PilotError.STAGE_IN_FAILED,
    Unavailable: PilotError.UNREACHABLE_NETWORK,
}
OUT_CODES: dict[type[StoreError], PilotError] = {
    LocalFileMissing: PilotError.MISSING_OUTPUT_FILE,
    MissingCredentials: PilotError.MISSING_CREDENTIALS,
    AccessRefused: PilotError.STAGE_OUT_AUTHENTICATION,
    StoreFull: PilotError.NO_REMOTE_SPACE,
    TimedOut: PilotError.STAGE_OUT_TIMEOUT,
    TooSlow: PilotError.STAGE_OUT_TIMEOUT,
}
IN_CHECKSUM_CODES = {"adler32": PilotError.GET_AD_MISMATCH, "md5": PilotError.GET_MD5_MISMATCH}
OUT_CHECKSUM_CODES = {"adler32": PilotError.PUT_AD_MISMATCH, "md5": PilotError.PUT_MD5_MISMATCH}


def _code(error: StoreError, codes: dict[type[StoreError], PilotError], otherwise: PilotError) -> PilotError:
    if isinstance(error, ChecksumMismatch):
        return (IN_CHECKSUM_CODES if codes is IN_CODES else OUT_CHECKSUM_CODES).get(error.algorithm, otherwise)
    for kind in type(error).__mro__:
        if kind in codes:
            return codes[kind]
    return otherwise


def _told(file: FileSpec, place: Place, error: StoreError) -> str:
    return f"{file.lfn} at {place.rse}: {error}"


@contextmanager
def _stage_errors(file: FileSpec, kind: type[StageError]) -> Iterator[None]:
    try:
        yield
    except StageError as error:
        raise kind(error.diagnosis.error, f"{file.lfn}: {error.diagnosis.detail}") from error


def _require_names(file: FileSpec, kind: type[StageError], otherwise: PilotError) -> None:
    try:
        require_plain_lfn(file.lfn)
    except NameTooLong:
        raise kind(PilotError.LFN_TOO_LONG, f"{file.lfn[:80]!r}...") from None
    except ValueError as error:
        raise kind(otherwise, f"the LFN {file.lfn[:80]!r} is refused: {error}") from None
    try:
        require_plain_scope(file.scope)
    except ValueError as error:
        raise kind(otherwise, f"the scope {file.scope[:80]!r} of {file.lfn} is refused: {error}") from None


def _require_distinct(files: tuple[FileSpec, ...]) -> None:
    seen: set[str] = set()
    for file in files:
        if file.lfn in seen:
            raise StageInError(PilotError.STAGE_IN_FAILED, f"the job names the input {file.lfn} twice")
        seen.add(file.lfn)


def outputs_there(job: Job, folder: Path, limit_bytes: int) -> tuple[FileSpec, ...]:
    """The outputs a payload has made. Raises StageOutError when one that must be there is not, or cannot be an output."""
    for file in job.outputs:
        _require_names(file, StageOutError, PilotError.BAD_OUTPUT_FILE_NAME)
    return tuple(file for file in job.outputs if _is_there(file, folder, job.allow_no_output, limit_bytes))


def _is_there(file: FileSpec, folder: Path, allow_no_output: frozenset[str], limit_bytes: int) -> bool:
    """True for a file to upload, False for one that may be missing; raises StageOutError for what cannot be an output."""
    try:
        _require_output(file, (folder / file.lfn).lstat(), limit_bytes)
    except FileNotFoundError:
        if file.lfn in allow_no_output:
            return False
        raise StageOutError(PilotError.MISSING_OUTPUT_FILE, f"the payload made no {file.lfn}") from None
    except OSError as error:
        raise StageOutError(PilotError.STAGE_OUT_FAILED, f"{file.lfn} cannot be read: {error.strerror}") from error
    return True


def _require_output(file: FileSpec, status: os.stat_result, limit_bytes: int) -> None:
    """Refuse links, folders, pipes, empty files, and files of more than ``limit_bytes``, holes counted.

    A file with a second name could be another's: a payload must not have the pilot publish what it only linked to.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise StageOutError(PilotError.STAGE_OUT_FAILED, f"{file.lfn} is not a regular file with one name")
    if status.st_size == 0:
        raise StageOutError(PilotError.EMPTY_OUTPUT_FILE, file.lfn)
    if status.st_size > limit_bytes:
        detail = f"{file.lfn} has {status.st_size} bytes, {limit_bytes} bytes allowed (maxwdir of the queue)"
        raise StageOutError(PilotError.OUTPUT_FILE_TOO_LARGE, detail)


def _require_the_same(file: FileSpec, before: os.stat_result, after: os.stat_result) -> None:
    """Refuse a file that somebody changed or replaced while it was being stored."""
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_nlink")
    if any(getattr(before, name) != getattr(after, name) for name in names):
        raise StageOutError(PilotError.STAGE_OUT_FAILED, f"{file.lfn} changed while it was being stored")
