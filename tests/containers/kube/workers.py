"""Workers as a cluster runs them: templates of this project, rendered by Harvester's rules, played by podman in a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import yaml

from pilot.sandbox.cric_server import TRANSFORM_BUCKET
from pilot.sandbox.world import World
from tests.containers.kube.kubelet import RunningPod
from tests.containers.kube.pod import Node, pod_for_podman
from tests.integration.pilot.pilotrun import QUEUE, wait_until
from tests.kube.harvester import Generation, Harvester, Submission, Worker, submit
from tests.kube.manifests import KUBE, Builder, documents, queue

PROXY = "x509up_u25606"
Change = Callable[[Submission], None]
# Settings of the world that pods have from elsewhere: from Harvester's variables and the template's own.
NOT_IN_PODS = ("cert", "key", "google_application_credentials", "s3_key_file")


class Workers:
    """Submits workers of DOMA_LSST_DEV; ``down`` removes their pods."""

    def __init__(self, world: World, builder: Builder, image: str, folder: Path) -> None:
        self.world = world
        self._builder = builder
        self._image = image
        self._folder = folder
        self._pods: list[RunningPod] = []

    def submit(
        self,
        overlay: str = "developmentcluster",
        form: str = "worker",
        *,
        generation: Generation = "2026",
        job: str | None = None,
        settings: dict[str, Any] | None = None,
        change: Change | None = None,
    ) -> RunningPod:
        """A PULL worker, or with ``job`` (the text of pandaJobData.out) a PUSH worker; ``settings`` go into its settings file."""
        number = 4711 + len(self._pods)
        worker = Worker(number, job=job, job_ram_mb=1024)
        cache = self.world.server_url
        harvester = Harvester(logs_write_url=f"{cache}/server/panda", logs_read_url=f"{cache}/cache")
        found = submit(self._builder.worker(overlay, form), queue(QUEUE), worker, generation, harvester)
        if change:
            change(found)
        return self.play(found, settings)

    def play(self, submission: Submission, settings: dict[str, Any] | None = None) -> RunningPod:
        """Start the pod of a submission on a node of its own."""
        folder = self._folder / f"node{len(self._pods)}"
        document = pod_for_podman(submission, self._image, self._node(folder, settings or {}))
        pod = RunningPod(document, folder, submission.container)
        self._pods.append(pod)
        return pod

    def handed_in(self, number: int, ending: str) -> bytes | None:
        """What was uploaded as the log of a worker; None when there is none of that name."""
        path = self.world.state_dir / f"cache/rubin-harvester_{number}{ending}"
        return path.read_bytes() if path.exists() else None

    def wait_for_payload(self, pod: RunningPod, panda_id: int) -> None:
        """Wait until a payload has made the file ``started`` and the server knows its job to be running."""
        started = pod.volumes / f"pilot-dir/jobs/{panda_id}.0/work/started"

        def begun() -> bool:
            return started.exists() and self.world.sandbox.job(panda_id)["status"] == "running"

        self.wait_until(pod, begun, f"the payload of job {panda_id} has begun")

    def wait_until(self, pod: RunningPod, true: Callable[[], bool], what: str) -> None:
        """Wait for a fact while the pod lives; AssertionError with its log when it does not come about."""
        wait_until(lambda: true() or pod.state["Status"] == "exited", f"{what}:\n{pod.log}", 40.0)
        assert true(), f"the pod ended before {what}:\n{pod.log}"

    def without_harvester(self, folder: str) -> RunningPod:
        """A pod of the one workload in a folder of container/kube that Harvester has nothing to do with."""
        (workload,) = documents(self._builder.build(KUBE / folder))
        return self.play(Submission(workload, None, workload["metadata"]["namespace"]))

    def down(self) -> None:
        for pod in self._pods:
            pod.down()

    def _node(self, folder: Path, settings: dict[str, Any]) -> Node:
        """The cluster's objects: what the guide has an operator fill in, with the sandbox's addresses and credentials."""
        state = self.world.state_dir
        of_world = yaml.safe_load((state / "pilot.yaml").read_text())
        known = {name: value for name, value in of_world.items() if name not in NOT_IN_PODS}
        known |= {"ca": "/etc/pilot/ca.pem", "storage_ca": "/etc/pilot/ca.pem", "max_empty": 1, "empty_wait_s": 0}
        document = yaml.safe_dump({**known, **settings}).encode()
        return Node(
            folder,
            secrets={
                "proxy-secret": dict.fromkeys((PROXY, "x509up"), (state / "proxy.pem").read_bytes()),
                "gcs-access": {"jsonFile": (state / "gcs-key.json").read_bytes()},
                "credentials": {"AWS_ACCESS_KEY_ID": b"PAYLOADS", "AWS_SECRET_ACCESS_KEY": b"payloads-own-key"},
            },
            config_maps={"pilot-settings": {"pilot.yaml": document, "ca.pem": self.world.ca_path.read_bytes()}},
        )


def pushed_job(world: World) -> str:
    """The next job of the queue as Harvester gets it for a PUSH worker: url-encoded, the text of pandaJobData.out."""
    certificate = (str(world.state_dir / "client.crt"), str(world.state_dir / "client.key"))
    request = {"siteName": QUEUE, "prodSourceLabel": "managed"}
    with requests.Session() as session:
        session.trust_env = False
        url = f"{world.server_url}/server/panda/getJob"
        return session.post(url, data=request, cert=certificate, verify=str(world.ca_path), timeout=10).text


def publish_image(world: World, file: Path) -> str:
    """Put an image into the containers bucket; its gs:// URL."""
    url = f"{world.gcs_url}/upload/storage/v1/b/{TRANSFORM_BUCKET}/o?uploadType=media&name={file.name}"
    with requests.Session() as session:
        session.trust_env = False
        session.post(url, data=file.read_bytes(), verify=str(world.ca_path), timeout=30).raise_for_status()
    return f"gs://{TRANSFORM_BUCKET}/{file.name}"
