"""A sandbox, and workers in pods against it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.sandbox.world import World
from tests.containers.image.podman import podman
from tests.containers.kube.workers import Workers
from tests.kube.manifests import ROOT, Builder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), adder_delay_s=0.0) as world:
        yield world


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves jobs or faults to the next one."""
    yield
    if "world" not in request.fixturenames:
        return
    world: World = request.getfixturevalue("world")
    world.sandbox.clear_faults()
    for job in world.db.jobs("archived = 0"):
        world.db.set_job(job["panda_id"], status="closed", archived=1)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("kube") / "forms")


@pytest.fixture(scope="session")
def named_image(image: str) -> Iterator[str]:
    """A name of this run alone for the image: ``podman kube play`` takes no id."""
    name = f"localhost/pilot-workers:{os.getpid()}"
    podman("tag", image, name)
    yield name
    podman("untag", name, name)


@pytest.fixture
def workers(world: World, builder: Builder, named_image: str, tmp_path: Path) -> Iterator[Workers]:
    """Submits workers; their pods are removed when the test is over."""
    workers = Workers(world, builder, named_image, tmp_path)
    try:
        yield workers
    finally:
        workers.down()


@pytest.fixture(scope="session")
def busybox_sif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny payload image."""
    sif = tmp_path_factory.mktemp("images") / "busybox.sif"
    subprocess.run([ROOT / "scripts/make-test-image", sif], check=True, capture_output=True)
    return sif
