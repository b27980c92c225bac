"""Pods of the image against one sandbox: a work volume as an emptyDir is, secrets as a kubelet mounts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pilot.sandbox.world import World
from tests.containers.image.podman import Container, Rights, give_to
from tests.integration.pilot.pilotrun import QUEUE

SECRETS = {
    "cert": "client.crt",
    "key": "client.key",
    "google_application_credentials": "gcs-key.json",
    "s3_key_file": "s3-key",
}


class Pods:
    """Starts containers against one world, each with a work volume and secrets of its own."""

    def __init__(self, world: World, image: str, folder: Path) -> None:
        self.world = world
        self._image = image
        self._folder = folder
        self._started: list[Container] = []

    def start(
        self,
        rights: Rights,
        *arguments: str,
        volumes: dict[Path, str] | None = None,
        environment: dict[str, str] | None = None,
        entrypoint: str | None = None,
        **settings: Any,
    ) -> Container:
        """``pilot-start --queue DOMA_LSST_DEV ARGUMENTS``, or ``entrypoint ARGUMENTS``; ``settings``: of its settings file."""
        number = len(self._started)
        work = self.work(number)
        work.mkdir()
        work.chmod(0o777)  # as an emptyDir is
        mounts = {self._secrets(number, rights, settings): "/etc/pilot:ro", work: "/pilotdir", **(volumes or {})}
        command = arguments if entrypoint else ("--queue", QUEUE, *arguments)
        container = Container(self._image, rights, mounts, command, environment=environment, entrypoint=entrypoint)
        self._started.append(container)
        return container

    def work(self, number: int = 0) -> Path:
        """The work volume of the container that was started as this one."""
        return self._folder / f"work{number}"

    def _secrets(self, number: int, rights: Rights, settings: dict[str, Any]) -> Path:
        folder = self._folder / f"secrets{number}"
        folder.mkdir(mode=0o755)
        state = self.world.state_dir
        known = yaml.safe_load((state / "pilot.yaml").read_text())
        for option, name in {**SECRETS, "ca": "ca.pem"}.items():
            (folder / name).write_bytes((state / name).read_bytes())
            known[option] = f"/etc/pilot/{name}"
        known |= {"storage_ca": "/etc/pilot/ca.pem", "empty_wait_s": 0, "max_empty": 1, **settings}
        (folder / "pilot.yaml").write_text(yaml.safe_dump(known))
        give_to(rights.uid, folder)
        return folder

    def remove(self) -> None:
        for container in self._started:
            container.remove()
