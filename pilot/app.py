"""Wiring: builds the real parts from Settings and lets the worker live. The only module that knows them all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pilot import __version__
from pilot.cric.client import CricClient
from pilot.job.endpoint import WRITE_ACTIVITIES, Door, Endpoint, doors_for, public_base
from pilot.job.errors import ExitCode, PayloadError, PilotCannotWork
from pilot.job.model import MEGABYTE, ApiGeneration
from pilot.job.queue import Queue, Transfer, require_usable, storages_for
from pilot.own_logs import hand_in_worker_log, own_worker_log, realtime_logs, worker_log_url
from pilot.panda.auth import Credentials
from pilot.panda.client import PandaClient
from pilot.panda.renewal import renewed_by_server
from pilot.payload.readiness import Demands, Readiness
from pilot.payload.rungs import hide_memory, level_named
from pilot.ports import Acquired, Follower, ServerUnreachable
from pilot.runtime.clock import utc_now
from pilot.runtime.events import redactor, start_logging
from pilot.runtime.health import Signature
from pilot.runtime.loops import run_stage
from pilot.runtime.progress import PilotAt, board
from pilot.runtime.pulse import pulse_of_this_thread
from pilot.runtime.secret import SecretFile, tell_of_secrets
from pilot.runtime.signals import stop_on_signals
from pilot.runtime.stop import Stop, StopKind, Stopped
from pilot.runtime.summary import Summary
from pilot.runtime.workdir import VolumeInUse, WorkVolume
from pilot.settings import OPEN_VARIABLES, Settings
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import Stores
from pilot.watching import watched
from pilot.worker import Worker, WorkerEnd, WorkerPlan
from pilot.worker_status import worker_told

if TYPE_CHECKING:
    from pilot.jobnotes import JobRecord
    from pilot.jobrun import JobParts
    from pilot.logs.worker_log import WorkerLog

logger = logging.getLogger("pilot")

SHORTEST_CERTIFICATE_S = 60.0  # one that ends sooner does not outlive even a short job's final report
NO_COMPLAINT = frozenset({ExitCode.OK, ExitCode.SIGTERM, ExitCode.SIGINT})  # nothing is wrong that a person could mend


def run(settings: Settings) -> int:
    """One pilot process, from its settings to its exit code. Raises PilotCannotWork with the sentence for who started it."""
    hide_memory()
    start_logging(settings.log_level, settings.log_format)
    board.pilot = PilotAt(settings.queue)
    hide_secrets(settings)
    stop, credentials = Stop(), None
    with ExitStack() as closing:
        closing.enter_context(stop_on_signals(stop))
        if os.getpid() == 1:  # of a container: whoever loses its parent becomes our child
            from pilot.payload.strangers import strangers_collected

            closing.enter_context(strangers_collected(stop))
        closing.enter_context(watched(settings))
        followers = closing.enter_context(realtime_logs(settings, stop))
        log = closing.enter_context(own_worker_log(settings))
        try:
            _announce(settings)
            credentials = _credentials(settings)
            return _serve(settings, credentials, log, followers, stop, closing)
        except PilotCannotWork as trouble:
            logger.error("leaving with exit code %d: %s", trouble.exit_code, trouble)
            if isinstance(trouble, VolumeInUse):
                log = None  # it is the other pilot's, and handed in when that one leaves
            raise
        finally:
            if log is not None:
                hand_in_worker_log(settings, log, credentials, stop)


def _serve(
    settings: Settings,
    credentials: Credentials,
    log: WorkerLog | None,
    followers: tuple[Follower, ...],
    stop: Stop,
    closing: ExitStack,
) -> int:
    """The pilot's duty on its volume; what is on ``closing`` lasts until the worker log is handed in."""
    volume = WorkVolume(settings.workdir)
    closing.enter_context(volume.held())
    closing.enter_context(_beating(volume, log))
    try:
        with ExitStack() as parts:
            server = _server(settings, credentials)
            parts.callback(server.close)
            key = SecretFile(settings.token_key_file) if settings.token_key_file else None
            parts.enter_context(renewed_by_server(server, credentials.token, key))
            if not settings.recover_only:
                ids, site = (settings.harvester_id, settings.worker_id), settings.site or settings.queue
                parts.enter_context(worker_told(server, *ids, site, settings.node, stop))
            summary = Summary(settings.summary) if settings.summary else None
            after_job = partial(_after_job, settings, summary)
            worker = _worker(settings, server, volume, followers, after_job, stop, parts)
            end = worker.live()
            logger.info("leaving: %s", end.reason)
            _summarize(settings, summary, worker, end)
    except Stopped as stopped:
        logger.info("leaving before any job was asked for: %s", stopped)
        return int(ExitCode.SIGINT if stopped.reason.kind is StopKind.SIGINT else ExitCode.SIGTERM)
    if end.exit_code not in NO_COMPLAINT:
        raise PilotCannotWork(end.exit_code, end.reason)
    return int(end.exit_code)


def _announce(settings: Settings) -> None:
    logger.info("pilot %s on %s for queue %s", __version__, settings.node, settings.queue)
    if settings.ignored:
        logger.info("%s: options of the wrapper this pilot replaces; they are not used", ", ".join(settings.ignored))
    if url := worker_log_url(settings):
        logger.info("worker log, once the pilot has left: %s", url)


@contextmanager
def _beating(volume: WorkVolume, log: WorkerLog | None) -> Iterator[None]:
    """While inside, this thread is the conductor, and health checks and probes see it.

    A disk that takes no signature fails them, and keeps nobody from reporting what an earlier pilot left.
    """
    touch = (log.touch,) if log else ()
    try:
        signature = Signature(str(volume.root))
    except OSError as error:
        logger.warning("%s: health checks will fail: %s", volume.root, error.strerror)
        with pulse_of_this_thread(*touch):
            yield
        return

    def sign() -> None:
        before = signature.trouble
        signature.sign()
        if signature.trouble not in ("", before):
            logger.warning("%s: health checks will fail: %s", volume.root, signature.trouble)

    try:
        with pulse_of_this_thread(sign, *touch):
            yield
    finally:
        signature.close()


def _server(settings: Settings, credentials: Credentials) -> PandaClient:
    api = cast(Literal["auto", "v1", "legacy"], settings.api)
    return PandaClient(settings.server, api, credentials, ca=_text(settings.ca))


def _worker(
    settings: Settings,
    server: PandaClient,
    volume: WorkVolume,
    followers: tuple[Follower, ...],
    after_job: Callable[[Worker, JobRecord], None],
    stop: Stop,
    closing: ExitStack,
) -> Worker:
    """The worker; the parts of its jobs are made with the first one."""
    cric = CricClient(
        settings.cric,
        settings.server,
        settings.workdir / "cric",
        ca=_text(settings.ca),
        bucket_url=settings.cric_bucket,
    )
    queue = run_stage("cric", lambda: cric.queue(settings.queue, stop), stop)
    if settings.site and not queue.names_resource:
        queue = replace(queue, resource=settings.site)
    refusal = _refusal(settings, queue, volume)
    stores = open_stores(storage_options(settings))
    closing.callback(stores.close)
    demands = payload_demands(settings)
    readiness = _ready(settings, demands)
    logs = _log_place(settings, queue, stores, cric, stop)

    def parts() -> JobParts:
        from pilot.parts import Found, job_parts

        found = Found(queue, server, cric, stores, readiness, *logs, followers)
        return job_parts(settings, demands, found, stop, closing)

    return Worker(
        replace(_plan(settings, queue, server, stop), refusal=refusal),
        server,
        parts,
        volume,
        stop,
        after_job=after_job,
        get_ready=_import_parts,
    )


def _import_parts() -> None:
    """What jobs run with takes a quarter of a second to import."""
    with suppress(ImportError):  # a broken installation: the first job shows it
        import pilot.parts  # noqa: F401


def _refusal(settings: Settings, queue: Queue, volume: WorkVolume) -> PilotCannotWork | None:
    """Why the queue gives no work. It is put off where jobs wait for a report: an earlier pilot's, or one that was given."""
    try:
        require_usable(queue)
    except PilotCannotWork as refusal:
        if not volume.known_jobs() and settings.job is None:
            raise
        return refusal
    return None


def _after_job(settings: Settings, summary: Summary | None, worker: Worker, record: JobRecord) -> None:
    """As PID 1 of a container the pilot inherits what payloads leave: dead strangers are collected between jobs."""
    if os.getpid() == 1:
        from pilot.payload.strangers import reap_strangers

        reap_strangers()
    if summary is not None:
        summary.add(record.summary())
    _summarize(settings, summary, worker, None)


def _credentials(settings: Settings) -> Credentials:
    """The credentials, checked before anything else is done. Raises PilotCannotWork (68 or 80)."""
    credentials = given_credentials(settings)
    credentials.check(SHORTEST_CERTIFICATE_S)
    return credentials


def given_credentials(settings: Settings) -> Credentials:
    """Proxy or certificate, token, or both, as the settings name them."""
    return Credentials.given(settings.x509_proxy, settings.cert, settings.key, settings.token_file, settings.origin)


def storage_options(settings: Settings) -> StorageOptions:
    return StorageOptions(
        ca_path=_text(settings.storage_ca),
        s3_endpoint=settings.s3_endpoint,
        s3_key_file=settings.s3_key_file,
        gcs_endpoint=settings.gcs_endpoint,
        gcs_key_file=settings.google_application_credentials,
        metadata_url=settings.metadata_url,
    )


def _log_place(settings: Settings, queue: Queue, stores: Stores, cric: CricClient, stop: Stop) -> tuple[str, str]:
    """The URL the queue's logs are written below, and the one they are read below.

    Raises PilotCannotWork: without a place for logs no job is taken.
    """
    name = log_storage(queue)
    endpoint = run_stage("cric", lambda: cric.endpoint(name, stop), stop)
    return log_door(queue, endpoint, stores).url(""), public_base(endpoint, settings.log_url_base)


def log_storage(queue: Queue) -> str:
    """The RSE that the queue's logs go to. Raises PilotCannotWork."""
    names = storages_for(queue, Transfer.LOG)
    if not names:
        raise PilotCannotWork(
            ExitCode.BAD_QUEUEDATA, f"queue {queue.name} has no storage for logs: add one to its astorages in CRIC"
        )
    return names[0]


def log_door(queue: Queue, endpoint: Endpoint, stores: Stores) -> Door:
    """The door through which its logs are written. Raises PilotCannotWork."""
    doors = doors_for(endpoint, WRITE_ACTIVITIES, stores.schemes)
    if not doors:
        raise PilotCannotWork(
            ExitCode.BAD_QUEUEDATA,
            f"storage {endpoint.name} of queue {queue.name} has no door for writing with {', '.join(stores.schemes)}: "
            "add one to its arprotocols in CRIC",
        )
    return doors[0]


def _ready(settings: Settings, demands: Demands) -> Readiness:
    """Raises PilotCannotWork when payloads may not run here as is required."""
    readiness = Readiness(demands)
    try:
        refusal = readiness.refusal(settings.workdir)
    except PayloadError as error:
        raise PilotCannotWork(ExitCode.USAGE, error.diagnosis.detail) from None
    if refusal:
        raise PilotCannotWork(ExitCode.GENERAL, refusal)
    return readiness


def payload_demands(settings: Settings) -> Demands:
    """What the settings ask of the node that payloads run on."""
    of_queue = settings.queue_settings
    return Demands(
        required=level_named(settings.require_isolation),
        user=settings.payload_user,
        private=credential_files(settings),
        own_containers=of_queue.own_containers,
        image_named=settings.runtime != "plain" and bool(settings.image or of_queue.image),
    )


def credential_files(settings: Settings) -> tuple[Path, ...]:
    """What no payload may read."""
    files = (
        settings.x509_proxy,
        settings.key,
        settings.token_file,
        settings.token_key_file,
        settings.s3_key_file,
        settings.google_application_credentials,
    )
    return tuple(path for path in files if path is not None)


def _plan(settings: Settings, queue: Queue, server: PandaClient, stop: Stop) -> WorkerPlan:
    return WorkerPlan(
        queue=queue,
        label=settings.label,
        job_type=settings.job_type,
        resource_type=settings.resource_type,
        harvester_id=settings.harvester_id,
        worker_id=settings.worker_id,
        node=settings.node,
        scheduler_id=settings.scheduler_id,
        max_jobs=settings.max_jobs,
        max_empty=settings.max_empty,
        empty_wait_s=settings.empty_wait_s,
        lifetime_s=settings.lifetime,
        time_floor_s=queue.time_floor_s if settings.time_floor_s is None else settings.time_floor_s,
        final_retry_s=settings.final_retry_s,
        disk_limit_bytes=settings.disk_limit_mib * MEGABYTE if settings.disk_limit_mib else None,
        min_free_bytes=settings.min_free_mib * MEGABYTE,
        push_job=_push_job(settings, server, stop) if settings.job and not settings.recover_only else None,
        recover_only=settings.recover_only,
    )


def _push_job(settings: Settings, server: PandaClient, stop: Stop) -> Acquired:
    """The job of PUSH mode. Raises PilotCannotWork."""
    from pilot.push import read_given_job

    definition = read_given_job(settings.job or Path())
    return Acquired(definition, _generation(settings, server, stop))


def _generation(settings: Settings, server: PandaClient, stop: Stop) -> ApiGeneration:
    """The API generation of a job that was given and not asked for: it stays with it, so a wrong guess would lose the job."""
    if settings.api != "auto":
        return ApiGeneration(settings.api)
    try:
        return run_stage("generation", lambda: server.generation(stop), stop)
    except ServerUnreachable as trouble:
        logger.warning("which API the server speaks is not known yet, v1 is assumed: %s", trouble)
        return ApiGeneration.V1


def hide_secrets(settings: Settings) -> None:
    """Tell the redactor what must never leave the pilot in words."""
    tell_of_secrets(redactor.learn)  # what is read, renewed or received later
    for name, secret in settings.payload_environment.items():
        if name not in OPEN_VARIABLES:
            redactor.add(secret)
    for path in credential_files(settings):
        with suppress(OSError):  # whoever needs the file says what is wrong with it
            redactor.learn(SecretFile(path).read(), for_good=True)


def _summarize(settings: Settings, summary: Summary | None, worker: Worker, end: WorkerEnd | None) -> None:
    if summary is None:
        return
    pilot = {
        "started": worker.started_at.isoformat(),
        "ended": utc_now().isoformat() if end else None,
        "exit_code": int(end.exit_code) if end else None,
        "reason": redactor.clean(end.reason) if end else None,
    }
    if url := worker_log_url(settings):
        pilot["worker_log_url"] = url
    try:
        summary.write({"version": __version__, "queue": settings.queue, "pilot": pilot})
    except OSError as error:
        logger.warning("the summary %s cannot be written: %s", summary.path, error.strerror)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
