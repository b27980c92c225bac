"""What Harvester's Kubernetes plug-in makes of a Job template, of today (2026) and of mid-2021, in PULL and in PUSH.

The template is loaded and changed as a dictionary; nothing in its text is replaced. The order of the steps is Harvester's, and
what is already in the template decides as it does there: resources, ``pilot-dir``, affinity, priority class and deadline are
filled in only where they are absent, the environment is appended whatever there is, and the pod's labels are replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

Generation = Literal["2021", "2026"]
GENERATIONS: tuple[Generation, ...] = ("2021", "2026")

CONFIG_DIR = "/scratch/jobconfig"
EXEC_DIR = "/scratch/executables"
DEFAULT_IMAGE = "atlasadc/atlas-grid-centos7"
DEFAULT_COMMAND = ["/usr/bin/bash"]
DEFAULT_ARGS = ["-c", "cd; python $EXEC_DIR/pilots_starter.py || true"]
DEFAULT_DEADLINE_S = 4 * 24 * 23600  # Harvester's own arithmetic
SMALLEST_RAM_MB = 4
SINGLE_CORE = ["SCORE", "SCORE_HIMEM"]
MANY_CORES = ["MCORE", "MCORE_HIMEM"]


@dataclass(frozen=True, slots=True)
class Harvester:
    """An instance: its id, the caches its workers' logs go to, and the credentials it mounts. Empty token names: none is used."""

    harvester_id: str = "rubin-harvester"
    logs_write_url: str = "https://ai-idds-01.cern.ch:25443/server/panda"
    logs_read_url: str = "https://ai-idds-01.cern.ch:25443/cache"
    proxy: str | None = "/proxy/x509up_u25606"
    token_dir: str = ""
    token: str = ""
    token_key: str = ""
    prod_source_label: str = "managed"
    pilot_type: str = "PR"


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker to be submitted. ``job``: the text of pandaJobData.out, which makes it a PUSH worker of ``job_ram_mb``."""

    number: int = 4711
    resource_type: str = "SCORE"
    cores: int = 1
    job_type: str = "managed"
    job: str | None = None
    job_ram_mb: int = 0

    @property
    def submit_mode(self) -> str:
        return "PULL" if self.job is None else "PUSH"


@dataclass(frozen=True, slots=True)
class Submission:
    """What reaches the cluster: the Job, the ConfigMap of a PUSH worker, and the namespace they go to."""

    job: dict[str, Any]
    config_map: dict[str, Any] | None
    namespace: str

    @property
    def pod(self) -> dict[str, Any]:
        """The pod template."""
        template: dict[str, Any] = self.job["spec"]["template"]
        return template

    @property
    def container(self) -> dict[str, Any]:
        container: dict[str, Any] = self.pod["spec"]["containers"][0]
        return container

    @property
    def environment(self) -> dict[str, Any]:
        """Values by name as the container sees them: of a name that stands twice, the last. A source is left as it is."""
        return {entry["name"]: entry.get("value", entry.get("valueFrom")) or "" for entry in self.container["env"]}


def submit(
    template: str,
    queue: Mapping[str, Any],
    worker: Worker,
    generation: Generation,
    harvester: Harvester | None = None,
) -> Submission:
    """Render the text of a template for a worker of ``queue`` (its dictionary in CRIC)."""
    return _Rendering(
        yaml.load(template, yaml.CSafeLoader), queue, worker, generation, harvester or Harvester()
    ).submission()


@dataclass(frozen=True)
class _Rendering:
    job: dict[str, Any]
    queue: Mapping[str, Any]
    worker: Worker
    generation: Generation
    harvester: Harvester

    def submission(self) -> Submission:
        self.job["metadata"]["name"] += f"-{self.worker.number}"
        self._label()
        self._keep_one_container()
        self._ask_for_cpu_and_memory()
        if self._today:
            self._ask_for_storage()
        self._tell_environment()
        self._mount_config_maps()
        if not self._today:
            self._bound_pilot_dir()
        self._schedule()
        return Submission(self.job, self._config_map(), self._namespace())

    @property
    def _today(self) -> bool:
        return self.generation == "2026"

    @property
    def _pod(self) -> dict[str, Any]:
        pod: dict[str, Any] = self.job["spec"]["template"]["spec"]
        return pod

    @property
    def _container(self) -> dict[str, Any]:
        container: dict[str, Any] = self._pod["containers"][0]
        return container

    def _param(self, name: str, default: Any) -> Any:
        return (self.queue.get("params") or {}).get(name, default)

    def _label(self) -> None:
        metadata = self.job["spec"]["template"].setdefault("metadata", {})
        metadata["labels"] = {
            "resourceType": self.worker.resource_type,
            "prodSourceLabel": self._label_of_jobs(),
            "pq": self.queue["panda_resource"],
        }
        if self._today and self._param("k8s.annotations.safe_to_evict", None) is False:
            metadata["annotations"] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}

    def _label_of_jobs(self) -> str:
        label = self.harvester.prod_source_label
        return "unified" if self._today and label in ("managed", "user") else label

    def _keep_one_container(self) -> None:
        del self._pod["containers"][1:]
        host_image = self._param("k8s.host_image", None) if self._today else None
        if host_image:
            self._container["image"] = host_image
        self._container.setdefault("image", DEFAULT_IMAGE)
        if "command" not in self._container:
            self._container.update(command=DEFAULT_COMMAND, args=DEFAULT_ARGS)

    def _ask(self, kind: Literal["requests", "limits"], resource: str, amount: str) -> None:
        self._container.setdefault("resources", {}).setdefault(kind, {}).setdefault(resource, amount)

    def _ask_for_cpu_and_memory(self) -> None:
        cores, ram_mb = self.worker.cores, self._ram_mb()
        if cores > 0:
            percent = self._param("k8s.resources.requests.cpu_scheduling_ratio", 90)
            self._ask("requests", "cpu", str(cores * percent / 100.0))
            self._ask("limits", "cpu", str(cores))
        if ram_mb <= SMALLEST_RAM_MB:
            return
        percent = self._param("k8s.resources.requests.memory_scheduling_ratio", 100)
        self._ask("requests", "memory", f"{ram_mb * percent / 100.0}{'Mi' if self._today else 'M'}")
        if self._today and self._param("k8s.resources.limits.use_memory_limit", False):
            offset_mb = self._param("k8s.resources.limits.memory_limit_min_offset", 0)
            factor = self._param("k8s.resources.limits.memory_limit_safety_factor", 100)
            self._ask("limits", "memory", f"{max(ram_mb + offset_mb, ram_mb * factor / 100.0)}Mi")

    def _ram_mb(self) -> int:
        """A PULL worker takes what the queue offers, a PUSH worker what its job asks for."""
        return int(self.queue["maxrss"] if self.worker.job is None else self.worker.job_ram_mb)

    def _maxwdir_mb(self) -> float:
        """The queue's, divided among workers of fewer cores where it has all kinds of them."""
        whole = float(self.queue["maxwdir"])
        if self.queue.get("capability") == "ucore" and self.queue.get("corecount"):
            return whole / int(self.queue["corecount"]) * self.worker.cores
        return whole

    def _storage_mib(self, factor_percent: float = 100) -> float:
        offset = self._param("k8s.resources.ephemeral_storage_offset", 0)
        return float(round((self._maxwdir_mb() + offset) * factor_percent / 100.0, 2))

    def _uses_storage(self) -> bool:
        return bool(self._param("k8s.resources.use_ephemeral_storage_resource_specs", True))

    def _storage_limit_mib(self) -> float:
        return self._storage_mib(self._param("k8s.resources.limits.ephemeral_storage_limit_safety_factor", 100))

    def _ask_for_storage(self) -> None:
        if not self._uses_storage():
            return
        self._ask("requests", "ephemeral-storage", f"{self._storage_mib()}Mi")
        self._ask("limits", "ephemeral-storage", f"{self._storage_limit_mib()}Mi")
        volumes = self._pod.setdefault("volumes", [])
        if not any(volume["name"] == "pilot-dir" for volume in volumes):
            volumes.append({"name": "pilot-dir", "emptyDir": {}})
        mounts = self._container.setdefault("volumeMounts", [])
        if not any(mount["name"] == "pilot-dir" for mount in mounts):
            mounts.append({"name": "pilot-dir", "mountPath": self._pilot_dir()})

    def _bound_pilot_dir(self) -> None:
        for volume in self._pod.get("volumes", []):
            if volume["name"] == "pilot-dir" and "emptyDir" in volume and self._maxwdir_mb():
                volume["emptyDir"].setdefault("sizeLimit", f"{int(self._maxwdir_mb() / 1000)}G")

    def _pilot_dir(self) -> str:
        return str(self._param("k8s.volumes.pilot_dir_mount", "/pilotdir"))

    def _tell_environment(self) -> None:
        told = {**self._environment_of_both(), **(self._of_today() if self._today else self._of_2021())}
        entries: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in told.items()]
        if self._today:
            field = {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}
            entries.append({"name": "PANDA_HOSTNAME", "valueFrom": field})
        self._container.setdefault("env", []).extend(entries)

    def _environment_of_both(self) -> dict[str, str | None]:
        number, harvester = str(self.worker.number), self.harvester
        return {
            "computingSite": self.queue["panda_resource"],
            "pandaQueueName": self.queue["nickname"],
            "resourceType": self.worker.resource_type,
            "prodSourceLabel": self._label_of_jobs(),
            "pilotType": harvester.pilot_type,
            "pilotUrlOpt": "",
            "pythonOption": f"--pythonversion {self.queue['python_version']}",
            "jobType": "unified" if self._today else self.worker.job_type,
            "proxySecretPath": harvester.proxy,
            "workerID": number,
            "logs_frontend_w": harvester.logs_write_url,
            "logs_frontend_r": harvester.logs_read_url,
            "PANDA_JSID": f"harvester-{harvester.harvester_id}",
            "HARVESTER_WORKER_ID": number,
            "HARVESTER_ID": harvester.harvester_id,
            "submit_mode": self.worker.submit_mode,
            "EXEC_DIR": EXEC_DIR,
        }

    def _of_2021(self) -> dict[str, str | None]:
        return {"stdout_name": ""}

    def _of_today(self) -> dict[str, str | None]:
        harvester, pilot_dir = self.harvester, self._pilot_dir()
        told: dict[str, str | None] = {
            "pilotVersion": str(self.queue["pilot_version"]),
            "PANDA_AUTH_ORIGIN": "atlas.pilot",
            "PANDA_AUTH_DIR": harvester.token_dir,
            "PANDA_AUTH_TOKEN": harvester.token,
            "PANDA_AUTH_TOKEN_KEY": harvester.token_key,
            "pilotProxyCheck": str(self._param("k8s.pilot_proxy_check", False)),
            "TMPDIR": pilot_dir,
            "HOME": pilot_dir,
            "K8S_JOB_ID": self.job["metadata"]["name"],
        }
        if self._uses_storage():
            told |= {"storageRequestMiB": str(self._storage_mib()), "storageLimitMiB": str(self._storage_limit_mib())}
        return told

    def _mount_config_maps(self) -> None:
        maps = [("pilots-starter", "pilots-starter", EXEC_DIR)]
        if self.worker.job is not None:
            maps.append(("job-config", str(self.worker.number), CONFIG_DIR))
        for volume, name, path in maps:
            self._pod.setdefault("volumes", []).append({"name": volume, "configMap": {"name": name}})
            self._container.setdefault("volumeMounts", []).append({"name": volume, "mountPath": path})

    def _config_map(self) -> dict[str, Any] | None:
        if self.worker.job is None:
            return None
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": str(self.worker.number), "namespace": self._namespace()},
            "data": {"pandaJobData.out": self.worker.job, "PoolFileCatalog_H.xml": "<POOLFILECATALOG/>"},
        }

    def _namespace(self) -> str:
        queues = self.queue.get("queues") or []
        return str(queues[0]["ce_queue_name"] if queues else self._param("k8s.namespace", "default"))

    def _schedule(self) -> None:
        attract, repel = True, True
        if self._today:
            attract = self._param("k8s.scheduler.use_score_mcore_affinity", True)
            repel = self._param("k8s.scheduler.use_score_mcore_anti_affinity", False)
        if (attract or repel) and "affinity" not in self._pod:
            self._pod["affinity"] = self._affinity(attract, repel)
        priority = self._priority_class() if self._today else None
        if priority:
            self._pod.setdefault("priorityClassName", priority)
        if not self._today or self._param("k8s.use_active_deadline_seconds", True):
            self._pod.setdefault("activeDeadlineSeconds", self.queue.get("maxtime") or DEFAULT_DEADLINE_S)

    def _affinity(self, attract: bool, repel: bool) -> dict[str, Any]:
        """Pods of few cores attract each other; those of many and of few repel each other."""
        kind = self.worker.resource_type
        few = kind in SINGLE_CORE if self._today else kind == "SCORE"
        others = (MANY_CORES if few else SINGLE_CORE) if self._today else ["MCORE" if few else "SCORE"]
        friends = [*SINGLE_CORE, *MANY_CORES] if self._today else [kind]
        found: dict[str, Any] = {}
        if attract and few:
            found["podAffinity"] = _preference(friends)
        if repel:
            found["podAntiAffinity"] = _preference(others)
        return found

    def _priority_class(self) -> str | None:
        general = self._param("k8s.scheduler.priorityClassName", None)
        special = self._param(f"k8s.scheduler.priorityClassName.{self.worker.resource_type.lower()}", None)
        return str(special or general) if special or general else None


def _preference(resource_types: list[str]) -> dict[str, Any]:
    expression = {"key": "resourceType", "operator": "In", "values": copy.copy(resource_types)}
    term = {"labelSelector": {"matchExpressions": [expression]}, "topologyKey": "kubernetes.io/hostname"}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
