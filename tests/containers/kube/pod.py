"""A rendered worker as podman runs it: the one place where what podman cannot express is put into words it has.

Kept as it is: image (by name), command, environment, user, groups, capabilities, privileges, read-only root, limits of cpu and
memory, grace period. Translated, as a kubelet would do it on its node:

- a Job becomes the Pod of its template, in the node's network (``hostNetwork``), where the sandbox listens
- emptyDir: a folder of the node, open to all (0777; with fsGroup root:fsGroup 2777)
- secret and configMap volumes: folders of files behind a link, with their mode; with fsGroup the group may read too
- an ``optional`` volume without its object: an empty folder
- ``secretKeyRef``: the value, or nothing where it is optional and absent; ``fieldRef`` and ``resourceFieldRef``: what they
  refer to (node, pod, limit of disk)
- fsGroup: the files' group, and a group of the process
- restartPolicy: Never, because the test starts the container again as the kubelet would
- probes: none; the test runs their command in the container

Dropped because a test needs no scheduler and no API server: affinity, tolerations, service account, deadline, priority, disk
limits, seccomp profiles (podman's own is in force, which permits user namespaces; containerd's RuntimeDefault does not).
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kube.harvester import Submission
from tests.kube.rules import quantity

KEPT_OF_CONTAINER = ("name", "command", "args", "securityContext", "workingDir")
KEPT_OF_POD = ("terminationGracePeriodSeconds", "enableServiceLinks", "automountServiceAccountToken")
KEPT_OF_SECURITY = ("runAsUser", "runAsGroup", "runAsNonRoot")
LIMITS = ("cpu", "memory")

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Node:
    """What the cluster holds beside the worker, and where the node keeps volumes: objects' files by object and key."""

    folder: Path
    secrets: Mapping[str, Files] = field(default_factory=dict)
    config_maps: Mapping[str, Files] = field(default_factory=dict)


def pod_for_podman(submission: Submission, image: str, node: Node) -> dict[str, Any]:
    """The document for ``podman kube play``; makes the volumes' folders below ``node.folder``."""
    spec, container = submission.pod["spec"], submission.container
    group = spec.get("securityContext", {}).get("fsGroup")
    volumes = [
        {
            "name": volume["name"],
            "hostPath": {"path": str(_folder(volume, group, node, submission)), "type": "Directory"},
        }
        for volume in spec["volumes"]
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": submission.job["metadata"]["name"], "labels": submission.pod["metadata"]["labels"]},
        "spec": {
            **{name: spec[name] for name in KEPT_OF_POD if name in spec},
            "restartPolicy": "Never",
            "hostNetwork": True,
            "securityContext": _pod_security(spec, group),
            "containers": [
                {
                    **{name: container[name] for name in KEPT_OF_CONTAINER if name in container},
                    "image": image,
                    "imagePullPolicy": "Never",
                    "env": [plain for entry in container["env"] if (plain := _plain(entry, submission, node))],
                    "resources": {"limits": _limits(container)},
                    "volumeMounts": container["volumeMounts"],
                }
            ],
            "volumes": volumes,
        },
    }


def _pod_security(spec: Mapping[str, Any], group: int | None) -> dict[str, Any]:
    given = spec.get("securityContext", {})
    kept = {name: given[name] for name in KEPT_OF_SECURITY if name in given}
    return kept | ({"supplementalGroups": [group]} if group is not None else {})


def _limits(container: Mapping[str, Any]) -> dict[str, str]:
    limits = container.get("resources", {}).get("limits", {})
    return {name: limits[name] for name in LIMITS if name in limits}


def _plain(entry: Mapping[str, Any], submission: Submission, node: Node) -> dict[str, str] | None:
    """An environment entry with a plain value, or None where an optional one has none."""
    source = entry.get("valueFrom")
    if source is None:
        return {"name": entry["name"], "value": entry.get("value") or ""}
    if "secretKeyRef" in source:
        reference = source["secretKeyRef"]
        value = node.secrets.get(reference["name"], {}).get(reference["key"])
        if value is None:
            assert reference.get("optional"), f"a kubelet would not start this pod: no {reference['key']}"
            return None
        return {"name": entry["name"], "value": value.decode()}
    return {"name": entry["name"], "value": _referred(source, submission)}


def _referred(source: Mapping[str, Any], submission: Submission) -> str:
    """What the downward API puts in: the node's and the pod's name, or a limit of the container in the unit asked for."""
    if "fieldRef" in source:
        names = {"spec.nodeName": socket.gethostname(), "metadata.name": submission.job["metadata"]["name"]}
        return str(names[source["fieldRef"]["fieldPath"]])
    reference = source["resourceFieldRef"]
    kind, resource = reference["resource"].split(".", 1)
    amount = quantity(submission.container["resources"][kind][resource])
    return str(math.ceil(amount / quantity(reference["divisor"])))


def _folder(volume: Mapping[str, Any], group: int | None, node: Node, submission: Submission) -> Path:
    folder: Path = node.folder / "volumes" / volume["name"]
    folder.mkdir(parents=True)
    if "emptyDir" in volume:
        os.chown(folder, 0, group or 0)
        folder.chmod(0o777 if group is None else 0o2777)
        return folder
    if "secret" in volume:
        source = volume["secret"]
        files = node.secrets.get(source["secretName"])
    else:
        source = volume["configMap"]
        files = {**node.config_maps, **_of_the_worker(submission)}.get(source["name"])
    if files is None:
        assert source.get("optional"), f"a kubelet would not start this pod: {volume['name']} has no object"
        files = {}
    wanted = {item["key"]: item["path"] for item in source.get("items", ())} or {key: key for key in files}
    _write_files({path: files[key] for key, path in wanted.items() if key in files}, folder, source, group)
    return folder


def _of_the_worker(submission: Submission) -> dict[str, Files]:
    """What Harvester's own maps hold; the starter is mounted and never run."""
    found: dict[str, Files] = {"pilots-starter": {"pilots_starter.py": b"raise SystemExit('the starter was run')\n"}}
    if submission.config_map is not None:
        data = submission.config_map["data"]
        found[submission.config_map["metadata"]["name"]] = {name: text.encode() for name, text in data.items()}
    return found


def _write_files(files: Files, folder: Path, source: Mapping[str, Any], group: int | None) -> None:
    """As a kubelet lays them out: the files in a folder of their own, reached by a link that can be turned at once."""
    folder.chmod(0o755)
    data = folder / "..2026_01_01"
    data.mkdir()
    mode = source.get("defaultMode", 0o644) | (0 if group is None else 0o040)
    for name, content in files.items():
        path = data / name
        path.write_bytes(content)
        os.chown(path, 0, group or 0)
        path.chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data").symlink_to(data.name)
