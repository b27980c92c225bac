"""One sandbox world per module, and the pilot as a process against it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import Pilots, processes_of

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), adder_delay_s=0.0) as world:
        yield world


@pytest.fixture(autouse=True)
def _clean(world: World) -> Iterator[None]:
    """No test leaves jobs, faults or a changed server to the next one."""
    yield
    world.sandbox.clear_faults()
    world.sandbox.set_apis("both")
    for job in world.db.jobs("archived = 0"):
        world.db.set_job(job["panda_id"], status="closed", archived=1)


@pytest.fixture
def pilots(world: World, tmp_path: Path) -> Iterator[Pilots]:
    """Starts pilots; nothing of them may be alive when the test is over."""
    pilots = Pilots(world, tmp_path)
    try:
        yield pilots
        left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(tmp_path)]
        assert not left
    finally:
        pilots.stop_all()


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny image: as a SIF and as an unpacked folder."""
    folder = tmp_path_factory.mktemp("images")
    sif, unpacked = folder / "busybox.sif", folder / "busybox"
    subprocess.run([PROJECT / "scripts/make-test-image", sif, unpacked], check=True, capture_output=True)
    return sif, unpacked
