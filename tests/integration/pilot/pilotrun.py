"""The pilot as a process: start it in a clean environment against a sandbox, wait for it, and look at what it left."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from pilot.sandbox.cric_server import DATA_ENDPOINT, LOG_BUCKET, LOG_ENDPOINT
from pilot.sandbox.world import World

QUEUE = "DOMA_LSST_DEV"
SCOPE = "panda.test"
PROGRAM = Path(sys.executable).with_name("pilot-start")
RUN_TIMEOUT_S = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# One try after another without a pause, and away when there is nothing.
HASTY = ("--max-empty", "1", "--empty-wait-s", "0")


@dataclass(frozen=True)
class PilotEnd:
    """A pilot that has left: its exit code (negative: by a signal), what it printed, and the summary it wrote."""

    exit_code: int
    stdout: str
    stderr: str
    summary: dict[str, Any] | None
    workdir: Path

    @property
    def complaints(self) -> list[str]:
        """The sentences for the person who started it."""
        return [line for line in self.stderr.splitlines() if line.startswith("pilot-start: ")]

    @property
    def jobs(self) -> dict[int, dict[str, Any]]:
        """The jobs of the summary by PandaID."""
        assert self.summary is not None, self.stderr
        return {job["panda_id"]: job for job in self.summary["jobs"]}


class RunningPilot:
    """A started pilot; everything of it is gone after ``stop_all``."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], workdir: Path, summary: Path) -> None:
        self.workdir = workdir
        self._summary = summary
        self._stdout = workdir.parent / f"{workdir.name}.stdout"
        self._stderr = workdir.parent / f"{workdir.name}.stderr"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=workdir.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def end(self, timeout_s: float = RUN_TIMEOUT_S) -> PilotEnd:
        """Wait for it to leave; AssertionError with its log when it does not."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the pilot did not leave within {timeout_s:g} s:\n{self.log}") from None
        summary = json.loads(self._summary.read_text()) if self._summary.exists() else None
        return PilotEnd(code, self._stdout.read_text(), self.log, summary, self.workdir)

    @property
    def log(self) -> str:
        return self._stderr.read_text(errors="replace")

    def wait_until(self, true: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        """Wait for a fact while the pilot lives; AssertionError with its log when it does not come about."""
        wait_until(lambda: true() or self.process.poll() is not None, f"{what}:\n{self.log}", timeout_s)
        assert true(), f"the pilot left before {what}:\n{self.log}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop_all(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in processes_of(self.workdir):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class Pilots:
    """Starts pilots against one world, each in a work folder of its own below ``folder``."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self._started: list[RunningPilot] = []

    def start(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        config: Path | None = None,
        workdir: Path | None = None,
        queue: str | None = QUEUE,
        wrap: tuple[str, ...] = (),
    ) -> RunningPilot:
        """``pilot-start`` with the world's settings. ``wrap`` is a command put before it."""
        workdir = workdir or self.folder / f"work{len(self._started)}"
        summary = self.folder / f"summary{len(self._started)}.json"
        argv = [*wrap, str(PROGRAM), *(("--queue", queue) if queue else ())]
        argv += ["--config", str(config or self.world.state_dir / "pilot.yaml")]
        argv += ["--workdir", str(workdir), "--summary", str(summary), *args]
        started = RunningPilot(argv, {**self.environment(), **(env or {})}, workdir, summary)
        self._started.append(started)
        return started

    def run(self, *args: str, timeout_s: float = RUN_TIMEOUT_S, **options: Any) -> PilotEnd:
        """Start it and wait for its end."""
        return self.start(*args, **options).end(timeout_s)

    def environment(self) -> dict[str, str]:
        return {"PATH": PATH, "HOME": str(self.folder), "LANG": "C.UTF-8"}

    def settings(self, *, without: tuple[str, ...] = (), **changes: Any) -> Path:
        """A copy of the world's settings file with some keys left out and others set."""
        settings = yaml.safe_load((self.world.state_dir / "pilot.yaml").read_text())
        kept = {name: value for name, value in {**settings, **changes}.items() if name not in without}
        path = self.folder / f"settings{len(list(self.folder.glob('settings*.yaml')))}.yaml"
        path.write_text(yaml.safe_dump(kept))
        return path

    def stop_all(self) -> None:
        for pilot in self._started:
            pilot.stop_all()


def shell_job(command: str, **keys: Any) -> dict[str, Any]:
    """The dispatcher keys of a job that runs a shell text, as Rubin's jobs do."""
    encoded = base64.b64encode(command.encode()).decode()
    return {"transformation": "bash-c-enc", "jobPars": encoded, **keys}


def adler32(content: bytes) -> str:
    return f"{zlib.adler32(content):08x}"


def input_keys(lfn: str, content: bytes, *, rse: str = DATA_ENDPOINT, checksum: str | None = None) -> dict[str, str]:
    """The dispatcher keys of a job with one input."""
    return {
        "inFiles": lfn,
        "scopeIn": SCOPE,
        "GUID": "0c0a1b2c-0000-4000-8000-000000000001",
        "fsize": str(len(content)),
        "checksum": f"ad:{checksum or adler32(content)}",
        "ddmEndPointIn": rse,
        "realDatasetsIn": "inputs",
    }


def output_keys(*lfns: str, rse: str = DATA_ENDPOINT) -> dict[str, str]:
    """The dispatcher keys of a job with outputs and a log."""
    return {
        "outFiles": ",".join([*lfns, "log.tgz"]),
        "scopeOut": ",".join(SCOPE for _ in lfns),
        "scopeLog": SCOPE,
        "ddmEndPointOut": ",".join([*(rse for _ in lfns), LOG_ENDPOINT]),
        "realDatasets": ",".join(["outputs" for _ in lfns] + ["logs"]),
        "destinationDblock": ",".join(["outputs" for _ in lfns] + ["logs"]),
        "fileDestinationSE": ",".join("local" for _ in range(len(lfns) + 1)),
        "destinationDBlockToken": ",".join("local" for _ in range(len(lfns) + 1)),
    }


def submit(world: World, command: str, **keys: Any) -> int:
    """Submit such a job; its PandaID."""
    return world.sandbox.submit_job(**shell_job(command, **keys))


def processes_of(folder: Path) -> list[int]:
    """Living processes whose environment or command line names ``folder``: a pilot with that work folder and its payload."""
    found = []
    wanted = str(folder).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            texts = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if wanted in texts and state != "Z":
            found.append(int(entry.name))
    return found


def wait_until(true: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Wait for a fact; AssertionError names it when it does not come about."""
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def public(world: World, url: str) -> requests.Response:
    """What anybody gets for a public URL."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, verify=str(world.ca_path), timeout=10)


def log_url(world: World, panda_id: int, name: str = "pilotlog.txt", queue: str = QUEUE) -> str:
    """The public URL of a job's log, built by the monitor's rule and not by the pilot's."""
    return f"{world.gcs_url}/{LOG_BUCKET}/logs/{queue}/PandaJob_{panda_id}/{name}"


def updates(world: World, panda_id: int) -> list[dict[str, Any]]:
    """The bodies of all updates of a job that reached the server, in v1's JSON, in order."""
    found = []
    for entry in world.sandbox.ledger():
        if entry["path"] == "/api/v1/pilot/update_job":
            body = json.loads(entry["body"])
            if body["job_id"] == panda_id:
                found.append(body)
    return found


def acquires(world: World, after_seq: int = 0) -> list[str]:
    """The paths of all job requests since."""
    return [path for path in paths(world, after_seq) if path.endswith(("/acquire_jobs", "/getJob"))]


def paths(world: World, after_seq: int = 0) -> list[str]:
    """The paths of all requests since."""
    return [entry["path"] for entry in world.sandbox.ledger(after_seq)]


def last_seq(world: World) -> int:
    return max((entry["seq"] for entry in world.sandbox.ledger()), default=0)
