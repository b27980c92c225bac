"""Wiring of ``pilot-start --check``, from Settings: which looks there are, in the order in which a run comes to them.

Nothing here is needed by a run, and no run imports it. The looks touch no job: the server is shown an update of one that does
not exist; the log bucket gets a small object, which is removed again.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Before there are threads: two that import a large library at once see half of it, and take turns at it.
import google.oauth2.service_account  # noqa: F401

import pilot.storage.gcs  # noqa: F401
from pilot import __version__
from pilot.app import (
    SHORTEST_CERTIFICATE_S,
    given_credentials,
    hide_secrets,
    log_door,
    log_storage,
    payload_demands,
    storage_options,
)
from pilot.check import credentials, log_bucket, node, payloads, queue, server, told
from pilot.check.finding import Finding, Verdict, exit_code, ok, refused, unknown, warning
from pilot.check.report import Report, as_json, as_lines, as_table
from pilot.check.side_by_side import Look, side_by_side
from pilot.cric.client import MAX_STALE_S, CricClient, CricUnreachable
from pilot.job.endpoint import Endpoint, log_object, public_base, public_url
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import MEGABYTE
from pilot.job.queue import Queue, QueueStatus, Transfer, storages_for
from pilot.own_logs import GOOGLE_CLOUD_LOGGING, logging_service, realtime_kind, worker_log_url
from pilot.panda.auth import Credentials
from pilot.parts import payload_config
from pilot.payload.cgroup import memory_group
from pilot.payload.runtime import PayloadConfig
from pilot.push import read_given_job
from pilot.runtime import health
from pilot.runtime.clock import monotonic_s
from pilot.runtime.events import redactor, start_logging
from pilot.runtime.http import Timeouts
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import WorkVolume
from pilot.settings import Settings, close_back_doors, read_settings
from pilot.storage.opening import open_stores
from pilot.storage.store import StoreError

OVER_S = 4.2  # after the start of the process everything is over, whatever is silent
LEAST_S = 2.0  # for the looks, on a machine that was slow to start
CRIC_TIMEOUTS = Timeouts(connect_s=1.0, read_s=1.5)
CRIC_ONCE = RetryPolicy("check", tries=1, first_s=0.1, cap_s=0.1, total_s=1.5)
CRIC_BUDGET_S = 1.6  # for one record, all sources together
EXAMPLE_PANDA_ID = 6000000000  # of the length of today's
REACH_STORES = "see to it that the pod may reach the store and its token endpoint (NetworkPolicy)"
CRIC_REMEDY = "check --cric and --ca, and that the pod may reach it; --cric DIR takes files, --cric-bucket URL copies"


def check(flags: Mapping[str, Any], *, json: bool) -> int:
    """``pilot-start --check``: look at everything, say what was found, and the exit code."""
    began_s = monotonic_s() - _age_s()
    try:
        settings = read_settings(flags)
    except PilotCannotWork as refusal:
        finding = refused("settings", refusal, "correct it; pilot-start --help tells every option")
        _tell(
            Report(__version__, str(flags.get("queue") or ""), (finding,), (), int(refusal.exit_code), _since(began_s)),
            json,
        )
        return int(refusal.exit_code)
    close_back_doors()
    _be_quiet(settings.log_level)
    hide_secrets(settings)
    with node.folder_made(settings.workdir) as making, Checks(settings, making) as checks:
        findings = side_by_side(checks.looks(), max(LEAST_S, OVER_S - _since(began_s)))
    findings = (*server.one_is_enough(list(findings)), node.clock(checks.dates))
    code = exit_code(findings)
    _tell(
        Report(__version__, settings.queue, findings, tuple(checks.told), code, _since(began_s)), json, settings.plain
    )
    return code


def _tell(report: Report, json: bool, plain: bool = True) -> None:
    clean = redactor.clean
    if json:
        print(as_json(report, clean))
    elif plain or not sys.stdout.isatty():
        print("\n".join(as_lines(report, clean)))
    else:
        print("\n".join(as_table(report, clean, os.get_terminal_size(sys.stdout.fileno()).columns or 80)))


def _be_quiet(level: str) -> None:
    """What the parts log while they are tried out is for whoever asks for it (--log-level DEBUG)."""
    start_logging(level)
    if level != "DEBUG":
        logging.getLogger("pilot").setLevel(logging.CRITICAL + 1)


def _age_s() -> float:
    """Seconds since the process was started, imports included; 0 where the kernel does not tell, or tells nonsense."""
    ticks = health.start_time(os.getpid())
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
    return age_s if 0.0 <= age_s < OVER_S else 0.0


def _since(began_s: float) -> float:
    return monotonic_s() - began_s


class Checks:
    """The looks of one check, and what one of them has found out for those after it."""

    def __init__(self, settings: Settings, making: OSError | None) -> None:
        """``making``: why the work folder cannot be made."""
        self._settings, self._making = settings, making
        self.told = told.settings_told(_values(settings), settings.sources, tuple(settings.payload_environment))
        self._volume = WorkVolume(settings.workdir)
        self._stop = Stop()
        self._stores = open_stores(storage_options(settings))
        self._scratch = tempfile.TemporaryDirectory(prefix="pilot-check-")
        if settings.s3_key_file is not None:
            import pilot.storage.s3  # noqa: F401  (likewise)
        self._cric = self._cric_client(Path(self._scratch.name), stale_s=0.0)
        self._credentials: Credentials | None = None
        self._queue: Queue | None = None
        self._endpoint: Endpoint | None = None
        self._door_url, self._public_base = "", ""
        self.dates: dict[str, tuple[str, float]] = {}  # what servers told of the time, and when by our own

    def __enter__(self) -> Checks:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.request(StopReason(StopKind.INTERNAL, "the check is over"))
        self._scratch.cleanup()

    def looks(self) -> list[Look]:
        """All of them, in the order in which a run comes to what they look at."""
        settings = self._settings
        cric, silent_cric = ("queue",), int(ExitCode.NO_QUEUEDATA)
        servers = [look for url in dict.fromkeys(settings.server) for look in self._server_looks(url)]
        return [
            Look("settings", lambda: [told.summary(self.told)]),
            Look("credentials", self._look_at_credentials),
            Look("work folder", self._look_at_work_folder),
            Look("CA", lambda: [server.authority(settings.ca)]),
            Look("queue", self._look_at_queue, silence=silent_cric, remedy=CRIC_REMEDY),
            Look("isolation", self._look_at_isolation),
            Look("log storage", self._look_at_log_storage, cric, silent_cric, CRIC_REMEDY),
            *([Look("given job", self._look_at_given_job)] if settings.job and not settings.recover_only else []),
            *servers,
            Look("other storages", self._look_at_other_storages, ("log storage",)),
            Look("Google", self._look_at_google, ("log storage",), remedy=REACH_STORES),
            *([Look("S3 key", self._look_at_s3_key)] if settings.s3_key_file else []),
            Look("log bucket", self._look_at_log_bucket, ("log storage",), remedy=REACH_STORES),
            Look("container", self._look_at_container),
            Look("room for jobs", self._look_at_room, cric),
            Look("memory", lambda: [node.memory(memory_group(), self._queue)], cric),
            Look("places", self._look_at_places),
            Look("Harvester", self._look_at_harvester),
            *([Look("realtime logging", self._look_at_realtime_logging)] if settings.use_realtime_logging else []),
        ]

    # --- who we are -----------------------------------------------------------------------------------------------------

    def _look_at_credentials(self) -> Sequence[Finding]:
        given = given_credentials(self._settings)
        if given.x509 is None and given.token is None:
            return [credentials.none_at_all()]
        found = [credentials.certificate(given.x509, SHORTEST_CERTIFICATE_S)] if given.x509 else []
        found += credentials.token(given.token, self._settings.token_key_file) if given.token else []
        if all(finding.verdict is not Verdict.WRONG for finding in found):
            self._credentials = given
        return found

    def _server_looks(self, url: str) -> list[Look]:
        looks: list[server.ServerLooks] = []  # made once the credentials are looked at

        def reach() -> Sequence[Finding]:
            ca = str(self._settings.ca) if self._settings.ca else None
            looks.append(server.ServerLooks(url, self._settings.api, self._credentials, ca, self._dated))
            return looks[0].reach()

        names, silence = (f"server {url}", f"role at {url}"), int(ExitCode.SERVER_COMMUNICATION)
        return [
            Look(names[0], reach, ("credentials",), silence, server.REACH),
            Look(names[1], lambda: looks[0].role(), (names[0],), silence, server.REACH),
        ]

    def _dated(self, url: str, date: str) -> None:
        self.dates[url] = (date, time.time())

    def _look_at_google(self) -> Sequence[Finding]:
        settings = self._settings
        ca = str(settings.storage_ca) if settings.storage_ca else None
        key, needed = settings.google_application_credentials, self._door_url.startswith("gs://")
        return [credentials.google(key, settings.metadata_url, ca, needed=needed)]

    def _look_at_s3_key(self) -> Sequence[Finding]:
        return [credentials.s3_key(self._settings.s3_key_file)] if self._settings.s3_key_file else []

    # --- what to work for -------------------------------------------------------------------------------------------------

    def _cric_client(self, cache: Path, stale_s: float, budget_s: float = CRIC_BUDGET_S) -> CricClient:
        settings = self._settings
        ca = str(settings.ca) if settings.ca else None
        return CricClient(
            settings.cric,
            settings.server,
            cache,
            ca=ca,
            bucket_url=settings.cric_bucket,
            timeouts=CRIC_TIMEOUTS,
            max_age_s=stale_s,
            max_stale_s=stale_s,
            policy=CRIC_ONCE,
            budget_s=budget_s,
        )

    def _look_at_queue(self) -> Sequence[Finding]:
        """As CRIC has it now; where CRIC is silent, as a run would have it from its cache."""
        name = self._settings.queue
        try:
            self._queue = self._cric.queue(name, self._stop)
        except CricUnreachable as silence:
            try:
                self._queue = self._cached().queue(name, self._stop)
            except PilotCannotWork:
                return [refused("queue", silence)]
            told_of = warning(
                "CRIC", str(silence), "a run uses its cached record for now; see to it that CRIC is reached"
            )
            return [told_of, *queue.usable(self._queue, "from the pilot's cache")]
        except PilotCannotWork as refusal:
            return [refused("queue", refusal)]
        return queue.usable(self._queue, f"from {self._settings.cric}")

    def _cached(self) -> CricClient:
        """One that asks nobody as long as there is a record on the work volume."""
        return self._cric_client(self._settings.workdir / "cric", MAX_STALE_S, budget_s=0.0)

    def _endpoint_of(self, name: str) -> Endpoint:
        try:
            return self._cric.endpoint(name, self._stop)
        except CricUnreachable:
            return self._cached().endpoint(name, self._stop)

    def _look_at_log_storage(self) -> Sequence[Finding]:
        if self._queue is None:
            return [unknown("log storage", "the queue is not known")]
        try:
            endpoint = self._endpoint_of(log_storage(self._queue))
            door = log_door(self._queue, endpoint, self._stores)
            base = public_base(endpoint, self._settings.log_url_base)
        except PilotCannotWork as refusal:
            return [refused("log storage", refusal)]
        self._endpoint, self._door_url, self._public_base = endpoint, door.url(""), base
        example = public_url(base, log_object(self._queue.name, EXAMPLE_PANDA_ID, "pilotlog.txt"))
        return queue.storage(endpoint, self._door_url, example)

    def _look_at_other_storages(self) -> Sequence[Finding]:
        if self._queue is None:
            return [unknown("other storages", "the queue is not known")]
        known: dict[str, Endpoint | str] = {self._endpoint.name: self._endpoint} if self._endpoint else {}
        for transfer in (Transfer.INPUT, Transfer.OUTPUT):
            for name in storages_for(self._queue, transfer)[:1]:
                if name not in known:
                    try:
                        known[name] = self._endpoint_of(name)
                    except PilotCannotWork as refusal:
                        known[name] = str(refusal)
        return queue.other_storages(self._queue, known, self._stores.schemes)

    def _look_at_log_bucket(self) -> Sequence[Finding]:
        if self._queue is None or not self._door_url:
            return [unknown(log_bucket.NAME, "the storage of the logs is not known")]
        name = log_bucket.probe_name(self._queue.name)
        url, everybodys = f"{self._door_url.rstrip('/')}/{name}", public_url(self._public_base, name)
        ca = str(self._settings.storage_ca) if self._settings.storage_ca else None
        return log_bucket.tried_out(self._stores, url, everybodys, ca, self._dated, self._stop)

    def _look_at_given_job(self) -> Sequence[Finding]:
        path = self._settings.job or Path()
        try:
            panda_id = read_given_job(path).get("PandaID")
        except PilotCannotWork as refusal:
            return [refused("given job", refusal, "check --job")]
        return [ok("given job", f"{path} holds job {panda_id}")]

    # --- what there is here -------------------------------------------------------------------------------------------------

    def _look_at_work_folder(self) -> Sequence[Finding]:
        return node.work_folder(self._volume, self._making, self._settings.min_free_mib * MEGABYTE)

    def _payload_config(self) -> PayloadConfig:
        return payload_config(self._settings, self._any_queue, payload_demands(self._settings))

    def _look_at_isolation(self) -> Sequence[Finding]:
        return payloads.isolation(self._payload_config(), self._settings.workdir)

    def _look_at_container(self) -> Sequence[Finding]:
        return payloads.container(self._payload_config(), self._stores, self._stop)

    @property
    def _any_queue(self) -> Queue:
        """For what does not depend on the queue, and must not wait for it."""
        return Queue(self._settings.queue, self._settings.queue, "", active=True, status=QueueStatus.ONLINE)

    def _look_at_room(self) -> Sequence[Finding]:
        limit_mib = self._settings.disk_limit_mib
        return [node.room_for_jobs(self._volume, self._queue, limit_mib * MEGABYTE if limit_mib else None)]

    def _look_at_places(self) -> Sequence[Finding]:
        settings = self._settings
        found = [node.file_place("liveness", settings.workdir / health.NAME)]
        if settings.worker_log is not None:
            found.append(node.file_place("worker log", settings.worker_log))
        if url := worker_log_url(settings):
            found.append(ok("worker log", f"to be read at {url} once the pilot has left"))
        if settings.summary is not None:
            found.append(node.file_place("summary", settings.summary))
        if settings.metrics_file is not None:
            found.append(node.file_place("metrics file", settings.metrics_file))
        if settings.metrics_port:
            found.append(node.port_place("metrics port", "127.0.0.1", settings.metrics_port))
        return found

    def _look_at_harvester(self) -> Sequence[Finding]:
        settings = self._settings
        return told.harvester(
            settings.harvester_id,
            settings.worker_id,
            settings.worker_log_upload,
            settings.worker_log_name,
            settings.ignored,
        )

    def _look_at_realtime_logging(self) -> Sequence[Finding]:
        """Whether Google lets us write there; nothing is written."""
        name, kind = "realtime logging", realtime_kind(self._settings)
        if kind != GOOGLE_CLOUD_LOGGING:
            remedy = f"set REALTIME_LOGGING_SERVER={GOOGLE_CLOUD_LOGGING}, or switch it off"
            return [warning(name, f"{kind!r} is not known here: it is off", remedy)]
        from pilot.logs.google_logging import SCOPE, ServiceUnreachable
        from pilot.storage.google_credentials import Bearer

        settings, service = self._settings, logging_service(self._settings)
        ca = str(settings.storage_ca) if settings.storage_ca else None
        try:
            project = service.project()
            Bearer(settings.google_application_credentials, settings.metadata_url, ca, SCOPE).headers("Cloud Logging")
        except (ServiceUnreachable, StoreError) as trouble:
            remedy = (
                "name the project (--cloud-logging-project), give a valid key, or switch it off; no job waits for it"
            )
            return [warning(name, str(trouble), remedy)]
        finally:
            service.close()
        return [ok(name, f"to {settings.realtime_logname} of project {project}; may it write there? the log will tell")]


def _values(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.sources}
