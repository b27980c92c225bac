"""Pilots as a pod starts them: the settings in environment variables, no settings file, byte code compiled beforehand."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

import pilot
from pilot.job.endpoint import deterministic_path
from pilot.sandbox.cric_server import DATA_BUCKET, DATA_ENDPOINT, LOG_BUCKET, LOG_ENDPOINT
from pilot.sandbox.world import World
from tests.bench.ledger import Entry
from tests.bench.measure import BenchError

QUEUE = "DOMA_LSST_DEV"
SCOPE = "panda.bench"
PROGRAM = Path(sys.executable).with_name("pilot-start")
WATCH = Path(__file__).with_name("watch.py")
LONGEST_RUN_S = 300.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Ended:
    """A pilot that has left. CPU seconds are those of all its processes, the payloads included."""

    exit_code: int
    started_at: float
    ended_at: float
    cpu_s: float
    jobs: tuple[Mapping[str, Any], ...]  # of its summary


class RunningPilot:
    """One started pilot. ``end`` waits for it."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        self.started_at = time.time()
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> float:
        """Send it; the moment it was sent."""
        self._process.send_signal(number)
        return time.time()

    def end(self, timeout_s: float = LONGEST_RUN_S) -> Ended:
        """Wait for it to leave. Raises BenchError, with its last words, when it was ended for taking too long."""
        watchdog = threading.Timer(timeout_s, self._process.kill)
        watchdog.start()
        try:
            _pid, status, usage = os.wait4(self._process.pid, 0)
        finally:
            watchdog.cancel()
            watchdog.join()
        ended_at = time.time()
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            raise BenchError(f"a pilot did not leave within {timeout_s:g} s: {self.last_words()}")
        summary = self.folder / "summary.json"
        jobs = json.loads(summary.read_text())["jobs"] if summary.exists() else []
        return Ended(code, self.started_at, ended_at, usage.ru_utime + usage.ru_stime, tuple(jobs))

    def last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()


@dataclass
class Yard:
    """Starts pilots against one world, each in a folder of its own below ``scratch``."""

    world: World
    scratch: Path
    _started: list[RunningPilot] = field(default_factory=list)

    def start(self, *arguments: str, prefix: tuple[str, ...] = (), watched: bool = False) -> RunningPilot:
        """``pilot-start`` for the queue. ``prefix``: a command before it. ``watched``: in a namespace of its own (watch.py)."""
        folder = self.scratch / f"pilot{len(self._started)}"
        folder.mkdir()
        argv = [*prefix]
        if watched:
            argv += ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
            argv += [sys.executable, "-I", "-S", str(WATCH), str(folder / "samples")]
        argv += [str(PROGRAM), "--queue", QUEUE, "--workdir", str(folder / "work")]
        argv += ["--summary", str(folder / "summary.json"), *arguments]
        started = RunningPilot(argv, self._environment(folder), folder)
        self._started.append(started)
        return started

    def _environment(self, folder: Path) -> dict[str, str]:
        settings = yaml.safe_load((self.world.state_dir / "pilot.yaml").read_text())
        return {"PATH": PATH, "HOME": str(folder), "LANG": "C.UTF-8", **variables(settings)}

    def stop_all(self) -> None:
        for started in self._started:
            started.kill()

    # the world

    def submit(self, command: str, count: int = 1, **keys: Any) -> list[int]:
        """Jobs that run a shell text; their PandaIDs."""
        job = {"transformation": "bash-c", "jobPars": command, "minRamCount": 1000, **keys}
        return self.world.sandbox.submit([{"label": "bench", "job": job} for _ in range(count)])

    def last_seq(self) -> int:
        return max((entry["seq"] for entry in self.world.sandbox.ledger()), default=0)

    def ledger(self, after_seq: int) -> list[Entry]:
        return [*self.world.sandbox.ledger(after_seq)]

    def log_requests(self) -> int:
        """How many requests the log bucket has had so far, by its server's own log; not counted where a front is before it."""
        return (self.world.state_dir / "servers.log").read_text(errors="replace").count(f"/{LOG_BUCKET}/o")

    def public(self, panda_id: int, name: str) -> bytes:
        """A job's log as the world reads it; empty when there is none."""
        url = f"{self.world.gcs_url}/{LOG_BUCKET}/logs/{QUEUE}/PandaJob_{panda_id}/{name}"
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(url, verify=str(self.world.ca_path), timeout=30)
        return answer.content if answer.status_code == 200 else b""

    def google_input(self, name: str, content: bytes) -> dict[str, str]:
        """Put a file into Google's store; the keys of a job with it as input."""
        target = f"logs/{deterministic_path(SCOPE, name)}"
        url = f"{self.world.gcs_url}/upload/storage/v1/b/{LOG_BUCKET}/o"
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(
                url, params={"uploadType": "media", "name": target}, data=content, verify=str(self.world.ca_path), timeout=30
            )  # fmt: skip
        answer.raise_for_status()
        return _input_keys(name, len(content), LOG_ENDPOINT)

    def large_input(self, name: str, size_bytes: int) -> dict[str, str]:
        """The same with zeros, in the other store, whose objects are files on the disk."""
        path = self.world.state_dir / "s3" / DATA_BUCKET / deterministic_path(SCOPE, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size_bytes)
        return _input_keys(name, size_bytes, DATA_ENDPOINT)


def _input_keys(name: str, size_bytes: int, endpoint: str) -> dict[str, str]:
    """Without a checksum, which the pilot then computes all the same for its own transfer."""
    guid = "0c0a1b2c-0000-4000-8000-000000000001"
    keys = {"inFiles": name, "scopeIn": SCOPE, "GUID": guid, "fsize": str(size_bytes), "checksum": "NULL"}
    return {**keys, "ddmEndPointIn": endpoint, "realDatasetsIn": "inputs"}


def variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """A settings file's entries as the environment variables of the same meaning."""
    texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in settings.items()}
    return {f"PILOT_{name.upper()}": text for name, text in texts.items()}


def compile_byte_code() -> None:
    """As the image has it: no pilot compiles anything when it starts."""
    compileall.compile_dir(Path(pilot.__file__).parent, quiet=1)


@contextmanager
def yard(scratch: Path, **options: Any) -> Iterator[Yard]:
    """A world and a place to start pilots in; all of them are gone afterwards. ``options``: the world's."""
    compile_byte_code()
    with World(scratch / "world", adder_delay_s=0.1, **options) as world:
        there = Yard(world, scratch)
        try:
            yield there
        finally:
            there.stop_all()


def samples(pilot: RunningPilot, begin_s: float, length_s: float) -> list[dict[str, float]]:
    """What was seen of a watched pilot from ``begin_s`` after its start on, for ``length_s``. Raises BenchError: too little."""
    seen = [json.loads(line) for line in (pilot.folder / "samples").read_text().splitlines()]
    begin = seen[0]["at"] + begin_s if seen else 0.0
    inside = [sample for sample in seen if begin <= sample["at"] <= begin + length_s]
    if len(inside) < 2:
        raise BenchError(f"a watched pilot was gone too soon: {pilot.last_words()}")
    return inside


def can_watch() -> bool:
    """Whether a PID namespace can be made here."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
