"""A job's logs go to ``<RSE>/<queue>/PandaJob_<PandaID>/``: the texts as texts, so that a browser shows them, and log.tgz.

Object names and content types are the monitor's rules. The public URL of ``pilotlog.txt`` is known from the start.
"""

from __future__ import annotations

import io
import logging
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pilot.job.endpoint import log_object, public_url
from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, FileSpec, Job, MalformedJob
from pilot.job.report import FileReport
from pilot.logs.bundle import Bundle, make_bundle
from pilot.logs.collect import TEXT_TYPE, LogFile, log_files
from pilot.logs.pump import follow
from pilot.ports import LogsStored
from pilot.runtime.events import redactor
from pilot.runtime.probe import Point, probe
from pilot.runtime.retry import LOG_UPLOAD, RetryPolicy
from pilot.runtime.stop import Deadline, Stop, Stopped
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError, ObjectHeaders, StoreError, Stores
from pilot.storage.upload import send

logger = logging.getLogger("pilot.logs")

LIVE_TRY = RetryPolicy("live log", tries=1, first_s=0.5, cap_s=1, total_s=10)
TEXT_HEADERS = ObjectHeaders(content_type=TEXT_TYPE, cache_control="no-cache")
BUNDLE_HEADERS = ObjectHeaders(content_type="application/gzip", cache_control="no-cache")
PARALLEL_UPLOADS = 4


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

        def show(file: LogFile, tail: io.BytesIO) -> None:
            url = self._door(attempt.panda_id, file.name)
            send(self.stores, tail, url, stop, headers=TEXT_HEADERS, policy=LIVE_TRY)

        follow(folder, show, stop)

    def store(self, job: Job | MalformedJob, folder: JobFolder, stop: Stop) -> LogsStored:
        """Store every log and the bundle. A log that cannot be stored is a problem told, not an exception.

        A malformed job names no bundle that could be trusted; its pilot's log is stored all the same.
        """
        if job.attempt is None:
            return LogsStored(None, "there is no PandaID to store logs under")
        panda_id = job.attempt.panda_id
        bundle = self._bundle(job, folder, stop) if isinstance(job, Job) else None
        probe(Point.LOG_BUNDLED)
        time = Deadline(self.retry_s)  # of all together: a store that is down is not waited for once a file
        with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="log-upload") as pool:
            stored = (
                pool.submit(self._upload_bundle, job, bundle, time, stop) if bundle and isinstance(job, Job) else None
            )
            texts = [pool.submit(self._upload, panda_id, file, time, stop) for file in log_files(folder)]
            problems = [problem for text in texts if (problem := text.result())]
            report, problem = stored.result() if stored else (None, "")
        probe(Point.LOG_STORED)
        return LogsStored(report, "; ".join([*problems, problem] if problem else problems))

    def _door(self, panda_id: int, name: str) -> str:
        return f"{self.door_url.rstrip('/')}/{log_object(self.queue_name, panda_id, name)}"

    def _upload(self, panda_id: int, file: LogFile, time: Deadline, stop: Stop) -> str:
        """One text, secrets masked; the problem in words, empty when it is stored."""
        try:
            with redactor.reading(file.open()) as opened:
                send(
                    self.stores,
                    opened,
                    self._door(panda_id, file.name),
                    stop,
                    headers=TEXT_HEADERS,
                    policy=replace(LOG_UPLOAD, total_s=time.left_s()),
                )
        except (StoreError, LocalFileError, OSError, Stopped) as trouble:
            logger.warning("log %s is not stored: %s", file.name, trouble)
            return f"{file.name}: {trouble}"
        return ""

    def _bundle(self, job: Job, folder: JobFolder, stop: Stop) -> Bundle | None:
        if job.log is None:
            return None
        moved = frozenset(file.lfn for file in (*job.inputs, *job.outputs))
        try:
            return make_bundle(folder, job.log.lfn, f"PandaJob_{job.panda_id}", moved, stop)
        except OSError as trouble:
            logger.error("%s", Diagnosis(PilotError.LOG_CREATION_FAILURE, str(trouble)))
            return None

    def _upload_bundle(self, job: Job, bundle: Bundle, time: Deadline, stop: Stop) -> tuple[FileReport, str]:
        """The report of log.tgz; without ``surl``, and with the problem, when it could not be stored."""
        log = job.log or FileSpec(bundle.path.name)
        report = FileReport(log.lfn, log.guid or str(uuid.uuid4()), bundle.size_bytes, bundle.adler32)
        try:
            url = self._door(job.panda_id, log.lfn)
            policy = replace(LOG_UPLOAD, total_s=time.left_s())
            stored = send(self.stores, bundle.path, url, stop, headers=BUNDLE_HEADERS, policy=policy)
        except (StoreError, LocalFileError, OSError, Stopped) as trouble:
            logger.error("%s is not stored: %s", log.lfn, trouble)
            return report, f"{log.lfn}: {trouble}"
        return replace(report, surl=stored.url), ""
