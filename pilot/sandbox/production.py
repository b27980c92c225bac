"""The miniature production in a sandbox: repository in the S3 server, a real ``bps submit``, and the settings of its queue.

Everything of the science software runs inside the payload image; this machine needs Apptainer and nothing else.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests
import yaml

from pilot.sandbox.cric_server import TRANSFORM_BUCKET
from pilot.sandbox.world import World

QUEUE = "DOMA_LSST_DEV"
IMAGE_OBJECT = "minirc2.sif"
COLLECTION = "u/minirc2/rc2_subset"
BUTLER = "s3://minirc2/repo/butler.yaml"
CA_INSIDE = "/etc/sandbox-ca.pem"
REPO_INSIDE = "/repo"
STEP_TIMEOUT_S = 300
Runner = Literal["pilot", "apptainer"]


class ProductionError(RuntimeError):
    """A step of the production did not work; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A PostgreSQL registry instead of the SQLite file: its URL without credentials, and the payload's own account."""

    url: str
    user: str
    password: str


class Production:
    """One run of the miniature production. ``runner``: who starts the payload's container, the pilot or the command."""

    def __init__(
        self, world: World, image: Path, *, runner: Runner = "pilot", registry: Registry | None = None
    ) -> None:
        self.world = world
        self.image = image
        self._runner = runner
        self._registry = registry
        self._repo = world.state_dir / "repo"
        self._submit_folder = world.state_dir / "submit"
        for folder in (self._repo, self._submit_folder):
            folder.mkdir()
        keys = yaml.safe_load((world.state_dir / "s3-key").read_text())
        # boto3 of the payload needs a region, whatever it is; the decoder looks its server up in the DNS without the last
        self._variables = {
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CA_BUNDLE": CA_INSIDE,
            "PANDA_BEHIND_REAL_LB": "true",
        }
        self.credentials = {"AWS_ACCESS_KEY_ID": keys["access_key"], "AWS_SECRET_ACCESS_KEY": keys["secret_key"]}
        if registry:
            self.credentials |= {"PGUSER": registry.user, "PGPASSWORD": registry.password}

    # --- before the pilot ---------------------------------------------------------------------------------------------

    def publish_image(self) -> None:
        """Put the image into the containers bucket, where the pilot will fetch it from."""
        url = f"{self.world.gcs_url}/upload/storage/v1/b/{TRANSFORM_BUCKET}/o?uploadType=media&name={IMAGE_OBJECT}"
        with requests.Session() as session, self.image.open("rb") as file:
            session.trust_env = False
            answer = session.post(url, data=file, verify=str(self.world.ca_path), timeout=STEP_TIMEOUT_S)
        if answer.status_code != 200:
            raise ProductionError(f"the image cannot be published: the store answered {answer.status_code}")

    def make_repository(self) -> None:
        """A fresh repository: data in the S3 server, the registry in a local SQLite file or in PostgreSQL."""
        arguments = [REPO_INSIDE, "--datastore-root", "s3://minirc2/repo/", "--visits", "1228", "1230"]
        if self._registry:
            arguments += ["--db", self._registry.url]
        self.inside("python3", "-m", "minirc2.make_repo", *arguments)

    def submission(self, *options: str) -> list[dict[str, Any]]:
        """The jobs of a real ``bps submit``, parents before children, as ``pilot-sandbox submit`` takes them.

        ``options`` go to ``bps submit``, for instance ``--extra-qgraph-options``.
        """
        nowhere = "https://127.0.0.1:1/server/panda"
        variables = {
            "MINIRC2_RUNNER": self._runner,
            "PANDA_URL": nowhere,
            "PANDA_URL_SSL": nowhere,
            "PANDACACHE_URL": nowhere,
            "HOME": "/submit",
        }
        command = ("bps", "--log-level", "WARNING", "submit", *options, "/opt/minirc2/bps/minirc2.yaml")
        self.inside(*command, variables=variables)
        found = sorted(self._submit_folder.rglob("panda_jobs.json"))
        if not found:
            raise ProductionError(f"bps submit left no panda_jobs.json in {self._submit_folder}")
        jobs: list[dict[str, Any]] = json.loads(found[-1].read_text())
        return jobs

    def settings_file(self) -> Path:
        """A settings file for ``pilot-start``: the sandbox's own plus what the queue's payloads need."""
        settings = yaml.safe_load((self.world.state_dir / "pilot.yaml").read_text())
        ca = self.world.ca_path
        queue: dict[str, Any] = {"payload_env": sorted(self.credentials), "payload_env_set": dict(self._variables)}
        if self._runner == "pilot":
            queue["image"] = f"gs://{TRANSFORM_BUCKET}/{IMAGE_OBJECT}"
            queue["binds"] = [f"{ca}:{CA_INSIDE}:ro", f"{self._repo}:{REPO_INSIDE}"]
        else:
            # the command starts its own container: the CA under its own name, the registry by the site's option
            queue["payload_env_set"] |= {
                "AWS_CA_BUNDLE": str(ca),
                "MINIRC2_IMAGE": str(self.image),
                "APPTAINER_OPTIONS": f"--bind {self._repo}:{REPO_INSIDE}",
            }
            # containers mount, which Landlock forbids; another user could not reach this world's folders
            queue["own_containers"], settings["require_isolation"] = True, "none"
        settings["queues"] = {QUEUE: queue}
        path = self.world.state_dir / "production.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    # --- after the pilot ----------------------------------------------------------------------------------------------

    def count_stars(self, at_least: int = 65) -> tuple[bool, str]:
        """Whether every patch found its stars again, and the lines that say how many."""
        command = ["python3", "-m", "minirc2.count_stars", BUTLER, COLLECTION, "--at-least", str(at_least)]
        done = self._apptainer(command, {})
        return done.returncode == 0, done.stdout.strip() or _last_words(done.stderr)

    # --- inside the image ---------------------------------------------------------------------------------------------

    def inside(self, *command: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a command in the image, with the credentials of the data; what it printed. Raises ProductionError."""
        done = self._apptainer(list(command), variables or {})
        if done.returncode != 0:
            raise ProductionError(
                f"{command[0]} {command[1]} failed with {done.returncode}: {_last_words(done.stderr)}"
            )
        return done.stdout

    def _apptainer(self, command: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the image; credentials travel as APPTAINERENV_ variables, never as arguments."""
        inside = {**self._variables, **self.credentials, "S3_ENDPOINT_URL": self.world.s3_url or "", **variables}
        environment = {f"APPTAINERENV_{name}": value for name, value in inside.items()}
        environment |= {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}
        argv = ["apptainer", "--quiet", "exec", "--userns", "--containall", "--no-privs", "--no-home", "--no-eval"]
        argv += ["--bind", f"{self.world.ca_path}:{CA_INSIDE}:ro", "--bind", f"{self._repo}:{REPO_INSIDE}"]
        argv += ["--bind", f"{self._submit_folder}:/submit", "--pwd", "/submit", str(self.image), *command]
        return subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STEP_TIMEOUT_S
        )


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[:600]
