"""The project's podman, and containers of the pilot's image as pods start them: read-only, without more rights than are named."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.payload import procfs
from pilot.payload.procfs import Process

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60.0
BUILD_TIMEOUT_S = 600.0
PILOT_UID, PAYLOAD_UID = 10001, 65532
# Like a pod's readOnlyRootFilesystem: not even /tmp can be written. The sandbox listens on the node's loopback.
AS_IN_A_POD = ("--read-only", "--read-only-tmpfs=false", "--network", "host", "--security-opt", "no-new-privileges")


def podman(
    *arguments: str | Path, check: bool = True, timeout_s: float = TIMEOUT_S, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run podman with storage of the project's own. AssertionError with its words when it fails and ``check`` is on.

    ``folder``: where it runs. What watches over a container leaves a file ``oom`` there when the kernel has killed in it.
    """
    argv = [str(ROOT / "scripts/containers"), "podman", *map(str, arguments)]
    done = subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0 or not check, f"podman {' '.join(map(str, arguments))}: {done.stderr}"
    return done


def build(*options: str) -> str:
    """Build an image unless it is there; its id. Under its name it is kept for the next time, or replaced by another checkout."""
    done = subprocess.run(
        [ROOT / "scripts/build-image", *options], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return str(inspected(done.stdout.strip())["Id"])


def inspected(image: str) -> dict[str, Any]:
    """What podman knows of an image."""
    (found,) = json.loads(podman("image", "inspect", image).stdout)
    return dict(found)


def run_once(image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the image's entrypoint to its end, without network, volume or any capability."""
    alone = ("--rm", "--read-only", "--read-only-tmpfs=false", "--network", "none", "--cap-drop", "ALL")
    return podman("run", *alone, *options, image, *command, check=False)


def shell(image: str, text: str, *, user: int = PILOT_UID) -> str:
    """What a shell text prints in the image."""
    done = run_once(image, "-c", text, options=("--entrypoint", "bash", "--user", f"{user}:{user}"))
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Rights:
    """What a pod grants: its user, its capabilities, or everything."""

    uid: int
    capabilities: tuple[str, ...] = ()
    privileged: bool = False

    def options(self) -> list[str]:
        user = ["--user", f"{self.uid}:{self.uid}"]
        if self.privileged:
            return [*user, "--privileged"]
        return [*user, "--cap-drop", "ALL", *(f"--cap-add={name}" for name in self.capabilities)]


RUNG_B = Rights(0, ("SETUID", "SETGID", "KILL"))
NON_ROOT = Rights(PILOT_UID)
PRIVILEGED = Rights(0, privileged=True)


class Container:
    """A started container of the pilot's image; ``remove`` ends whatever is left of it."""

    def __init__(
        self,
        image: str,
        rights: Rights,
        volumes: Mapping[Path, str],
        command: tuple[str, ...],
        *,
        environment: Mapping[str, str] | None = None,
        entrypoint: str | None = None,
    ) -> None:
        mounts = [word for source, target in volumes.items() for word in ("--volume", f"{source}:{target}")]
        given = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        other = [] if entrypoint is None else ["--entrypoint", entrypoint]
        options = ["--detach", *AS_IN_A_POD, *rights.options(), *mounts, *given, *other]
        self.id = podman("run", *options, image, *command).stdout.strip()

    @property
    def log(self) -> str:
        done = podman("logs", self.id)
        return done.stdout + done.stderr

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(podman("inspect", "--format", "{{json .State}}", self.id).stdout)
        return state

    @property
    def alive(self) -> bool:
        return bool(self.state["Running"])

    def end(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for its end: the exit code as the container runtime tells it. AssertionError with its log when it lives on."""
        try:
            return int(podman("wait", self.id, timeout_s=timeout_s).stdout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the container did not end within {timeout_s:g} s:\n{self.log}") from None

    def wait_until(self, true: Any, what: str, timeout_s: float = 40.0) -> None:
        """Wait for a fact while the container lives; AssertionError with its log when it does not come about."""
        end_s = time.monotonic() + timeout_s
        while not true():
            assert self.alive, f"the container ended before {what}:\n{self.log}"
            assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {what}:\n{self.log}"
            time.sleep(0.05)

    def processes(self) -> list[Process]:
        """Those that have process 1 of the container as their parent, seen from the node."""
        pid = int(self.state["Pid"])
        return [process for process in procfs.all_processes().values() if process.ppid == pid]

    def signal(self, name: str) -> None:
        podman("kill", "--signal", name, self.id)

    def execute(self, *command: str) -> str:
        return podman("exec", self.id, *command).stdout

    def remove(self) -> None:
        podman("rm", "--force", "--time", "0", self.id)


def give_to(uid: int, folder: Path) -> None:
    """As a kubelet does with a secret: the files belong to this user, and only it may read them."""
    for path in folder.iterdir():
        os.chown(path, uid, uid)
        path.chmod(0o400)
