from __future__ import annotations

from pathlib import Path

import pytest

from pilot.runtime.workdir import JobFolder
from tests.unit.logs.jobs import ended_job


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job that has run."""
    return ended_job(tmp_path / "volume")
