"""The standalone image of this checkout, one for all tests with containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.containers.image.podman import BUILD_TIMEOUT_S, build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test is first waits for the image."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))


@pytest.fixture(scope="session")
def image() -> str:
    """The standalone image of this checkout."""
    return build("--name", "localhost/pilot-tests:standalone")
