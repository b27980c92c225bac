"""Real pipetask jobs: the payload image comes from the environment, because building it takes minutes (make does it)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def image() -> Path:
    """The payload image, a SIF."""
    named = os.environ.get("PAYLOAD_IMAGE")
    if not named:
        pytest.fail("PAYLOAD_IMAGE names no image: PAYLOAD_IMAGE=$(scripts/build-payload-image), or make test-e2e")
    path = Path(named)
    if not path.is_file():
        pytest.fail(f"PAYLOAD_IMAGE is {path}, and there is no such file: scripts/build-payload-image makes it")
    return path
