"""The project's Kubernetes objects as kubectl builds them, and as the schemas of several Kubernetes versions judge them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
KUBE = ROOT / "container/kube"
QUEUE_FILES = ROOT / "tests/data/cric"
QUEUES = ("DOMA_LSST_DEV", "DOMA_LSST_GOOGLE_TEST", "DOMA_LSST_GOOGLE_TEST_HIMEM")
OVERLAYS = tuple(sorted(path.name for path in (KUBE / "overlays").iterdir()))
FORMS = ("worker", "worker-recover")
WORKERS = tuple((overlay, form) for overlay in OVERLAYS for form in FORMS)
OTHERS = ("cluster", "cluster-workload-identity", "debug", "standalone")
# The oldest in the package, two that clusters run, and the newest in the package.
VERSIONS = ("1.25", "1.29", "1.33", str(kubernetes_validate.latest_version()))
OLDEST_AND_NEWEST = (VERSIONS[0], VERSIONS[-1])
SINCE = {"unprivileged-apptainer": (1, 30)}  # appArmorProfile

Document = dict[str, Any]


@cache
def queue(name: str) -> Document:
    """A queue as CRIC answers for it, keyed by field."""
    found: Document = json.loads((QUEUE_FILES / f"{name}.json").read_text())[name]
    return found


def documents(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


class Builder:
    """``kubectl kustomize`` on a copy of container/kube in which each overlay stands on either form of worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[Path, str] = {}
        for form in FORMS:
            shutil.copytree(KUBE, folder / form)
            for path in (folder / form / "overlays").glob("*/kustomization.yaml"):
                lines = path.read_text().splitlines()
                bases = [f"- ../../{form}" if line in [f"- ../../{name}" for name in FORMS] else line for line in lines]
                path.write_text("\n".join(bases))

    def worker(self, overlay: str, form: str) -> str:
        """The text that Harvester loads: an overlay on one of the two forms."""
        return self.build(self._folder / form / "overlays" / overlay)

    def build(self, folder: Path) -> str:
        """What ``kubectl kustomize`` prints for a folder. Its own words when it refuses."""
        if folder not in self._built:
            self._built[folder] = _kustomize(folder)
        return self._built[folder]


def _kustomize(folder: Path) -> str:
    program = shutil.which("kubectl")
    assert program, "no kubectl here: run scripts/prepare-machine kube"
    done = subprocess.run(
        [program, "kustomize", str(folder)],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return done.stdout


def schema_complaints(
    document: Document, since: tuple[int, int] = (0, 0), versions: tuple[str, ...] = VERSIONS
) -> list[str]:
    """What the strict schemas say against a document, by version; of those before ``since`` nothing is asked."""
    found = []
    for version in versions:
        if tuple(int(part) for part in version.split(".")[:2]) < since:
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"{version}: {str(error).splitlines()[0]}")
    return found
