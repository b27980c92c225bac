"""A sandbox, and containers of the standalone image against it. What was measured is printed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot.sandbox.world import World
from tests.containers.image.pods import Pods

_figures: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in _figures:
        terminalreporter.write_line(f"measured: {line}")


@pytest.fixture(scope="session")
def figure() -> Callable[[str], None]:
    """``figure("what was measured")``: a line at the end of the run."""
    return _figures.append


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), adder_delay_s=0.0) as world:
        yield world


@pytest.fixture
def pods(world: World, image: str, tmp_path: Path) -> Iterator[Pods]:
    """Starts containers; nothing of them is left when the test is over, and no job either."""
    pods = Pods(world, image, tmp_path)
    try:
        yield pods
    finally:
        pods.remove()
        for job in world.db.jobs("archived = 0"):
            world.db.set_job(job["panda_id"], status="closed", archived=1)
