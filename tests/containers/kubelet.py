"""The node's side of a pod: start it, stop it, start its container again, and see its end as Kubernetes would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONTAINERS = Path(__file__).parents[2] / "scripts/containers"
START_TIMEOUT_S = 60.0


class Podman:
    """The project's podman, with storage and settings of its own. Raises AssertionError with podman's words.

    ``folder`` is where it runs: what watches over a container leaves a file ``oom`` there when the kernel has killed in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(
        self, *arguments: str, timeout_s: float = START_TIMEOUT_S, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [CONTAINERS, "podman", *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0 or not check, f"podman {' '.join(arguments)}: {done.stderr}"
        return done


class RunningPod:
    """A pod that was played; ``down`` removes it. Its one container is named as Kubernetes names it in the pod."""

    def __init__(self, podman: Podman, document: dict[str, Any], folder: Path, probes: Mapping[str, Any]) -> None:
        self._podman = podman
        self._probes = probes
        self.name = document["metadata"]["name"]
        self.container = f"{self.name}-{document['spec']['containers'][0]['name']}"
        self.volumes = folder / "volumes"
        path = folder / "pod.yaml"
        path.write_text(yaml.safe_dump(document))
        podman.run("kube", "play", str(path))

    @property
    def state(self) -> dict[str, Any]:
        """``State`` of the container: Status, ExitCode, OOMKilled, Pid."""
        text = self._podman.run("inspect", "--format", "{{json .State}}", self.container).stdout
        state: dict[str, Any] = json.loads(text)
        return state

    @property
    def log(self) -> str:
        """What the container wrote, standard error included."""
        done = self._podman.run("logs", self.container)
        return done.stdout + done.stderr

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for the container's end; the exit code Kubernetes would show. AssertionError with its log when it lives on."""
        try:
            return int(self._podman.run("wait", self.container, timeout_s=timeout_s).stdout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.container} did not end within {timeout_s:g} s:\n{self.log}") from None

    def stop(self, grace_s: int) -> None:
        """SIGTERM to process 1 and, when it has not left after ``grace_s``, SIGKILL: how a kubelet stops a container."""
        self._podman.run("stop", "--time", str(grace_s), self.container)

    def kill_process_1(self) -> None:
        """SIGKILL from the node: the kernel's way of ending a container for memory, or a node agent's."""
        os.kill(self.state["Pid"], signal.SIGKILL)

    def start_again(self) -> None:
        """As the kubelet of a pod with ``restartPolicy: OnFailure`` does: same pod, same volumes, another process 1."""
        self._podman.run("start", self.container)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as a probe or ``kubectl exec`` does."""
        return self._podman.run("exec", self.container, *command, check=False)

    def probe(self, kind: str) -> subprocess.CompletedProcess[str]:
        """Run a probe of the template once."""
        return self.execute(*self._probes[kind]["exec"]["command"])

    def down(self) -> None:
        self._podman.run("pod", "rm", "--force", "--time", "0", self.name)
