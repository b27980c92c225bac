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

from tests.containers.image.podman import podman


class RunningPod:
    """A pod that was played; ``down`` removes it. Its one container is named as Kubernetes names it in the pod."""

    def __init__(self, document: dict[str, Any], folder: Path, probes: Mapping[str, Any]) -> None:
        self._folder = folder
        self._probes = probes
        self.name = document["metadata"]["name"]
        self.container = f"{self.name}-{document['spec']['containers'][0]['name']}"
        self.volumes = folder / "volumes"
        path = folder / "pod.yaml"
        path.write_text(yaml.safe_dump(document))
        self._podman("kube", "play", path)

    def _podman(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return podman(*arguments, folder=self._folder, **options)

    @property
    def state(self) -> dict[str, Any]:
        """``State`` of the container: Status, ExitCode, OOMKilled, Pid."""
        text = self._podman("inspect", "--format", "{{json .State}}", self.container).stdout
        state: dict[str, Any] = json.loads(text)
        return state

    @property
    def log(self) -> str:
        """What the container wrote, standard error included."""
        done = self._podman("logs", self.container)
        return done.stdout + done.stderr

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for the container's end; the exit code Kubernetes would show. AssertionError with its log when it lives on."""
        try:
            return int(self._podman("wait", self.container, timeout_s=timeout_s).stdout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.container} did not end within {timeout_s:g} s:\n{self.log}") from None

    def stop(self, grace_s: int) -> None:
        """SIGTERM to process 1 and, when it has not left after ``grace_s``, SIGKILL: how a kubelet stops a container."""
        self._podman("stop", "--time", str(grace_s), self.container)

    def kill_process_1(self) -> None:
        """SIGKILL from the node: the kernel's way of ending a container for memory, or a node agent's."""
        os.kill(self.state["Pid"], signal.SIGKILL)

    def start_again(self) -> None:
        """As the kubelet of a pod with ``restartPolicy: OnFailure`` does: same pod, same volumes, another process 1."""
        self._podman("start", self.container)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as a probe or ``kubectl exec`` does."""
        return self._podman("exec", self.container, *command, check=False)

    def probe(self, kind: str) -> subprocess.CompletedProcess[str]:
        """Run a probe of the template once."""
        return self.execute(*self._probes[kind]["exec"]["command"])

    def down(self) -> None:
        self._podman("pod", "rm", "--force", "--time", "0", self.name)
