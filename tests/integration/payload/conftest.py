"""Payloads run for real: jobs, folders, and the tiny busybox image as a SIF and as an unpacked folder."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pilot.job.model import Attempt, Job, Resources
from pilot.job.queue import Queue, QueueStatus
from pilot.payload import procfs
from pilot.payload.runtime import PayloadConfig, PayloadRunner, PreparedPayload
from pilot.payload.strangers import reap_strangers
from pilot.runtime.payload_end import PayloadEnd
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import JobFolder, WorkVolume
from pilot.storage.store import Stores

PROJECT = Path(__file__).parents[3]
QUEUE = Queue("Q", "Q", "S", True, QueueStatus.ONLINE)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny image: as a SIF and as an unpacked folder."""
    folder = tmp_path_factory.mktemp("images")
    sif, unpacked = folder / "busybox.sif", folder / "busybox"
    subprocess.run([PROJECT / "scripts/make-test-image", sif, unpacked], check=True, capture_output=True)
    return sif, unpacked


@dataclass
class Ran:
    """A payload that has ended, and what it left."""

    end: PayloadEnd
    folder: JobFolder

    @property
    def stdout(self) -> str:
        return (self.folder.logs / "payload.stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder.logs / "payload.stderr").read_text()


class Payloads:
    """Makes and runs payloads of bash texts; every job gets a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.config = PayloadConfig(QUEUE, root / "images", root / "transforms", grace_s=5.0)
        self.volume = WorkVolume(root)
        self.volume.jobs.mkdir(parents=True)
        self._number = 0
        self._runner: PayloadRunner | None = None

    def set(self, **changes: object) -> None:
        """Change the configuration; the next payload is made by a new runner."""
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]
        self._runner = None

    def prepare(self, text: str, **of_job: object) -> tuple[PreparedPayload, JobFolder]:
        self._number += 1
        encoded = base64.b64encode(text.encode()).decode()
        job = Job(Attempt(self._number, 1), 77, "j", "bash-c-enc", encoded, "managed", Resources())
        job = replace(job, **of_job)  # type: ignore[arg-type]
        folder = self.volume.open_job(job.attempt)
        if self._runner is None:
            self._runner = PayloadRunner(self.config, Stores({}))
        return self._runner.prepare(job, folder, Stop()), folder

    def run(self, text: str, **of_job: object) -> Ran:
        prepared, folder = self.prepare(text, **of_job)
        return Ran(prepared.run(Stop()), folder)

    def run_and_stop(self, text: str, when: Callable[[JobFolder], bool], eventually: Callable[..., None]) -> Ran:
        """Run it, and let the server kill the job once ``when(folder)`` is true."""
        prepared, folder = self.prepare(text)
        stop = Stop()

        def ask_for_it() -> None:
            try:
                eventually(lambda: when(folder), timeout_s=20)
            finally:
                stop.request(StopReason(StopKind.SERVER_KILL))

        asker = threading.Thread(target=ask_for_it)
        asker.start()
        try:
            return Ran(prepared.run(stop), folder)
        finally:
            asker.join()


def said(folder: JobFolder, word: str) -> bool:
    """True once the payload has written this word to stdout."""
    stdout = folder.logs / "payload.stdout"
    return stdout.exists() and word in stdout.read_text()


SERVERS = set[int]()  # of other tests, which this test process started before


def living(root: Path) -> list[int]:
    """Processes whose environment names this folder, and orphans we have adopted, after the dead ones are collected."""
    reap_strangers()
    mark, processes = str(root).encode(), procfs.all_processes()
    adopted = children_in_sessions_of_their_own(processes) - SERVERS
    return [pid for pid in processes if pid in adopted or mark in procfs._read(f"/proc/{pid}/environ")]


def children_in_sessions_of_their_own(processes: Mapping[int, procfs.Process]) -> set[int]:
    me, session = os.getpid(), os.getsid(0)
    return {process.pid for process in processes.values() if process.ppid == me and process.session != session}


@contextmanager
def a_pilot_that_dies(payloads: Payloads, text: str) -> Iterator[None]:
    """Another pilot, a fork of this process, that runs the payload and is killed without a chance at the end."""
    pilot = os.fork()
    if pilot == 0:
        try:
            prepared, _folder = payloads.prepare(text)
            prepared.run(Stop())
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pilot, signal.SIGKILL)
        os.waitpid(pilot, 0)


@pytest.fixture
def payloads(tmp_path: Path) -> Iterator[Payloads]:
    """Nothing of a payload may be alive when the test is over."""
    SERVERS.clear()
    SERVERS.update(children_in_sessions_of_their_own(procfs.all_processes()))
    payloads = Payloads(tmp_path / "volume")
    yield payloads
    assert not living(tmp_path)
