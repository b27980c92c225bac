"""The standalone image of this checkout, one for all tests with containers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.image.podman import ROOT, podman

BUILD_TIMEOUT_S = 600.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test is first waits for the image."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The name of the standalone image; gone afterwards, while what it was made of is kept for the next time."""
    name = f"localhost/pilot-tests:{os.getpid()}"
    done = subprocess.run(
        [ROOT / "scripts/build-image", "--name", name], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == name
    yield name
    podman("untag", name, name)
