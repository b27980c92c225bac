"""What the pilot is made of: every file by its hash, nothing by URL, every licence known and one we may ship."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
# What an Apache-2.0 program may be shipped with, unchanged and as packages of their own. MPL-2.0 asks for its own files' source,
# which certifi is. None of the GPL kind, linked or not, is among them.
PERMITTED = {"Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "PSF-2.0", "MPL-2.0"}


IMAGE_LOCK = (ROOT / "container/requirements.lock").read_text()


def entries(lock: str = LOCK) -> dict[str, str]:
    """A lock's entries by ``name==version``."""
    parts = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    return {part.split()[0]: part for part in parts if part.strip() and not part.startswith("#")}


def licence_rows() -> list[tuple[str, str, str]]:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    return [(name, version, text) for name, version, text in rows if name != "package"]


def sbom(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/sbom"), *arguments], capture_output=True, text=True, check=False
    )


def test_every_locked_package_has_one_version_and_hashes() -> None:
    assert len(entries()) > 40
    for head, entry in entries().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[A-Za-z0-9.+!-]+", head), head
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), head


@pytest.mark.parametrize("lock", [LOCK, IMAGE_LOCK], ids=["everything", "image"])
def test_the_lock_names_no_place_to_fetch_from(lock: str) -> None:
    assert "://" not in lock
    assert not re.search(
        r"^\s*(-e|-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", lock, re.MULTILINE
    )
    assert " @ " not in lock


def test_the_images_lock_says_what_the_projects_lock_says() -> None:
    everything = entries()
    for head, entry in entries(IMAGE_LOCK).items():
        assert head in everything, f"{head} is not in requirements.lock: make lock renews both"
        assert hashes(entry) == hashes(everything[head]), head


def test_the_image_holds_what_the_pilot_runs_with_and_nothing_else() -> None:
    assert set(entries(IMAGE_LOCK)) == {f"{name}=={version}" for name, version, _licence in licence_rows()}


def hashes(entry: str) -> set[str]:
    return set(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry))


def test_every_requirement_of_the_project_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    locked = {head.partition("==")[0] for head in entries()}
    for requirement in wanted:
        name = re.split(r"[<>=!~\[; ]", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in locked, requirement


def test_the_licence_list_is_current_with_the_lock() -> None:
    done = sbom("--check")
    assert done.returncode == 0, done.stderr
    for name, version, _licence in licence_rows():
        assert f"{name}=={version}" in entries()


@pytest.mark.parametrize(("name", "licence"), [(name, licence) for name, _version, licence in licence_rows()])
def test_a_licence_is_one_we_may_ship(name: str, licence: str) -> None:
    assert set(re.split(r" OR | AND ", licence)) <= PERMITTED, f"{name}: {licence}"


def test_the_bill_of_materials_names_every_package_with_its_hashes(tmp_path: Path) -> None:
    before = (ROOT / "docs/licences.md").read_bytes()
    done = sbom("--output", str(tmp_path / "sbom.json"))
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs/licences.md").read_bytes() == before
    document = json.loads((tmp_path / "sbom.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    components = {entry["name"]: entry for entry in document["components"]}
    assert [(name, entry["version"]) for name, entry in components.items()] == [row[:2] for row in licence_rows()]
    assert all(entry["hashes"] and entry["licenses"] for entry in components.values())
    refs = {"pilot", *(entry["bom-ref"] for entry in components.values())}
    assert {entry["ref"] for entry in document["dependencies"]} == refs
    assert all(set(entry["dependsOn"]) <= refs for entry in document["dependencies"])
