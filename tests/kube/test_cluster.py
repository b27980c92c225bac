"""What a cluster needs beside the workers: rights that fit the calls, a network that fits the addresses, fitting quotas."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from pilot.options import DEFAULT_CRIC, DEFAULT_SERVER, GOOGLE_STORAGE
from pilot.settings import read_settings
from tests.kube.harvester import GENERATIONS, Generation, Worker, submit
from tests.kube.manifests import KUBE, QUEUES, WORKERS, Builder, Document, documents, queue
from tests.kube.rules import container_of, quantity

# Harvester's calls to the cluster, as recorded of its plug-in and read in its code.
CALLS = {
    ("batch", "jobs"): {"create", "list", "delete"},
    ("", "pods"): {"list", "delete"},
    ("", "pods/log"): {"get"},
    ("", "configmaps"): {"create", "patch", "delete"},
    ("", "secrets"): {"create", "patch"},
}


@pytest.fixture
def cluster(builder: Builder) -> dict[str, list[Document]]:
    return by_kind(builder, "cluster")


def by_kind(builder: Builder, folder: str) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for document in documents(builder.build(KUBE / folder)):
        found.setdefault(document["kind"], []).append(document)
    return found


def test_everything_lies_in_the_namespace_that_is_made_here(
    builder: Builder, cluster: dict[str, list[Document]]
) -> None:
    (namespace,) = cluster.pop("Namespace")
    others = [document for kind in cluster.values() for document in kind]
    others += [documents(builder.build(KUBE / name))[0] for name in ("debug", "standalone")]
    assert {document["metadata"]["namespace"] for document in others} == {namespace["metadata"]["name"]} == {"panda"}


# rights


def test_harvester_may_do_what_it_does_and_nothing_else(cluster: dict[str, list[Document]]) -> None:
    (role,), (binding,) = cluster["Role"], cluster["RoleBinding"]
    permitted: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                permitted.setdefault((group, resource), set()).update(rule["verbs"])
    assert permitted == CALLS
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert "*" not in str(role["rules"])


def test_of_the_secrets_harvester_changes_the_proxys_alone(cluster: dict[str, list[Document]]) -> None:
    (role,) = cluster["Role"]
    (rule,) = [rule for rule in role["rules"] if "patch" in rule["verbs"] and "secrets" in rule["resources"]]
    assert rule["resourceNames"] == ["proxy-secret"]


def test_the_workers_account_has_no_right_and_no_token(builder: Builder, cluster: dict[str, list[Document]]) -> None:
    (account,) = cluster["ServiceAccount"]
    assert account["automountServiceAccountToken"] is False
    subjects = [subject for binding in cluster["RoleBinding"] for subject in binding["subjects"]]
    assert account["metadata"]["name"] not in {subject["name"] for subject in subjects}
    for overlay, form in WORKERS:
        (job,) = documents(builder.worker(overlay, form))
        assert job["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_the_stubs_name_the_secrets_that_workers_mount_and_hold_nothing(
    builder: Builder, cluster: dict[str, list[Document]]
) -> None:
    stubs = {secret["metadata"]["name"]: secret for secret in cluster["Secret"]}
    assert not any("data" in secret or "stringData" in secret for secret in stubs.values())
    (job,) = documents(builder.worker("moderatemem", "worker"))
    volumes = job["spec"]["template"]["spec"]["volumes"]
    mounted = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
    references = [entry["valueFrom"]["secretKeyRef"] for entry in container_of(job)["env"] if "valueFrom" in entry]
    assert mounted | {reference["name"] for reference in references} == set(stubs)
    assert {reference["key"] for reference in references} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
    }


def test_the_settings_stub_is_one_the_pilot_reads(cluster: dict[str, list[Document]], tmp_path: Path) -> None:
    (settings,) = cluster["ConfigMap"]
    path = tmp_path / "pilot.yaml"
    path.write_text(settings["data"]["pilot.yaml"])
    for name in QUEUES:
        read = read_settings({"queue": name}, {"HOME": "/"}, config_paths=(path,))
        assert read.server == (DEFAULT_SERVER,)
        assert read.cric == DEFAULT_CRIC
    assert set(yaml.safe_load(path.read_text())["queues"]) == set(QUEUES)


# network


def selects(policy: Document, labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    assert set(selector) == {"matchExpressions"}
    assert all(expression["operator"] == "Exists" for expression in selector["matchExpressions"])
    return all(expression["key"] in labels for expression in selector["matchExpressions"])


def permits(policies: list[Document], address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether a pod under these policies may send to an address outside of the cluster."""
    for rule in (rule for policy in policies for rule in policy["spec"]["egress"]):
        if not any((p["protocol"], p["port"]) == (protocol, port) for p in rule["ports"]):
            continue
        for block in (to["ipBlock"] for to in rule["to"] if "ipBlock" in to):
            inside = ip_address(address) in ip_network(block["cidr"])
            if inside and not any(ip_address(address) in ip_network(hole) for hole in block.get("except", ())):
                return True
    return False


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_network_policy_finds_workers_by_a_label_that_harvester_leaves(
    builder: Builder, cluster: dict[str, list[Document]], generation: Generation
) -> None:
    (policy,) = cluster["NetworkPolicy"]
    for worker in (Worker(), Worker(job="PandaID=1", job_ram_mb=1)):
        found = submit(builder.worker("moderatemem", "worker"), queue(QUEUES[0]), worker, generation)
        assert selects(policy, found.pod["metadata"]["labels"])
    for name in ("debug", "standalone"):
        (workload,) = documents(builder.build(KUBE / name))
        assert selects(policy, workload["spec"]["template"]["metadata"]["labels"])
    assert not selects(policy, {"app": "something-else"})


def test_nobody_reaches_a_worker(cluster: dict[str, list[Document]]) -> None:
    (policy,) = cluster["NetworkPolicy"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["spec"]["ingress"] == []


@pytest.mark.parametrize(
    ("address", "port", "may"),
    [
        ("188.184.0.1", urlsplit(DEFAULT_SERVER).port, True),
        ("188.184.0.1", urlsplit(DEFAULT_CRIC).port or 443, True),
        ("142.250.0.1", urlsplit(GOOGLE_STORAGE).port or 443, True),
        ("10.20.0.5", 5432, True),
        ("34.72.0.9", 5432, True),
        ("169.254.169.254", 80, False),
        ("169.254.169.252", 988, False),
        ("169.254.169.254", 443, False),
        ("10.0.0.1", 443, False),
        ("10.4.0.17", 8080, False),
        ("172.16.0.2", 443, False),
        ("142.250.0.1", 22, False),
    ],
)
def test_a_worker_reaches_its_servers_and_nothing_of_the_cluster(
    cluster: dict[str, list[Document]], address: str, port: int, may: bool
) -> None:
    assert permits(cluster["NetworkPolicy"], address, port) is may


def test_names_can_be_looked_up(cluster: dict[str, list[Document]]) -> None:
    (policy,) = cluster["NetworkPolicy"]
    assert permits([policy], "169.254.20.10", 53, "UDP")
    (rule,) = [rule for rule in policy["spec"]["egress"] if {"protocol": "UDP", "port": 53} in rule["ports"]]
    pods = [to["podSelector"]["matchLabels"] for to in rule["to"] if "podSelector" in to]
    assert pods == [{"k8s-app": "kube-dns"}]


def test_workload_identity_opens_the_metadata_server_and_nothing_else(builder: Builder) -> None:
    with_identity = by_kind(builder, "cluster-workload-identity")
    policies = with_identity["NetworkPolicy"]
    assert permits(policies, "169.254.169.254", 80)
    assert permits(policies, "169.254.169.252", 988)
    assert not permits(policies, "10.0.0.1", 443)
    (account,) = with_identity["ServiceAccount"]
    assert account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"].startswith("gcs-access@")


# quotas


def test_every_worker_fits_the_limits_of_the_example(builder: Builder) -> None:
    quota, limits = documents((KUBE / "examples/limits.yaml").read_text())
    (of_containers,) = limits["spec"]["limits"]
    for overlay, form in WORKERS:
        for name in QUEUES:
            resources = submit(builder.worker(overlay, form), queue(name), Worker(), "2026").container["resources"]
            for what in ("cpu", "memory"):
                assert quantity(resources["limits"][what]) <= quantity(of_containers["max"][what])
    assert not [name for name in quota["spec"]["hard"] if name.startswith(("limits.", "requests."))]


def test_a_worker_without_a_limit_of_its_own_is_given_one_above_what_it_asks_for() -> None:
    _quota, limits = documents((KUBE / "examples/limits.yaml").read_text())
    text = (KUBE / "worker/worker.yaml").read_text()
    (of_containers,) = limits["spec"]["limits"]
    for name in QUEUES:
        request = submit(text, queue(name), Worker(), "2026").container["resources"]["requests"]["memory"]
        assert quantity(request) <= quantity(of_containers["default"]["memory"])


def test_no_priority_class_puts_out_another_pod() -> None:
    for document in documents((KUBE / "examples/priority-classes.yaml").read_text()):
        assert document["preemptionPolicy"] == "Never"
        assert not document.get("globalDefault")
