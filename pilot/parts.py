"""Wiring of what jobs run with, from Settings: imported with the first job, because a pilot that gets none needs none of it.

What must be known before a job is asked for (where the logs go, whether payloads may run here) is found out in app.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, cast

from pilot import __version__
from pilot.cric.client import CricClient
from pilot.job.model import MEGABYTE
from pilot.job.queue import Queue
from pilot.job.report import Identity
from pilot.jobrun import JobParts
from pilot.logs.upload import PublicLogs
from pilot.panda.client import PandaClient
from pilot.payload.apptainer import Bind
from pilot.payload.readiness import Demands, Readiness
from pilot.payload.runtime import PayloadConfig, PayloadRunner
from pilot.ports import Follower
from pilot.runtime.preemption import node_is_preempted
from pilot.runtime.stop import Stop
from pilot.settings import OPEN_VARIABLES, Settings
from pilot.storage.staging import JobStager
from pilot.storage.store import Stores


@dataclass(frozen=True, slots=True)
class Found:
    """What the pilot knew before its first job. ``log_url``: what logs are written below; ``log_base``: and read below."""

    queue: Queue
    server: PandaClient
    cric: CricClient
    stores: Stores
    readiness: Readiness
    log_url: str
    log_base: str
    followers: tuple[Follower, ...]


def job_parts(settings: Settings, demands: Demands, found: Found, stop: Stop, closing: ExitStack) -> JobParts:
    """The parts of every job; what they hold is let go with ``closing``."""
    payload = PayloadRunner(payload_config(settings, found.queue, demands), found.stores, found.readiness)
    closing.callback(payload.close)
    payload.look_ahead(settings.workdir, stop)
    return JobParts(
        server=found.server,
        stager=JobStager(found.queue, found.cric.endpoint, found.stores),
        payload=payload,
        logs=PublicLogs(found.stores, found.queue.name, found.log_url, found.log_base, settings.log_retry_s),
        identity=_identity(settings, found.queue),
        heartbeat_s=settings.heartbeat,
        server_silence_s=settings.server_silence_s,
        start_wait_s=settings.start_wait_s,
        final_retry_s=settings.final_retry_s,
        shutdown_s=settings.shutdown_s,
        preempted=lambda: _preempted(settings),
        followers=found.followers,
    )


def payload_config(settings: Settings, queue: Queue, demands: Demands) -> PayloadConfig:
    """What the queue's payloads have in common."""
    of_queue = settings.queue_settings
    return PayloadConfig(
        queue=queue,
        image_cache=settings.image_cache,
        transforms=settings.workdir / "transforms",
        runtime=cast(Literal["auto", "apptainer", "plain"], settings.runtime),
        image=settings.image,
        queue_image=of_queue.image,
        binds=tuple(Bind(str(bind.source), bind.target, bind.read_only) for bind in of_queue.binds),
        transform_bases=settings.transform_bases,
        ca_path=str(settings.storage_ca) if settings.storage_ca else None,
        s3_endpoint_url=settings.payload_s3_endpoint,
        realtime_logfiles=settings.realtime_logfiles,
        credentials={n: s.reveal() if n in OPEN_VARIABLES else s for n, s in settings.payload_environment.items()},
        added=of_queue.payload_env_set,
        grace_s=settings.payload_grace_s,
        disk_limit_bytes=settings.disk_limit_mib * MEGABYTE if settings.disk_limit_mib else None,
        looping_s=settings.looping_s,
        max_processes=settings.max_processes,
        max_inodes=settings.max_inodes,
        max_stdout_bytes=settings.max_stdout_mib * MEGABYTE,
        required=demands.required,
        user=demands.user,
        private=demands.private,
        own_containers=demands.own_containers,
        image_cache_limit_bytes=settings.image_cache_limit_gib << 30 or None,
        image_key=settings.image_key,
    )


def _identity(settings: Settings, queue: Queue) -> Identity:
    return Identity(
        site_name=queue.resource,
        node=settings.node,
        scheduler_id=settings.scheduler_id,
        batch_id=settings.batch_id,
        batch_system="Kubernetes" if settings.batch_id else None,
        version_tag=settings.version_tag,
        pilot_version=__version__,
    )


def _preempted(settings: Settings) -> bool:
    """Whether a SIGTERM means that the node or pod is taken away: Harvester's Kubernetes sets the job id; else Google knows."""
    return settings.batch_id is not None or node_is_preempted(settings.metadata_url)
