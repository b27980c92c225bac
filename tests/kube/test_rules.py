"""Each rule for manifests sees what it is there for: a template that breaks one thing is told exactly that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.kube.manifests import Builder, Document, documents, schema_complaints
from tests.kube.rules import against_baseline, against_restricted, complaints, container_of, pod_of, quantity


@pytest.fixture
def job(builder: Builder) -> Document:
    (document,) = documents(builder.worker("moderatemem", "worker"))
    return copy.deepcopy(document)


def env(name: str, **source: Any) -> Callable[[Document], None]:
    return lambda job: container_of(job)["env"].append({"name": name, **source})


def on_pod(**fields: Any) -> Callable[[Document], None]:
    return lambda job: pod_of(job).update(fields)


def on_container(**fields: Any) -> Callable[[Document], None]:
    return lambda job: container_of(job).update(fields)


def on_security(**fields: Any) -> Callable[[Document], None]:
    return lambda job: container_of(job)["securityContext"].update(fields)


def on_spec(**fields: Any) -> Callable[[Document], None]:
    return lambda job: job["spec"].update(fields)


def volume(name: str, path: str | None = None, **kind: Any) -> Callable[[Document], None]:
    def add(job: Document) -> None:
        pod_of(job)["volumes"].append({"name": name, **kind})
        if path:
            container_of(job)["volumeMounts"].append({"name": name, "mountPath": path})

    return add


def secret(name: str, **fields: Any) -> Callable[[Document], None]:
    def change(job: Document) -> None:
        (found,) = [entry for entry in pod_of(job)["volumes"] if entry["name"] == name]
        found["secret"].update(fields)

    return change


def without(kind: str) -> Callable[[Document], None]:
    return lambda job: container_of(job).pop(kind)


SECRET_KEY = {"secretKeyRef": {"name": "gcs-access", "key": "jsonFile"}}
DATABASE_KEY = {"secretKeyRef": {"name": "credentials", "key": "DB"}}
BROKEN = {
    "restartPolicy Always": on_pod(restartPolicy="Always"),
    "restartPolicy Never with backoffLimit 4": on_spec(backoffLimit=4),
    "restartPolicy OnFailure with backoffLimit 0": on_pod(restartPolicy="OnFailure"),
    "gone before Harvester has looked": on_spec(ttlSecondsAfterFinished=60),
    "podFailurePolicy": on_spec(podFailurePolicy={"rules": []}),
    "one pod": on_spec(parallelism=2),
    "no room for the worker's number": lambda job: job["metadata"].update(name="p" * 60),
    "no DNS label": lambda job: job["metadata"].update(name="Pilot"),
    "namespace is CRIC's": lambda job: job["metadata"].update(namespace="panda"),
    "labels and annotations": lambda job: job["spec"]["template"].update(metadata={"labels": {"app": "pilot"}}),
    "only the first container": lambda job: pod_of(job)["containers"].append({"name": "sidecar", "image": "x"}),
    "init container": on_pod(initContainers=[{"name": "first", "image": "x"}]),
    "deadline is the queue's": on_pod(activeDeadlineSeconds=3600),
    "Harvester mounts below /scratch": volume("scratch", "/scratch", emptyDir={"sizeLimit": "1Mi"}),
    "environment variable TMPDIR stands 2 times": env("TMPDIR", value="/pilotdir"),
    "volume tmp stands 2 times": volume("tmp", emptyDir={"sizeLimit": "1Mi"}),
    "mount /tmp stands 2 times": volume("more", "/tmp", emptyDir={"sizeLimit": "1Mi"}),
    "mount nowhere has no volume": lambda job: container_of(job)["volumeMounts"].append(
        {"name": "nowhere", "mountPath": "/nowhere"}
    ),
    "volume idle is mounted nowhere": volume("idle", emptyDir={"sizeLimit": "1Mi"}),
    "request 4Gi above limit 3520Mi": lambda job: container_of(job)["resources"]["requests"].update(memory="4Gi"),
    "volume node is a hostPath": volume("node", "/node", hostPath={"path": "/"}),
    "docker.sock is named": env("DOCKER", value="/var/run/docker.sock"),
    "hostNetwork is set": on_pod(hostNetwork=True),
    "hostPID is set": on_pod(hostPID=True),
    "automountServiceAccountToken": on_pod(automountServiceAccountToken=True),
    "enableServiceLinks": on_pod(enableServiceLinks=None),
    "serviceAccountName": on_pod(serviceAccountName="default"),
    "secret gcs-access is in the environment (KEY)": env("KEY", valueFrom=SECRET_KEY),
    "secret credentials is in the environment (DB)": env("DB", valueFrom=DATABASE_KEY),
    "envFrom": on_container(envFrom=[{"secretRef": {"name": "credentials"}}]),
    "more than readable": secret("proxy-secret", defaultMode=0o644),
    "open to more than root (0440)": secret("proxy-secret", defaultMode=0o440),
    "uid 1000 cannot read the secret gcs-access": on_security(runAsUser=1000),
    "not mounted read-only": lambda job: [mount.pop("readOnly", None) for mount in container_of(job)["volumeMounts"]],
    "proxyContent is a placeholder": env("proxyContent", value="$proxyContent"),
    "PILOT_WORKDIRS is no option": env("PILOT_WORKDIRS", value="/pilotdir"),
    "no command": without("command"),
    "forwards no signal": on_container(command=["bash", "-c", "pilot-start; true"]),
    "args besides": on_container(args=["--queue", "DOMA_LSST_DEV"]),
    "no startupProbe": without("startupProbe"),
    "livenessProbe does not run": on_container(
        livenessProbe={"exec": {"command": ["find", "/tmp"]}, "timeoutSeconds": 10, "failureThreshold": 5}
    ),
    "gives a busy node less": lambda job: container_of(job)["livenessProbe"].update(timeoutSeconds=1),
    "ends a pilot within five minutes": lambda job: container_of(job)["livenessProbe"].update(failureThreshold=2),
    "readinessProbe": on_container(readinessProbe={"exec": {"command": ["true"]}}),
    "terminationGracePeriodSeconds 5": on_pod(terminationGracePeriodSeconds=5),
    "root file system can be written": on_security(readOnlyRootFilesystem=False),
    "/usr is mounted over": volume("usr", "/usr", emptyDir={"sizeLimit": "1Mi"}),
    "volume big has no sizeLimit": volume("big", "/big", emptyDir={}),
    "HOME is not the mount": lambda job: container_of(job)["env"].append({"name": "HOME", "value": "/root"}),
    "not named by digest": on_container(image="pilot:latest"),
    "imagePullPolicy": on_container(imagePullPolicy="Always"),
    "privileged forbids": on_security(privileged=True),
    "privileged has all capabilities": on_security(privileged=True, allowPrivilegeEscalation=None),
    "runAsNonRoot with runAsUser 0": on_pod(securityContext={"runAsNonRoot": True}),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_template_that_breaks_a_rule_is_told_so(job: Document, words: str) -> None:
    assert complaints(job) == []
    BROKEN[words](job)
    assert any(words in sentence for sentence in complaints(job)), complaints(job)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: pod_of(job).update(restartPolcy="Never"),
        lambda job: container_of(job).update(comand=["pilot-start"]),
        on_security(runAsUser="root"),
        lambda job: job["spec"].update(backoffLimit="none"),
    ],
)
def test_a_misspelt_field_or_wrong_type_is_seen_by_the_schemas(
    job: Document, spoil: Callable[[Document], None]
) -> None:
    spoil(job)
    assert len(schema_complaints(job)) == 4


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (on_security(privileged=True), "privileged"),
        (lambda job: container_of(job)["securityContext"]["capabilities"]["add"].append("SYS_ADMIN"), "SYS_ADMIN"),
        (on_pod(securityContext={"seccompProfile": {"type": "Unconfined"}}), "seccompProfile Unconfined"),
        (on_pod(hostNetwork=True), "hostNetwork"),
        (volume("node", "/node", hostPath={"path": "/"}), "hostPath node"),
    ],
)
def test_what_the_baseline_refuses_is_known(job: Document, change: Callable[[Document], None], word: str) -> None:
    change(job)
    assert word in against_baseline(job)


def test_what_the_restricted_level_refuses_of_the_usual_worker_is_known(job: Document) -> None:
    assert sorted(against_restricted(job)) == ["capabilities", "runAsNonRoot"]
    on_security(allowPrivilegeEscalation=True)(job)
    on_pod(securityContext={})(job)
    assert {"allowPrivilegeEscalation", "seccompProfile"} <= set(against_restricted(job))


def test_quantities_are_read_as_kubernetes_means_them() -> None:
    assert [quantity(text) for text in ("900m", "1", 2, "3200Mi", "16Gi", "1800.0Mi", "16G")] == [
        Decimal("0.9"), 1, 2, 3200 << 20, 16 << 30, 1800 << 20, 16 * 10**9,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no quantity"):
        quantity("3 GB")
