"""Jobs that a real pilot has run in one sandbox world, and ``pilot-replay`` as a process that runs them again."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml
from botocore.config import Config

from pilot.job.endpoint import deterministic_path
from pilot.sandbox.cric_server import DATA_BUCKET, TRANSFORM_BUCKET
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    PATH,
    QUEUE,
    SCOPE,
    PilotEnd,
    Pilots,
    input_keys,
    log_url,
    output_keys,
    processes_of,
    shell_job,
)

PROJECT = Path(__file__).parents[3]
PROGRAM = Path(sys.executable).with_name("pilot-replay")
INPUT = b"made for a replay\n" * 100
SECRET = "pg-secret-word"
FINGERPRINT = hashlib.sha256(SECRET.encode()).hexdigest()
IMAGE_URL = f"gs://{TRANSFORM_BUCKET}/busybox.sif"
REPLAY_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image."""
    sif = tmp_path_factory.mktemp("images") / "busybox.sif"
    subprocess.run([PROJECT / "scripts/make-test-image", sif, sif.with_suffix("")], check=True, capture_output=True)
    return sif


@dataclass(frozen=True)
class Jobs:
    """Jobs that were run, by a name of the test's."""

    world: World
    folder: Path
    end: PilotEnd
    ids: dict[str, int]

    def url(self, name: str, file: str = "pilotlog.txt") -> str:
        return log_url(self.world, self.ids[name], file)

    def told(self, name: str) -> dict[str, Any]:
        return self.end.jobs[self.ids[name]]


def definitions() -> dict[str, dict[str, Any]]:
    files = {**input_keys("in.txt", INPUT), **output_keys("out.txt")}
    return {
        "fails": shell_job('echo hello; echo "RuntimeError: oops" >&2; exit 3'),
        "crashes": shell_job("kill -SEGV $$"),
        "works": shell_job("tr a-z A-Z <in.txt >out.txt", **files),
        "makes nothing": shell_job("true", **output_keys("out.txt")),
        "misses its input": shell_job("true", **{**files, **input_keys("absent.txt", INPUT)}),
        "takes too long": shell_job("sleep 600", maxWalltime=1),
        "needs a secret": shell_job(
            f'test "$(printf %s "$PGPASSWORD" | sha256sum | cut -c1-64) $SITE_WORD" = "{FINGERPRINT} from the site"'
        ),
        "tells its secret": shell_job(f"echo {SECRET} >/dev/null"),
        "is contained": shell_job("test -e /bin/busybox && pwd && exit 9", container_name=IMAGE_URL),
        "is of its node": shell_job("exit 8", container_name="NODE"),
        "is malformed": {"transformation": "bash-c", "jobPars": "true", "inFiles": "../../etc/passwd"},
    }


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("replay")
    with World(folder / "world", adder_delay_s=0.0) as world:
        put_input(world)
        publish(world, busybox)
        given = definitions()
        given["is of its node"]["container_name"] = str(busybox)
        entries = [{"label": name, "job": job} for name, job in given.items()]
        ids = dict(zip(given, world.sandbox.submit(entries), strict=True))
        pilots = Pilots(world, folder)
        queues = {QUEUE: {"payload_env": ["PGPASSWORD"], "payload_env_set": {"SITE_WORD": "from the site"}}}
        try:
            arguments = ("--max-jobs", str(len(ids)), "--empty-wait-s", "0.1")
            end = pilots.run(
                *arguments, config=pilots.settings(queues=queues), env={"PGPASSWORD": SECRET}, timeout_s=110
            )
            yield Jobs(world, folder, end, ids)
        finally:
            pilots.stop_all()


def put_input(world: World) -> None:
    keys = yaml.safe_load((world.state_dir / "s3-key").read_text())
    client = boto3.client(
        "s3",
        endpoint_url=world.s3_url,
        region_name="us-east-1",
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        verify=str(world.ca_path),
        config=Config(proxies={}, s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
    client.put_object(Bucket=DATA_BUCKET, Key=deterministic_path(SCOPE, "in.txt"), Body=INPUT)
    client.close()


def publish(world: World, image: Path) -> None:
    url = f"{world.gcs_url}/upload/storage/v1/b/{TRANSFORM_BUCKET}/o?uploadType=media&name={image.name}"
    with requests.Session() as session:
        session.trust_env = False
        assert session.post(url, data=image.read_bytes(), verify=str(world.ca_path), timeout=30).ok


@dataclass(frozen=True)
class Replayed:
    """A replay that has ended."""

    exit_code: int
    stdout: str
    stderr: str
    cwd: Path

    def line(self, what: str) -> str:
        """What is told behind this word."""
        found = re.search(rf"^{re.escape(what)} +(.*)$", self.stdout, re.MULTILINE)
        assert found is not None, f"{what}: {self.stdout}{self.stderr}"
        return found[1]

    @property
    def same(self) -> bool:
        return "\n           the same verdict\n" in self.stdout

    @property
    def notes(self) -> list[str]:
        return [line.split(maxsplit=1)[1] for line in self.stdout.splitlines() if line.startswith("note ")]


@dataclass(frozen=True)
class Replays:
    """Runs ``pilot-replay`` in a folder of its own, as anybody who has no credentials of the pilot's."""

    jobs: Jobs
    cwd: Path
    wrap: tuple[str, ...] = field(default=())

    def __call__(
        self, target: object, *arguments: object, env: Mapping[str, str] | None = None, given: bytes = b""
    ) -> Replayed:
        ca = ("--storage-ca", self.jobs.world.ca_path, "--gcs-endpoint", self.jobs.world.gcs_url)
        argv = [*self.wrap, PROGRAM, target, *ca, *arguments]
        done = subprocess.run(
            [str(word) for word in argv],
            env={"PATH": PATH, "HOME": str(self.cwd), "LANG": "C.UTF-8", **(env or {})},
            cwd=self.cwd,
            input=given,
            capture_output=True,
            timeout=REPLAY_TIMEOUT_S,
        )
        ended = Replayed(done.returncode, done.stdout.decode(), done.stderr.decode(), self.cwd)
        assert "Traceback" not in ended.stderr
        return ended


@pytest.fixture
def replay(jobs: Jobs, tmp_path: Path) -> Iterator[Replays]:
    yield Replays(jobs, tmp_path)
    assert processes_of(tmp_path) == []
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _works_in(pid, tmp_path)]


def _works_in(pid: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(str(folder))
    except OSError:
        return False
