"""Wiring of the pilot's own logs, from Settings: the worker log and where it is handed in, and realtime logging."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from pilot.job.errors import SettingsError
from pilot.job.model import ApiGeneration
from pilot.panda.auth import Credentials
from pilot.ports import Follower, ServerRefused, ServerUnreachable
from pilot.runtime.stop import Deadline, Stop, Stopped
from pilot.settings import Settings

if TYPE_CHECKING:
    from pilot.logs.google_logging import GoogleLogging
    from pilot.logs.worker_log import WorkerLog
    from pilot.panda.file_cache import CacheForm

logger = logging.getLogger("pilot")

GOOGLE_CLOUD_LOGGING = "google-cloud-logging"  # as REALTIME_LOGGING_SERVER names it


@contextmanager
def realtime_logs(settings: Settings, stop: Stop) -> Iterator[tuple[Follower, ...]]:
    """Realtime logging, where it is switched on in the variables in use; imported only then."""
    kind = realtime_kind(settings)
    if not settings.use_realtime_logging or kind != GOOGLE_CLOUD_LOGGING:
        if settings.use_realtime_logging:
            logger.warning("realtime logging to %r is not known here (%s is): it is off", kind, GOOGLE_CLOUD_LOGGING)
        yield ()
        return
    from pilot.logs.cloud import CloudNames, cloud_logs

    names = CloudNames(
        settings.node,
        settings.harvester_id,
        settings.worker_id,
        settings.realtime_logname,
        tuple(name.strip() for name in settings.realtime_logfiles.split(",")),
    )
    with cloud_logs(names, logging_service(settings), stop, settings.shutdown_s) as logs:
        yield (logs,)


def realtime_kind(settings: Settings) -> str:
    """The kind of server that is named for realtime logging, without the particulars behind it."""
    return (settings.realtime_logging_server or "").removeprefix("logserver=").partition(";")[0]


def logging_service(settings: Settings) -> GoogleLogging:
    """The service that realtime logging writes to."""
    from pilot.logs.google_logging import GoogleLogging, LoggingOptions

    return GoogleLogging(
        LoggingOptions(
            settings.cloud_logging_endpoint,
            str(settings.storage_ca) if settings.storage_ca else None,
            settings.google_application_credentials,
            settings.metadata_url,
            settings.cloud_logging_project,
        )
    )


def own_worker_log(settings: Settings) -> AbstractContextManager[WorkerLog | None]:
    """The worker log, where there is to be one: in its place, or else in the work folder."""
    if settings.worker_log is None:
        return nullcontext()
    from pilot.logs.worker_log import worker_log

    return worker_log(tuple(dict.fromkeys((settings.worker_log, settings.workdir / settings.worker_log.name))))


def _worker_log_forms(settings: Settings) -> tuple[CacheForm, ...]:
    """The ways to hand it in, the likeliest first: a Harvester of 2021 has announced the older one's name."""
    from pilot.panda.file_cache import worker_log_forms

    apis = tuple(ApiGeneration) if settings.api == "auto" else (ApiGeneration(settings.api),)
    likeliest = tuple(reversed(apis)) if settings.of_2021 else apis
    return worker_log_forms(likeliest, settings.worker_log_name, settings.harvester_id, settings.worker_id)


def worker_log_url(settings: Settings) -> str | None:
    """The public address of the worker log, as Harvester announced it; None when there will be none."""
    if settings.worker_log is None or settings.worker_log_public is None:
        return None
    forms = _worker_log_forms(settings)
    if not forms:
        return None
    return f"{settings.worker_log_public.rstrip('/')}/{forms[0].name}"


def hand_in_worker_log(settings: Settings, log: WorkerLog, credentials: Credentials | None, stop: Stop) -> None:
    """Upload the worker log: last of all, within what is left of the time. A failure is logged and nothing more."""
    frontend = settings.worker_log_upload
    if frontend is None:
        return
    from pilot.logs.worker_log import hand_in
    from pilot.panda.file_cache import FileCache

    forms = _worker_log_forms(settings)
    if credentials is None or not forms:
        logger.warning("the worker log is not uploaded: there are no credentials, or no name for it")
        return

    def upload(time: Deadline, scope: Stop) -> None:
        form = FileCache(frontend, credentials, str(settings.ca) if settings.ca else None).upload(
            forms, log.opened, time, scope
        )
        logger.info("the worker log is uploaded as %s", form.name)

    try:
        hand_in(upload, stop, settings.shutdown_s)
    except (SettingsError, ServerUnreachable, ServerRefused, Stopped, OSError) as trouble:
        logger.warning("the worker log is not uploaded: %s", trouble)
