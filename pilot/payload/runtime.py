"""The payload's runner: decide between container and none, make everything ready, run it, and tell how it ended.

Which image, the first that is named: ``--image``; the job's ``container_name``; the queue's image in the settings.
No image named: the command is run as it is; Rubin's commands start their container themselves.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pilot.job.errors import Diagnosis, PayloadError, PilotError
from pilot.job.limits import (
    LOOPING_LIMIT_S,
    MAX_INODES,
    MAX_PROCESSES,
    STDOUT_LIMIT_BYTES,
    BreachKind,
    Limits,
    LimitSettings,
    limits_for,
)
from pilot.job.model import Checksum, Job
from pilot.job.queue import Queue
from pilot.job.replay import Recipe
from pilot.payload import apptainer, cgroup, leftovers, rungs
from pilot.payload.apptainer import Bind, Markers, Mode
from pilot.payload.command import DEFAULT_TRANSFORM_BASES, Command, TransformSource, resolve
from pilot.payload.diagnosis import read_words
from pilot.payload.environment import (
    OF_ONE_RUN,
    PAYLOAD_LOG,
    EnvironmentInput,
    PayloadEnvironment,
    payload_environment,
)
from pilot.payload.folder import PayloadPlaces
from pilot.payload.image import Image, ImageCache
from pilot.payload.known import KnownModes
from pilot.payload.look import look
from pilot.payload.monitor import Monitor, TreeSample
from pilot.payload.plain import plain_launch
from pilot.payload.process import PayloadProcess, ProcessEnd, become_subreaper
from pilot.payload.procfs import Process
from pilot.payload.programs import find_runtime
from pilot.payload.readiness import Demands, Readiness
from pilot.payload.rungs import Level, Plain
from pilot.payload.start import Launch
from pilot.ports import Question
from pilot.runtime.loops import run_stage
from pilot.runtime.payload_end import PayloadEnd
from pilot.runtime.pulse import join
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import Stores

logger = logging.getLogger("pilot.payload")

# Processes and threads a payload's own user may have, for each process that --max-processes allows: the kernel counts both,
# and those of other pods of the node whose payloads have the same uid. It ends a fork bomb before it ends the node.
TASKS_PER_PROCESS = 8
RuntimeChoice = Literal["auto", "apptainer", "plain"]
# A payload that eats memory is given less time to eat more; none where the kernel is next.
MEMORY_GRACES_S: Mapping[BreachKind, float] = {BreachKind.MEMORY: 1.0, BreachKind.CONTAINER_MEMORY: 0.0}


@dataclass(frozen=True, slots=True)
class PayloadConfig:
    """What a pilot's payloads have in common. Times in seconds.

    ``image``: the operator's explicit choice (``--image``); ``queue_image``: the settings' entry for the queue.
    ``pod_memory_bytes``: the memory limit of a pod that is not here (job/limits.py); ``disk_limit_bytes``: its disk ceiling.
    ``looping_s``, ``max_processes``, ``max_inodes``, ``max_stdout_bytes``: 0: no limit.
    ``credentials``: values of the variables that payloads are given; ``added``: ``payload_env_set``.
    ``required``: the lowest rung a payload may run on (rungs.py); ``user``: whose it is on rung B; ``private``: the pilot's
    credential files; ``own_containers``: the queue's payloads start containers of their own; ``image_checksum``: of ``image``.
    """

    queue: Queue
    image_cache: Path
    transforms: Path
    runtime: RuntimeChoice = "auto"
    image: str | None = None
    queue_image: str | None = None
    binds: tuple[Bind, ...] = ()
    transform_bases: tuple[str, ...] = DEFAULT_TRANSFORM_BASES
    ca_path: str | None = None
    s3_endpoint_url: str | None = None
    realtime_logfiles: str = PAYLOAD_LOG
    credentials: Mapping[str, str | Secret] = field(default_factory=dict)
    added: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 10.0
    pod_memory_bytes: int | None = None
    disk_limit_bytes: int | None = None
    looping_s: float = LOOPING_LIMIT_S
    max_processes: int = MAX_PROCESSES
    max_inodes: int = MAX_INODES
    max_stdout_bytes: int = STDOUT_LIMIT_BYTES
    required: Level = Level.D
    user: str | None = None
    private: tuple[Path, ...] = ()
    own_containers: bool = False
    image_cache_limit_bytes: int | None = None
    image_key: Path | None = None
    image_checksum: Checksum | None = None

    @property
    def demands(self) -> Demands:
        """What this asks of the node."""
        named = self.runtime != "plain" and bool(self.image or self.queue_image)
        return Demands(self.required, self.user, self.private, self.own_containers, named)


class PayloadRunner:
    """Makes payloads ready to run (the Payload port). What was found out about the node is remembered."""

    def __init__(self, config: PayloadConfig, stores: Stores, readiness: Readiness | None = None) -> None:
        """``readiness``: what was found out about the node already."""
        self._config = config
        self._readiness = readiness or Readiness(config.demands)
        self._images = ImageCache(config.image_cache, stores, config.image_cache_limit_bytes, config.image_key)
        self._modes: dict[bool, Mode] = {}  # by "is the image a folder"
        self._must_unpack = False
        self._ahead: threading.Thread | None = None
        self._prepared: PreparedPayload | None = None
        become_subreaper()

    def prepare(self, job: Job, folder: JobFolder, stop: Stop) -> PreparedPayload:
        """Command, environment, image and runtime of a job. Raises PayloadError with the PanDA code; Stopped."""
        self._prepared = prepared = self._prepare(job, folder, stop)
        return prepared

    def recipe(self, job: Job) -> Recipe:
        """What this job's payload is made ready with, for whoever wants to run it again. No value of a secret is in it."""
        config = self._config
        try:
            image = chosen_image(config, job) or ""
        except PayloadError:
            image = ""
        values = payload_environment(job, self._variables(), "", "", "").values
        return Recipe(
            queue=config.queue,
            limits=self._limit_settings(),
            environment={n: v for n, v in values.items() if isinstance(v, str) and n not in OF_ONE_RUN},
            hidden=tuple(sorted(name for name, value in values.items() if isinstance(value, Secret))),
            image=image,
            image_checksum=self._images.checksum(image),
            binds=tuple(str(bind) for bind in config.binds),
            own_containers=config.own_containers,
            realtime_logfiles=config.realtime_logfiles,
            grace_s=config.grace_s,
        )

    def look(self, question: Question, folder: JobFolder, most_bytes: int) -> str:
        """What there is to see of a job at any time of its life (payload/look.py); raises nothing."""
        prepared = self._prepared
        if prepared is None or not prepared.belongs_to(folder):  # nothing is there but the pilot's own files
            return look(question, folder, most_bytes)
        return look(question, folder, most_bytes, prepared.eyes, prepared.members)

    def _prepare(self, job: Job, folder: JobFolder, stop: Stop) -> PreparedPayload:
        places = PayloadPlaces(folder)
        places.create()
        config = self._config
        source = TransformSource(config.transforms, config.transform_bases, config.ca_path)
        command = resolve(job, source, stop)
        if command.transform is not None:
            _install(command.transform, places.work / command.transform_name)
        tracking_id = f"{job.attempt}.{secrets.token_hex(8)}"
        limits = limits_for(job, config.queue, self._limit_settings())
        name = chosen_image(config, job)
        if name is None:
            volume = folder.root.parent.parent
            rung = self._readiness.plain(volume)
            rungs.require(config.required, rung, "no image is named for this job")
            environment = self._environment(job, str(places.home), str(places.tmp), tracking_id)
            launch = self._plain_launch(command, environment, places, tracking_id, rung, volume)
            return PreparedPayload(
                str(rung),
                launch,
                places,
                limits,
                config.grace_s,
                config.realtime_logfiles,
                declared=_declared(job, places),
            )
        return self._contained(job, name, command, places, limits, tracking_id, stop)

    def look_ahead(self, volume: Path, stop: Stop) -> None:
        """Find out how containers start here while the pilot asks for its first job; for images that need no download."""
        name, runtime = self._config.image or self._config.queue_image, find_runtime()
        if self._config.runtime == "plain" or name is None or "://" in name or runtime is None:
            return
        known = KnownModes(volume, runtime).read()
        if not known:
            arguments = (name, runtime, volume, stop)
            self._ahead = threading.Thread(target=self._look_ahead, args=arguments, name="probe", daemon=True)
            self._ahead.start()

    def _look_ahead(self, name: str, runtime: Path, volume: Path, stop: Stop) -> None:
        """Whatever goes wrong here is found again, and told, when a job is prepared."""
        try:
            with tempfile.TemporaryDirectory(prefix="probe-", dir=volume) as scratch:
                image = self._images.get(name, stop)
                try:
                    self._modes[image.is_folder] = apptainer.probe(runtime, image.path, Path(scratch), stop)
                    KnownModes(volume, runtime).write(self._modes)
                finally:
                    image.release()
        except (PayloadError, Stopped, OSError) as trouble:
            logger.debug("looking ahead for containers: %s", trouble)

    def close(self) -> None:
        """Wait for what was begun ahead."""
        if self._ahead is not None:
            join(self._ahead, apptainer.PROBE_TIMEOUT_S)

    def _plain_launch(
        self,
        command: Command,
        environment: PayloadEnvironment,
        places: PayloadPlaces,
        tracking_id: str,
        rung: Plain,
        volume: Path,
    ) -> Launch:
        binds = self._config.binds
        readable: list[str] = []
        if rung.level is Level.C:
            shown = tuple(bind.source for bind in binds if bind.read_only)
            readable = rungs.readable_places(self._config.private, volume, shown)
        writable = [bind.source for bind in binds if not bind.read_only]
        tasks = TASKS_PER_PROCESS * self._config.max_processes
        return plain_launch(command, environment, places, tracking_id, rung, readable, writable, tasks)

    def lay_to_rest(self, mark: Mapping[str, Any], folder: JobFolder) -> Diagnosis:
        """End what is left of a payload whose pilot died; the diagnosis is the cause as far as traces tell."""
        return leftovers.lay_to_rest(mark, folder)

    def _limit_settings(self) -> LimitSettings:
        config = self._config
        return LimitSettings(
            container_memory_bytes=cgroup.memory_limit_bytes(),
            absent_container_bytes=config.pod_memory_bytes,
            disk_limit_bytes=config.disk_limit_bytes,
            looping_s=config.looping_s,
            max_processes=config.max_processes,
            max_inodes=config.max_inodes,
            max_stdout_bytes=config.max_stdout_bytes,
        )

    def _contained(
        self, job: Job, name: str, command: Command, places: PayloadPlaces, limits: Limits, tracking_id: str, stop: Stop
    ) -> PreparedPayload:
        runtime = find_runtime()
        if runtime is None:
            raise apptainer.missing_runtime()
        self.close()
        checksum = self._config.image_checksum if name == self._config.image else None
        image, mode = self._usable(self._images.get(name, stop, checksum), runtime, places, stop)
        binds, flags, refused = apptainer.accepted_options(self._config.queue.container_options)
        if refused:
            logger.warning(
                "container_options of the queue: %s would open the container and is left out", " ".join(refused)
            )
        environment = self._environment(job, apptainer.CONTAINER_HOME, apptainer.CONTAINER_TMP, tracking_id)
        launch = apptainer.container_launch(
            runtime, mode, image.path, command, environment, places, (*self._config.binds, *binds), flags, tracking_id
        )
        config = self._config
        return PreparedPayload(
            f"A:{runtime.name}",
            launch,
            places,
            limits,
            config.grace_s,
            config.realtime_logfiles,
            Markers(places),
            image,
            declared=_declared(job, places),
            image_name=name,
        )

    def _usable(self, image: Image, runtime: Path, places: PayloadPlaces, stop: Stop) -> tuple[Image, Mode]:
        """The image in the form this node can run, and how; found out once for SIFs and once for folders."""
        try:
            if not image.is_folder and self._must_unpack:
                image = self._as_folder(image, stop)
            elif image.lock is not None:
                image = self._unpacked_if_possible(image, stop)
            known = KnownModes(places.folder.root.parent.parent, runtime)
            self._modes = self._modes or known.read()
            if image.is_folder not in self._modes:
                image = self._probed(image, runtime, places.scratch, stop)
                known.write(self._modes)
        except (PayloadError, Stopped):
            image.release()
            raise
        return image, self._modes[image.is_folder]

    def _probed(self, image: Image, runtime: Path, scratch: Path, stop: Stop) -> Image:
        """Find out how containers of this kind of image start here; the image as a folder where a SIF cannot be mounted."""
        try:
            mode = apptainer.probe(runtime, image.path, scratch, stop)
        except PayloadError as error:
            if image.is_folder or error.diagnosis.error is PilotError.CONTAINER_USER_NAMESPACE:
                raise
            folder = self._images.unpacked(image, stop)
            try:
                mode = apptainer.probe(runtime, folder.path, scratch, stop)
            except (PayloadError, Stopped):
                folder.release()
                raise
            image.release()
            image, self._must_unpack = folder, True
        self._modes[image.is_folder] = mode
        logger.info("containers work here: %s, %s", "folder" if image.is_folder else "SIF", mode)
        return image

    def _unpacked_if_possible(self, image: Image, stop: Stop) -> Image:
        """An image of the node's cache as a folder: programs in it start at page-cache speed (measured: 1.8 s against
        3.1 s for ``pipetask --help``). A node that cannot unpack it mounts the SIF.
        """
        try:
            return self._as_folder(image, stop)
        except PayloadError as trouble:
            logger.warning("the image is used packed: %s", trouble)
            return image

    def _as_folder(self, image: Image, stop: Stop) -> Image:
        folder = self._images.unpacked(image, stop)
        image.release()
        return folder

    def _variables(self) -> EnvironmentInput:
        config = self._config
        return EnvironmentInput(
            config.queue.environment, config.credentials, config.added, config.s3_endpoint_url, config.realtime_logfiles
        )

    def _environment(self, job: Job, home: str, tmp: str, tracking_id: str) -> PayloadEnvironment:
        environment = payload_environment(job, self._variables(), home, tmp, tracking_id)
        for sentence in environment.refused:
            logger.warning("%s", sentence)
        return environment


class PreparedPayload:
    """A payload ready to start (the port of the same name); ``run`` it once, from the main thread."""

    def __init__(
        self,
        isolation: str,
        launch: Launch,
        places: PayloadPlaces,
        limits: Limits,
        grace_s: float,
        log_name: str,
        markers: Markers | None = None,
        image: Image | None = None,
        *,
        declared: tuple[Path, ...] = (),
        image_name: str = "",
    ) -> None:
        """``declared``: the output files the job is to make. ``image_name``: what the image was asked for as."""
        self._isolation, self._launch, self._places, self._limits = isolation, launch, places, limits
        self._grace_s, self._log_name, self._markers, self._image = grace_s, log_name, markers, image
        self._declared, self._image_name = declared, image_name
        self._monitor: Monitor | None = None
        self._process: PayloadProcess | None = None

    @property
    def isolation(self) -> str:
        """The rung and what makes it: ``A:apptainer``, ``A:singularity``, ``B:uid``, ``C:landlock``, ``D:none``."""
        return self._isolation

    @property
    def mark(self) -> Mapping[str, Any]:
        """What a successor needs to find what is left of it."""
        return leftovers.mark(self._launch.tracking_id, self._launch.account)

    @property
    def sample(self) -> TreeSample | None:
        """What the payload uses at this moment; None before its first sample."""
        return self._monitor.last if self._monitor else None

    @property
    def launch(self) -> Launch:
        """What is started, for whoever starts it in another way; ``close`` is called when that is over."""
        return self._launch

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def eyes(self) -> Callable[[], AbstractContextManager[None]]:
        """Inside it this thread sees what the payload keeps to itself, where it is another user."""
        return self._launch.account.eyes if self._launch.account else nullcontext

    def belongs_to(self, folder: JobFolder) -> bool:
        return self._places.folder == folder

    def members(self) -> list[Process]:
        """Its processes at this moment; none before it is started and once it is over."""
        process = self._process
        return process.members() if process else []

    def run(self, stop: Stop, started: Callable[[int], None] = lambda _pid: None) -> PayloadEnd:
        """Start it, call ``started`` with its pid, and return when nothing of it is left."""
        try:
            return self._run(stop, started)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the image and of what was held open."""
        if self._markers is not None:
            self._markers.close()
        if self._image is not None:
            self._image.release()

    def _run(self, stop: Stop, started: Callable[[int], None]) -> PayloadEnd:
        killed_before = cgroup.oom_kill_count()
        process = self._process = PayloadProcess(self._launch)
        with stop.child() as scope:
            monitor = self._monitor = self._new_monitor(process, scope)
            watcher: threading.Thread | None = None
            try:
                watcher = process.watch(scope)
                monitor.start()
                started(process.pid)
                scope.wait(None)
            finally:
                reason = scope.reason or StopReason(StopKind.INTERNAL, "the pilot could not go on")
                end = process.finish(self._end(process, reason, monitor))
                self._process = None
                if watcher is not None:
                    watcher.join(1.0)
        if self._launch.account is not None:
            account, places = self._launch.account, self._places
            run_stage("opening", lambda: account.open_to_pilot(places.work, places.scratch), Stop())
        return self._report(end, monitor, cgroup.oom_kill_count() - killed_before)

    def _new_monitor(self, process: PayloadProcess, scope: Stop) -> Monitor:
        infrastructure: Callable[[Process], bool] = lambda _process: False  # noqa: E731
        if self._markers is not None:
            infrastructure = apptainer.infrastructure(process.pid)
        places = self._places
        return Monitor(
            process,
            self._limits,
            scope,
            (places.work, places.scratch),
            (places.stdout, places.stderr),
            infrastructure,
            declared=self._declared,
            group=cgroup.memory_group(),
            record=places.control / leftovers.LAST_SAMPLE,
            eyes=self.eyes,
        )

    def _end(self, process: PayloadProcess, reason: StopReason, monitor: Monitor) -> StopReason | None:
        """Stop the payload unless it has ended by itself; the reason, when it was stopped."""
        stopped_by = None if reason.kind is StopKind.PAYLOAD_DONE or process.exited else reason
        if stopped_by is not None:
            logger.info("stopping the payload: %s", stopped_by)
            kind = monitor.breach.kind if monitor.breach else None
            process.stop_all(
                self._grace_s if kind is None else min(self._grace_s, MEMORY_GRACES_S.get(kind, self._grace_s))
            )
        if not monitor.finish():
            logger.warning("the monitor did not end in time and is left behind")
        return stopped_by

    def _report(self, end: ProcessEnd, monitor: Monitor, oom_kills: int) -> PayloadEnd:
        if end.swept:
            logger.info("the payload left %d processes behind; they were ended", end.swept)
        if end.survivors:
            logger.error("processes of the payload do not end although killed: %s", end.survivors)
        words = read_words(self._places.work, self._places.stderr, self._log_name)
        message = self._container_message(end)
        try:
            monitor.write_files(self._places.work)
        except OSError as error:
            logger.warning("%s: %s", error.filename, error.strerror)
        # The kernel's own maximum of one process catches peaks between samples; a starter's says nothing of the payload.
        single = end.max_single_rss_bytes if self._markers is None else 0
        exit_code, number = self._ending(end)
        return PayloadEnd(
            exit_code=None if message else exit_code,
            signal=None if message else number,
            usage=monitor.usage(end.cpu_s, single if single > _own_rss_bytes() else 0),
            wall_s=end.wall_s,
            isolation=self._isolation,
            oom_kills=max(0, oom_kills),
            stopped_by=end.stopped_by,
            breach=monitor.breach.diagnosis if monitor.breach and _by_limit(end) else None,
            container_message=message,
            first_error=words.first_error if end.exit_code != 0 else None,
            no_work=words.no_work,
            traceback=words.traceback if end.exit_code != 0 else "",
            history=monitor.history,
            limits=self._limits,
            image=self._image_name,
        )

    def _ending(self, end: ProcessEnd) -> tuple[int | None, int | None]:
        """The command's own exit code where a stopped container outlived it; else what the kernel says."""
        inside = self._markers.exit_code() if self._markers is not None and end.stopped_by is not None else None
        return (end.exit_code, end.signal) if inside is None else (inside, None)

    def _container_message(self, end: ProcessEnd) -> str | None:
        """The runtime's words when the payload's first line was never reached and nobody stopped it."""
        if self._markers is None or self._markers.started() or end.stopped_by is not None:
            return None
        ending = f"signal {end.signal}" if end.signal else f"exit code {end.exit_code}"
        return apptainer.container_message(self._places.stderr) or f"the container did not start ({ending})"


def chosen_image(config: PayloadConfig, job: Job) -> str | None:
    """The image to run in, or None to run without. Raises PayloadError when a container is demanded and none is named."""
    if config.runtime == "plain":
        if config.image or job.container_name:
            logger.warning("--runtime plain: the payload runs without its image %s", config.image or job.container_name)
        return None
    name = config.image or job.container_name or config.queue_image
    if name is None and config.runtime == "apptainer":
        raise PayloadError(
            PilotError.IMAGE_NOT_FOUND,
            "a container is demanded (--runtime apptainer), but neither --image nor the job nor the queue names an image",
        )
    return name


def _declared(job: Job, places: PayloadPlaces) -> tuple[Path, ...]:
    return tuple(places.work / file.lfn for file in job.outputs)


def _by_limit(end: ProcessEnd) -> bool:
    """True when it was the limit that stopped it, and not another reason at the same moment."""
    return end.stopped_by is not None and end.stopped_by.kind is StopKind.LIMIT


def _install(transform: Path, target: Path) -> None:
    try:
        target.write_bytes(transform.read_bytes())
        target.chmod(0o755)
    except OSError as error:
        raise PayloadError(PilotError.TRF_DOWNLOAD_FAILURE, f"{target.name}: {error.strerror}") from error


def _own_rss_bytes() -> int:
    """Our own peak: a child starts its life as a copy of us, and the kernel counts that too."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (1 << 20)
