"""The manifests as kubectl builds them: the schemas of several versions accept them, and no rule is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pilot.payload.rungs import DEFAULT_UID
from tests.kube import rules
from tests.kube.manifests import (
    FORMS,
    KUBE,
    OTHERS,
    OVERLAYS,
    ROOT,
    SINCE,
    WORKERS,
    Builder,
    Document,
    documents,
    queue,
    schema_complaints,
)
from tests.kube.rules import against_baseline, against_restricted, complaints, container_of, pod_of, quantity

MIB = 1 << 20
PILOT_MIB = 128  # of a pod's memory, for the pilot itself
GUARD = 0.95  # of a pod's memory: there the pilot ends the payload (docs/life.md)
# queue, cores and MiB of a node of each cluster
CLUSTERS = {
    "developmentcluster": ("DOMA_LSST_DEV", 6, 8960),
    "moderatemem": ("DOMA_LSST_GOOGLE_TEST", 4, 16384),
    "highmem": ("DOMA_LSST_GOOGLE_TEST_HIMEM", 4, 33792),
}
SYSTEM_PODS_MIB = 500  # what a node's own pods ask for


def worker(builder: Builder, overlay: str, form: str) -> Document:
    (document,) = documents(builder.worker(overlay, form))
    return document


@pytest.mark.parametrize("path", sorted(KUBE.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_a_kustomization_says_nothing_that_an_old_kubectl_does_not_know(path: Path) -> None:
    """Debian 12's kubectl takes folders under ``bases`` only, newer ones take both; neither may see the other's words."""
    document = yaml.safe_load(path.read_text())
    assert set(document) <= {"bases", "resources", "patchesStrategicMerge", "images"}
    assert all((path.parent / name).is_dir() for name in document.get("bases", ()))
    assert all((path.parent / name).is_file() for name in document.get("resources", ()))


@pytest.mark.parametrize(("overlay", "form"), WORKERS)
def test_an_overlay_is_one_job_that_each_version_of_kubernetes_accepts(
    builder: Builder, overlay: str, form: str
) -> None:
    document = worker(builder, overlay, form)
    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "Job")
    assert schema_complaints(document, SINCE.get(overlay, (0, 0))) == []


@pytest.mark.parametrize(("overlay", "form"), WORKERS)
def test_an_overlay_breaks_no_rule(builder: Builder, overlay: str, form: str) -> None:
    assert complaints(worker(builder, overlay, form)) == []


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_objects_are_accepted_by_each_version_of_kubernetes(builder: Builder, name: str) -> None:
    found = documents(builder.build(KUBE / name))
    assert found
    assert {document["kind"]: schema_complaints(document) for document in found} == {d["kind"]: [] for d in found}


@pytest.mark.parametrize("path", sorted((KUBE / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_accepted_by_each_version_of_kubernetes(path: Path) -> None:
    assert [schema_complaints(document) for document in documents(path.read_text())] == [[], []]


def test_what_a_newer_kubernetes_alone_knows_is_refused_by_an_older_one(builder: Builder) -> None:
    """The one overlay with a field of 1.30 is why its older schemas are not asked; they would say so."""
    (sentence, *_) = schema_complaints(worker(builder, "unprivileged-apptainer", "worker"))
    assert "1.25" in sentence
    assert "appArmorProfile" in sentence


@pytest.mark.parametrize("form", FORMS)
def test_a_template_can_be_loaded_as_it_is(form: str) -> None:
    """One document, with the image left to CRIC or an overlay; nothing else is missing."""
    (document,) = documents((KUBE / form / f"{form}.yaml").read_text())
    assert schema_complaints(document) == []
    assert complaints(document) == ["the image pilot:DIGEST is not named by digest"]


def test_the_two_forms_differ_in_what_happens_after_the_container_dies_and_in_nothing_else() -> None:
    never, recover = (documents((KUBE / form / f"{form}.yaml").read_text())[0] for form in FORMS)
    assert (pod_of(never).pop("restartPolicy"), never["spec"].pop("backoffLimit")) == ("Never", 0)
    assert (pod_of(recover).pop("restartPolicy"), recover["spec"].pop("backoffLimit")) == ("OnFailure", 3)
    assert never == recover


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_for_production_outlive_their_container(builder: Builder, overlay: str) -> None:
    (document,) = documents(builder.build(KUBE / "overlays" / overlay))
    expected = "Never" if overlay == "developmentcluster" else "OnFailure"
    assert pod_of(document)["restartPolicy"] == expected


# memory: a limit of our own, the same for each pod of a cluster


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_payload_within_the_queues_maxrss_is_not_ended_by_the_guard_of_the_pod(
    builder: Builder, cluster: str
) -> None:
    limit = quantity(container_of(worker(builder, cluster, "worker"))["resources"]["limits"]["memory"])
    needed_bytes = (queue(CLUSTERS[cluster][0])["maxrss"] + PILOT_MIB) * MIB / GUARD
    assert needed_bytes <= limit < needed_bytes + 64 * MIB


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_memory_asked_for_leaves_no_core_idle_that_maxrss_would_not(builder: Builder, cluster: str) -> None:
    queue_name, cores, node_mib = CLUSTERS[cluster]
    usable_mib = allocatable_mib(node_mib) - SYSTEM_PODS_MIB
    resources = container_of(worker(builder, cluster, "worker"))["resources"]

    def pods(each_mib: float) -> int:
        return min(int(usable_mib / each_mib), int(cores / 0.9))

    request_mib, limit_mib = (float(quantity(resources[kind]["memory"]) / MIB) for kind in ("requests", "limits"))
    best = pods(queue(queue_name)["maxrss"])
    assert pods(request_mib) == best
    assert request_mib == limit_mib or pods(limit_mib) < best


def allocatable_mib(node_mib: float) -> float:
    """What GKE leaves to pods: a quarter of the first 4 GiB is kept back, a fifth of the next 4, and so on."""
    kept, below = 100.0, 0.0
    for upto_gib, share in ((4, 0.25), (8, 0.2), (16, 0.1), (128, 0.06)):
        kept += max(0.0, min(node_mib, upto_gib * 1024) - below) * share
        below = upto_gib * 1024
    return node_mib - kept


# security: what each variant grants


def test_the_usual_worker_is_root_with_three_capabilities_and_fits_the_baseline(builder: Builder) -> None:
    document = worker(builder, "moderatemem", "worker")
    security = container_of(document)["securityContext"]
    assert security["runAsUser"] == 0
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SETUID", "SETGID", "KILL"]}
    assert "fsGroup" not in pod_of(document).get("securityContext", {})
    assert against_baseline(document) == []


def test_the_non_root_worker_fits_the_restricted_level(builder: Builder) -> None:
    assert against_restricted(worker(builder, "non-root", "worker")) == []
    assert "runAsNonRoot" in against_restricted(worker(builder, "moderatemem", "worker"))


def test_the_ordinary_user_of_a_pod_is_the_images_pilot_user_and_not_the_payloads(builder: Builder) -> None:
    """Apptainer needs a name for its user, and the image has it."""
    (pilot, payload) = re.findall(r"uids=(\d+):(\d+)", (ROOT / "scripts/build-image").read_text())[0]
    assert int(payload) == DEFAULT_UID
    for overlay in ("non-root", "unprivileged-apptainer"):
        document = worker(builder, overlay, "worker")
        for context in (pod_of(document)["securityContext"], container_of(document)["securityContext"]):
            assert (context["runAsUser"], context["runAsGroup"]) == (int(pilot), int(pilot))
        assert pod_of(document)["securityContext"]["fsGroup"] == int(pilot)


def test_the_unprivileged_apptainer_worker_lacks_nothing_but_the_profiles(builder: Builder) -> None:
    document = worker(builder, "unprivileged-apptainer", "worker")
    assert sorted(against_restricted(document)) == [
        "appArmorProfile Unconfined",
        "seccompProfile",
        "seccompProfile Unconfined",
    ]


def test_only_one_overlay_is_privileged(builder: Builder) -> None:
    privileged = [name for name in OVERLAYS if "privileged" in against_baseline(worker(builder, name, "worker"))]
    assert privileged == ["privileged-apptainer"]


def test_the_namespace_admits_the_usual_worker_and_the_debugging_pods(builder: Builder) -> None:
    labels = documents(builder.build(KUBE / "cluster"))[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"
    for name in ("debug", "standalone"):
        assert against_baseline(documents(builder.build(KUBE / name))[0]) == []


def test_the_nodes_of_the_non_preemptible_overlay_are_not_taken_away(builder: Builder) -> None:
    pod = pod_of(worker(builder, "non-preemptible", "worker"))
    assert "tolerations" not in pod
    node = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
    assert {(e["key"], e["operator"]) for e in node["matchExpressions"]} == {
        ("cloud.google.com/gke-preemptible", "DoesNotExist"),
        ("cloud.google.com/gke-spot", "DoesNotExist"),
    }
    usual = pod_of(worker(builder, "moderatemem", "worker"))
    assert {toleration["key"] for toleration in usual["tolerations"]} == {
        "cloud.google.com/gke-preemptible",
        "cloud.google.com/gke-spot",
    }


def test_with_workload_identity_no_key_is_mounted_nor_named(builder: Builder) -> None:
    text = builder.worker("workload-identity", "worker")
    assert "gcs-access" not in text
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in text
    assert "/proxy" in text


# beside Harvester


def test_pilots_without_harvester_break_no_rule_and_are_started_again_for_ever(builder: Builder) -> None:
    (document,) = documents(builder.build(KUBE / "standalone"))
    assert complaints(document) == []
    assert pod_of(document)["restartPolicy"] == "Always"
    labels = document["spec"]["template"]["metadata"]["labels"]
    assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert document["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_debugging_pod_is_what_a_worker_is_but_for_what_it_does(builder: Builder) -> None:
    (debug,) = documents(builder.build(KUBE / "debug"))
    usual = worker(builder, "developmentcluster", "worker")
    assert debug["metadata"]["name"] == "test-job"
    assert container_of(debug)["command"][0] == "sleep"
    for field in ("image", "securityContext", "volumeMounts"):
        assert container_of(debug)[field] == container_of(usual)[field], field
    for field in ("restartPolicy", "serviceAccountName", "automountServiceAccountToken", "securityContext"):
        assert pod_of(debug)[field] == pod_of(usual)[field], field
    assert int(container_of(debug)["command"][1]) <= debug["spec"]["activeDeadlineSeconds"]
    told = [rules.probes_ask_the_pilot, rules.there_is_time_to_leave, *rules.OF_JOBS]
    assert complaints(debug, *(rule for rule in rules.OF_WORKLOADS if rule not in told)) == []


def test_a_broken_kustomization_is_told_in_kubectls_words(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\n")
    with pytest.raises(AssertionError, match=r"absent\.yaml"):
        builder.build(tmp_path)


def test_kubectl_builds_the_same_from_a_copy_as_from_the_project(builder: Builder) -> None:
    program = shutil.which("kubectl")
    assert program
    argv = [program, "kustomize", str(KUBE / "overlays/highmem")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == builder.worker("highmem", "worker-recover")
