"""The Terraform example: it parses, its names are those of the manifests, the code and the guide, and it grants little."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
from hcl2 import SerializationOptions

from pilot.options import GOOGLE_STORAGE, TRANSFORM_BASES
from pilot.sandbox.cric_server import LOG_BUCKET, TRANSFORM_BUCKET
from tests.kube.manifests import KUBE, ROOT, Builder, documents
from tests.kube.rules import container_of

TERRAFORM = ROOT / "container/terraform"
FILES = sorted(TERRAFORM.glob("*.tf"))
GUIDE = ROOT / "docs/operate.md"
PROJECT = "PROJECT"


def parsed(path: Path) -> dict[str, Any]:
    with path.open() as file:
        options = SerializationOptions(strip_string_quotes=True, explicit_blocks=False, with_comments=False)
        document: dict[str, Any] = hcl2.load(file, serialization_options=options)
        return document


def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """Blocks of one kind by their labels, joined by a dot as the language refers to them."""
    found: dict[str, dict[str, Any]] = {}
    for path in FILES:
        for block in parsed(path).get(kind, []):
            labels: list[str] = []
            while len(block) == 1 and isinstance(next(iter(block.values())), dict) and len(labels) < depth(kind):
                ((label, block),) = block.items()
                labels.append(label)
            found[".".join(labels)] = block
    return found


def depth(kind: str) -> int:
    return {"resource": 2, "variable": 1, "output": 1}[kind]


RESOURCES = blocks("resource")
VARIABLES = blocks("variable")


def value(text: str) -> str:
    """A text with the defaults of the variables put in, and the placeholder of the manifests for the project."""
    defaults = {name: block.get("default", PROJECT) for name, block in VARIABLES.items()}
    return re.sub(r"\$\{(?:upper\()?var\.(\w+)\)?\}", lambda found: str(defaults[found[1]]), text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_parses_and_is_laid_out_as_terraform_would(path: Path) -> None:
    text = path.read_text()
    assert parsed(path)
    assert text.endswith("\n") and not text.endswith("\n\n")
    for line in text.splitlines():
        assert "\t" not in line
        assert line == line.rstrip()
        assert (len(line) - len(line.lstrip())) % 2 == 0, line
    program = shutil.which("terraform")
    if program:
        argv = [program, "fmt", "-check", "-diff", "-no-color", str(path)]
        done = subprocess.run(
            argv, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}, capture_output=True, timeout=30
        )
        assert done.returncode == 0, done.stdout.decode()


def test_everything_that_is_referred_to_exists() -> None:
    text = "\n".join(path.read_text() for path in FILES)
    for name in re.findall(r"\bvar\.(\w+)", text):
        assert name in VARIABLES
    for kind, name in re.findall(r"\b(google_\w+)\.(\w+)\.", text):
        assert f"{kind}.{name}" in RESOURCES
    assert {name for name in VARIABLES if f"var.{name}" not in text} == set()


# buckets


def test_the_buckets_are_those_of_cric_the_monitor_and_the_pilot() -> None:
    names = {
        key.split(".")[1]: value(b["name"]) for key, b in RESOURCES.items() if key.startswith("google_storage_bucket.")
    }
    assert names == {"logging": LOG_BUCKET, "containers": TRANSFORM_BUCKET}
    assert f"{GOOGLE_STORAGE}/{names['containers']}" in TRANSFORM_BASES


@pytest.mark.parametrize("name", ["logging", "containers"])
def test_a_bucket_has_one_way_of_access_and_old_versions(name: str) -> None:
    bucket = RESOURCES[f"google_storage_bucket.{name}"]
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == "inherited"
    assert bucket["versioning"] == [{"enabled": True}]
    assert value(bucket["location"]) == "us-central1"  # in capitals


def test_one_old_version_of_a_log_is_kept() -> None:
    """An old version goes when two newer ones exist, the living one among them."""
    rules = RESOURCES["google_storage_bucket.logging"]["lifecycle_rule"]
    conditions = [rule["condition"][0] for rule in rules]
    assert all(rule["action"] == [{"type": "Delete"}] for rule in rules)
    assert all(condition["matches_prefix"] == ["logs/"] for condition in conditions)
    assert {"matches_prefix": ["logs/"], "with_state": "ARCHIVED", "num_newer_versions": 2} in conditions
    for condition in conditions:  # a living log goes by age alone
        assert condition.get("with_state") == "ARCHIVED" or set(condition) == {"matches_prefix", "age"}


def test_everybody_may_read_what_they_can_name_and_list_nothing() -> None:
    public = {key: block for key, block in RESOURCES.items() if "allUsers" in str(block)}
    assert {block["role"] for block in public.values()} == {"roles/storage.legacyObjectReader"}
    assert len(public) == 2
    assert "allAuthenticatedUsers" not in str(RESOURCES)


# accounts


def test_gcs_access_may_write_logs_and_nothing_else() -> None:
    role = RESOURCES["google_project_iam_custom_role.log_writer"]
    assert role["permissions"] == ["storage.objects.create", "storage.objects.delete", "storage.objects.get"]
    member = "serviceAccount:${google_service_account.gcs_access.email}"
    granted = {block["role"] for block in RESOURCES.values() if block.get("member") == member}
    assert granted == {"${google_project_iam_custom_role.log_writer.id}", "roles/logging.logWriter"}
    assert (
        RESOURCES["google_storage_bucket_iam_member.gcs_access_logging"]["bucket"]
        == "${google_storage_bucket.logging.name}"
    )


def test_no_key_is_made_that_would_lie_in_the_state() -> None:
    assert not [name for name in RESOURCES if name.startswith("google_service_account_key")]


def test_no_broad_role_is_given() -> None:
    roles = {block["role"] for block in RESOURCES.values() if "role" in block}
    assert not [role for role in roles if re.search(r"admin|owner|editor|developer", role, re.IGNORECASE)]


# names that must agree with the manifests


def test_workload_identity_binds_the_workers_own_account(builder: Builder) -> None:
    bound = value(RESOURCES["google_service_account_iam_member.workload_identity"]["member"])
    cluster = {d["kind"]: d for d in documents(builder.build(KUBE / "cluster-workload-identity"))}
    account = cluster["ServiceAccount"]["metadata"]
    assert bound == f"serviceAccount:{PROJECT}.svc.id.goog[{account['namespace']}/{account['name']}]"
    name = RESOURCES["google_service_account.gcs_access"]["account_id"]
    assert account["annotations"]["iam.gke.io/gcp-service-account"] == f"{name}@{PROJECT}.iam.gserviceaccount.com"


def test_harvesters_account_is_the_user_of_its_role(builder: Builder) -> None:
    name = RESOURCES["google_service_account.harvester"]["account_id"]
    (binding,) = [d for d in documents(builder.build(KUBE / "cluster")) if d["kind"] == "RoleBinding"]
    assert [s["name"] for s in binding["subjects"]] == [f"{name}@{PROJECT}.iam.gserviceaccount.com"]


def test_the_images_come_from_the_repository_that_is_made_here(builder: Builder) -> None:
    """An overlay names the repository by a placeholder for the output ``image``."""
    assert blocks("output")["image"]["value"] == "${google_artifact_registry_repository.pilot.registry_uri}/pilot"
    for overlay in ("developmentcluster", "moderatemem", "highmem", "non-root"):
        (job,) = documents(builder.worker(overlay, "worker"))
        assert container_of(job)["image"].startswith("REGISTRY/pilot@sha256:")


def test_the_guide_names_what_is_made_here() -> None:
    guide = GUIDE.read_text()
    for name in (*blocks("output"), "gcs-access", LOG_BUCKET, TRANSFORM_BUCKET, "container/terraform"):
        assert name in guide, name
