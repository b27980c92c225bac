"""The job page of a job whose logs lie in its folder: everything the pilot knows of it, told and drawn."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pilot.job.account import Account
from pilot.logs.collect import LogFile, log_files
from pilot.logs.pump import WHOLE_MAX_BYTES
from pilot.logs.segments import Segments, part, size_of
from pilot.runtime.clock import utc_now
from pilot.runtime.events import redactor
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError

if TYPE_CHECKING:
    from pilot.logs.page.story import LogStory

logger = logging.getLogger("pilot.logs")

TAIL_BYTES = 32 << 10  # more than the last lines that a page shows
SHOWN_ENDINGS = (".txt", ".stdout", ".stderr", "-log.json")  # of texts for people; the rest is linked to
BUNDLE_NOTE = "all logs and small files in one"


def make_job_page(
    account: Account, queue_name: str, folder: JobFolder, segments: Segments, bundle_name: str
) -> bytes | None:
    """The page, secrets masked; None when it cannot be made: a job is reported whatever becomes of its page."""
    from pilot.logs.page.document import job_page
    from pilot.logs.page.story import LogStory, cleaned
    from pilot.logs.page.telling import known_of, tell

    try:
        logs = [log for file in reversed(log_files(folder)) if (log := _log(file, segments))]
        if bundle_name:
            logs.append(LogStory(bundle_name, note=BUNDLE_NOTE))
        known = known_of(account, queue_name=queue_name, written_at_s=utc_now().timestamp(), logs=tuple(logs))
        return job_page(cleaned(tell(known), redactor.clean)).encode("utf-8", "replace")
    except Exception as error:  # the boundary: a page quotes everything hostile there is
        logger.error("the job page cannot be made", exc_info=error)
        return None


def _log(file: LogFile, segments: Segments) -> LogStory | None:
    """A log as the page shows it. None when it cannot be read."""
    from pilot.logs.page.telling import log_story

    try:
        with redactor.reading(file.open()) as opened:
            size_bytes = size_of(opened)
            tail = (
                part(opened, max(0, size_bytes - TAIL_BYTES), size_bytes) if file.name.endswith(SHOWN_ENDINGS) else b""
            )
    except (LocalFileError, OSError):
        return None
    names = segments.names(file.name) if size_bytes > WHOLE_MAX_BYTES else ()
    return log_story(file.name, size_bytes, tail, names)
