"""A job's logs go to ``<RSE>/<queue>/PandaJob_<PandaID>/``: the texts as texts, so that a browser shows them, and log.tgz.

Object names and content types are the monitor's rules. The public URL of ``pilotlog.txt`` is known from the start.
"""

from __future__ import annotations

import io
import logging
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from pilot.job.account import Account, proven
from pilot.job.endpoint import log_object, public_url
from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, FileSpec, Job
from pilot.job.report import FileReport, StoredFile
from pilot.logs.bundle import BundlePlan, write_bundle
from pilot.logs.collect import TEXT_TYPE, LogFile, log_files
from pilot.logs.job_html import make_job_page
from pilot.logs.page import CONTENT_TYPE, PAGE_NAME
from pilot.logs.pump import follow, whole_or_ends
from pilot.logs.segments import Segments
from pilot.ports import LogsStored
from pilot.runtime.events import redactor
from pilot.runtime.probe import Point, probe
from pilot.runtime.retry import LOG_UPLOAD, RetryPolicy
from pilot.runtime.stop import Deadline, Stop, Stopped
from pilot.runtime.workdir import JobFolder
from pilot.storage.checksum import Checksums
from pilot.storage.store import LocalFileError, ObjectHeaders, StoreError, Stores
from pilot.storage.upload import StreamUpload, send

logger = logging.getLogger("pilot.logs")

LIVE_TRY = RetryPolicy("live log", tries=1, first_s=0.5, cap_s=1, total_s=10)
TEXT_HEADERS = ObjectHeaders(content_type=TEXT_TYPE, cache_control="no-cache")
PAGE_HEADERS = ObjectHeaders(content_type=CONTENT_TYPE, cache_control="no-cache")
BUNDLE_HEADERS = ObjectHeaders(content_type="application/gzip", cache_control="no-cache")
PARALLEL_UPLOADS = 4
KEEPING_S = 1.0  # what a bundle may still take on the disk when time is up and it could not be stored

Troubles = (StoreError, LocalFileError, OSError, Stopped)


@dataclass(frozen=True)
class PublicLogs:
    """The logs of one queue. ``door_url`` is where they are written, ``public_base`` where the world reads them.

    ``retry_s``: how long an upload at the end of a job is tried.
    """

    stores: Stores
    queue_name: str
    door_url: str
    public_base: str
    retry_s: float

    def url(self, panda_id: int) -> str:
        """The public URL of the pilot's log; the monitor makes the payload's from it."""
        return public_url(self.public_base, log_object(self.queue_name, panda_id, "pilotlog.txt"))

    def follow(self, attempt: Attempt, folder: JobFolder, stop: Stop) -> None:
        """Show the growing logs until ``stop``."""

        def put(name: str, content: BinaryIO) -> None:
            url = self._door(attempt.panda_id, name)
            send(self.stores, content, url, stop, headers=TEXT_HEADERS, policy=LIVE_TRY)

        follow(folder, put, stop)

    def store(self, account: Account, folder: JobFolder, stop: Stop) -> LogsStored:
        """Store every log, the bundle and the job page. What cannot be stored is a problem told, not an exception.

        A malformed job names no bundle that could be trusted; its pilot's log is stored all the same.
        """
        return _Storing(self, account, folder, Deadline(self.retry_s), stop).store()

    def _door(self, panda_id: int, name: str) -> str:
        return f"{self.door_url.rstrip('/')}/{log_object(self.queue_name, panda_id, name)}"


@dataclass
class _Storing:
    """The logs of one ended job on their way. ``time`` is for all: a store that is down is not waited for once a file."""

    logs: PublicLogs
    account: Account
    folder: JobFolder
    time: Deadline
    stop: Stop

    def __post_init__(self) -> None:
        self.segments = Segments(self.folder)
        self.shown_segments = 0  # that the page tells of
        self.log = self.account.job.log if isinstance(self.account.job, Job) else None

    def store(self) -> LogsStored:
        with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="log-upload") as pool:
            page = pool.submit(self._made_page)
            bundle = pool.submit(self._store_bundle, self.log, page) if self.log else None
            texts = [pool.submit(self._store_text, file) for file in log_files(self.folder)]
            shown = pool.submit(self._store_page, page, texts)
            problems = [problem for text in texts if (problem := text.result())]
            report, problem = bundle.result() if bundle else (None, "")
            problems += filter(None, [shown.result(), problem])
        self._correct_page(report, problem)
        probe(Point.LOG_STORED)
        return LogsStored(report, "; ".join(problems))

    # --- the texts

    def _store_text(self, file: LogFile) -> str:
        """One text, secrets masked; the problem in words, empty when it is stored."""
        try:
            with redactor.reading(file.open()) as opened:
                if not whole_or_ends(file.name, opened, self.segments, self._put_text):
                    self._remove_segments(file.name)
        except Troubles as trouble:
            logger.warning("log %s is not stored: %s", file.name, trouble)
            return f"{file.name}: {trouble}"
        return ""

    def _put_text(self, name: str, content: BinaryIO) -> None:
        self._send(name, content, TEXT_HEADERS)

    def _remove_segments(self, log: str) -> None:
        """The whole text lies in one object now: what was kept while it grew goes. What cannot go stays, and harms nobody."""
        try:
            for name in self.segments.names(log):
                url = self._url(name)
                self.logs.stores.for_url(url).remove(url, self.stop)
            self.segments.forget(log)
        except Troubles as trouble:
            logger.debug("a superfluous segment of %s stays: %s", log, trouble)

    # --- the page

    def _made_page(self) -> bytes | None:
        self.shown_segments = self.segments.count
        bundle_name = self.log.lfn if self.log else ""
        return make_job_page(self.account, self.logs.queue_name, self.folder, self.segments, bundle_name)

    def _store_page(self, made: Future[bytes | None], texts: list[Future[str]]) -> str:
        """The page, drawn anew when the logs have come to lie in more segments than it names."""
        page = made.result()
        for text in texts:
            text.result()
        return self._put_page(page if self.segments.count <= self.shown_segments else self._made_page())

    def _put_page(self, page: bytes | None) -> str:
        if page is None:
            return ""
        try:
            self._send(PAGE_NAME, io.BytesIO(page), PAGE_HEADERS)
        except Troubles as trouble:
            logger.warning("%s is not stored: %s", PAGE_NAME, trouble)
            return f"{PAGE_NAME}: {trouble}"
        return ""

    def _correct_page(self, bundle: FileReport | None, problem: str) -> None:
        """A page must not show a job as finished that is reported failed for want of its bundle."""
        if self.account.outcome is None:
            return
        outcome = proven(self.account.outcome, self.account.job, bundle, problem)
        if outcome is not self.account.outcome:
            self.account = replace(self.account, outcome=outcome)
            self._put_page(self._made_page())

    # --- the bundle

    def _store_bundle(self, log: FileSpec, page: Future[bytes | None]) -> tuple[FileReport | None, str]:
        """The report of log.tgz; without ``surl``, and with the problem, when it lies on the disk and not in the store."""
        job = self.account.job
        moved = frozenset(file.lfn for file in (*job.inputs, *job.outputs)) if isinstance(job, Job) else frozenset()
        plan = BundlePlan(self.folder, f"PandaJob_{self.account.attempt.panda_id}", moved, lambda: _pages(page))
        try:
            stored = self._streamed(log, plan)
            return FileReport(log.lfn, _guid(log), stored.size_bytes, stored.adler32, stored.url), ""
        except Troubles as trouble:
            logger.error("%s is not stored: %s", log.lfn, trouble)
            return self._kept(log, plan), f"{log.lfn}: {trouble}"

    def _streamed(self, log: FileSpec, plan: BundlePlan) -> StoredFile:
        policy = replace(LOG_UPLOAD, total_s=self.time.left_s())
        upload = StreamUpload(self.logs.stores, self._url(log.lfn), self.stop, BUNDLE_HEADERS, policy)
        try:
            write_bundle(plan, upload, self.stop.check)
            probe(Point.LOG_BUNDLED)
            return upload.finish()
        finally:
            upload.abandon()

    def _kept(self, log: FileSpec, plan: BundlePlan) -> FileReport | None:
        """The bundle on the disk, where a person can find it: a report needs its size and checksum, stored or not."""
        time = Deadline(KEEPING_S)

        def check() -> None:
            if self.stop.is_set() and time.passed():
                self.stop.check()

        try:
            with (self.folder.logs / log.lfn).open("wb") as file:
                measured = _Measured(file)
                write_bundle(plan, measured, check)
        except (OSError, Stopped) as trouble:
            logger.error("%s", Diagnosis(PilotError.LOG_CREATION_FAILURE, str(trouble)))
            return None
        return FileReport(log.lfn, _guid(log), measured.size_bytes, measured.checksums.adler32)

    # --- all

    def _url(self, name: str) -> str:
        return self.logs._door(self.account.attempt.panda_id, name)

    def _send(self, name: str, content: BinaryIO, headers: ObjectHeaders) -> None:
        policy = replace(LOG_UPLOAD, total_s=self.time.left_s())
        send(self.logs.stores, content, self._url(name), self.stop, headers=headers, policy=policy)


def _pages(page: Future[bytes | None]) -> dict[str, bytes]:
    made = page.result()
    return {PAGE_NAME: made} if made else {}


def _guid(log: FileSpec) -> str:
    return log.guid or str(uuid.uuid4())


class _Measured:
    """Counts and hashes what passes through to the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.checksums = Checksums(["adler32"])

    def write(self, piece: bytes) -> int:
        self.checksums.update(piece)
        self.size_bytes += len(piece)
        return self._file.write(piece)
