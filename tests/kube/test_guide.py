"""The operator's guide is true: its commands run as far as no cluster is needed, and its names are those of the objects."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.manifests import KUBE, OVERLAYS, ROOT, Builder, Document, documents
from tests.kube.rules import container_of, pod_of, quantity
from tests.kube.test_terraform import VARIABLES

GUIDE = (ROOT / "docs/operate.md").read_text()
TEMPLATES = (ROOT / "docs/templates.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line and not line.startswith("pilot-start")]
QUEUE_ENTRY: dict[str, Any] = json.loads(re.findall(r"^```json\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[0])


def parts(line: str) -> list[list[str]]:
    """The commands of a pipe as lists of words, without redirections."""
    return [shlex.split(part.partition(" > ")[0]) for part in line.split(" | ")]


@pytest.fixture
def objects(builder: Builder) -> dict[tuple[str, str], Document]:
    """All objects that the guide has somebody make, by kind and name."""
    found = [d for name in ("cluster", "debug", "standalone") for d in documents(builder.build(KUBE / name))]
    return {(document["kind"].lower(), document["metadata"]["name"]): document for document in found}


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_guide_names_what_there_is(
    builder: Builder, objects: dict[tuple[str, str], Document], line: str
) -> None:
    for program, *words in parts(line):
        assert program in ("kubectl", "terraform", "gcloud") or os.access(ROOT / program, os.X_OK)
        for word in words:
            path = word.removeprefix("-chdir=")
            assert not path.startswith("container/") or (ROOT / path).is_dir(), path
        if program == "terraform":
            given = [words[i + 1].partition("=")[0] for i, word in enumerate(words) if word == "-var"]
            assert set(given) <= set(VARIABLES)
        if program == "kubectl":
            check_kubectl(builder, objects, words)


def check_kubectl(builder: Builder, objects: dict[tuple[str, str], Document], words: list[str]) -> None:
    if words[:1] == ["-n"]:
        assert ("namespace", words[1]) in objects
        words = words[2:]
    match words:
        case ["kustomize", folder]:
            assert documents(builder.build(ROOT / folder))
        case ["apply" | "create", "-f", "-"]:
            pass
        case ["create", "secret", "generic", name, *_rest]:
            assert ("secret", name) in objects
        case ["get", "pods", "-l", selector]:
            key, _, value = selector.partition("=")
            assert key in ("pq", "job-name")
            assert key == "pq" or ("job", value) in objects
        case ["exec", "-it", "POD", "--", "bash"]:
            pass
        case ["delete", kind, name] | ["scale", kind, name, "--replicas=10"]:
            assert (kind, name) in objects
        case _:
            pytest.fail(f"the guide says kubectl {' '.join(words)}, which nothing here looks at")


@pytest.mark.parametrize("line", [line for line in LINES if "create secret" in line])
def test_a_secret_made_as_the_guide_says_has_the_keys_that_pods_use(
    builder: Builder, line: str, tmp_path: Path
) -> None:
    argv = parts(line)[0]
    for word in argv:
        if word.startswith("--from-file="):
            (tmp_path / word.split("=")[-1]).write_text(f"content of {word.split('=')[1]}")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    secret = yaml.safe_load(done.stdout)
    (job,) = documents(builder.worker("moderatemem", "worker"))
    assert set(secret["data"]) == keys_used(job)[secret["metadata"]["name"]]
    assert all(base64.b64decode(value) == f"content of {key}".encode() for key, value in secret["data"].items())


def keys_used(job: Document) -> dict[str, set[str]]:
    used: dict[str, set[str]] = {}
    for volume in pod_of(job)["volumes"]:
        for item in volume.get("secret", {}).get("items", ()):
            used.setdefault(volume["secret"]["secretName"], set()).add(item["key"])
    for entry in container_of(job)["env"]:
        reference = entry.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            used.setdefault(reference["name"], set()).add(reference["key"])
    return used


def test_harvesters_entry_fits_the_template_the_namespace_and_the_proxys_mount(builder: Builder) -> None:
    ((queue, entry),) = QUEUE_ENTRY.items()
    (made,) = [line.partition(" > ")[2] for line in LINES if " > " in line]
    submitter = entry["submitter"]
    assert Path(submitter["k8s_yaml_file"]).name == made == f"{queue}.yaml"
    assert {entry[part]["k8s_namespace"] for part in ("submitter", "monitor", "sweeper")} == {"panda"}
    (job,) = documents(builder.worker("developmentcluster", "worker"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(job)["volumeMounts"]}
    assert str(Path(submitter["proxySecretPath"]).parent) == mounts["proxy-secret"]
    assert (entry["mapType"], entry["truePilot"]) == ("NoJob", True)
    assert "k8s.namespace: panda" in GUIDE


def test_the_table_of_templates_is_complete_and_its_memory_is_right(builder: Builder) -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", TEMPLATES, re.MULTILINE))
    assert set(rows) == set(OVERLAYS)
    for overlay in ("developmentcluster", "moderatemem", "highmem"):
        (job,) = documents(builder.worker(overlay, "worker"))
        gib = float(quantity(container_of(job)["resources"]["limits"]["memory"])) / (1 << 30)
        assert f"{gib:.1f}".removesuffix(".0") + " GiB" in rows[overlay]


def test_the_figures_of_the_template_are_those_of_the_template(builder: Builder) -> None:
    (job,) = documents(builder.worker("moderatemem", "worker"))
    told = dict(re.findall(r"`(\w+): ([^`]+)`", TEMPLATES))
    assert told["terminationGracePeriodSeconds"] == str(pod_of(job)["terminationGracePeriodSeconds"])
    assert told["ttlSecondsAfterFinished"] == str(job["spec"]["ttlSecondsAfterFinished"])
    environment = {entry["name"]: entry.get("value") for entry in container_of(job)["env"]}
    assert told["PILOT_WORKDIR"] == environment["PILOT_WORKDIR"]
