"""Settings as a pod gives them."""

from __future__ import annotations

from pathlib import Path

from pilot.settings import read_settings
from tests.bench.pilots import variables


def test_a_settings_files_entries_mean_the_same_as_variables() -> None:
    given = {"server": "https://localhost:1", "heartbeat": 5, "transform_bases": ["https://a/x", "https://b/y"]}
    settings = read_settings({"queue": "Q"}, {"HOME": "/nonexistent", **variables(given)}, config_paths=())
    assert settings.server == ("https://localhost:1",)
    assert settings.transform_bases == ("https://a/x", "https://b/y")
    assert settings.heartbeat == 5.0
    assert settings.workdir == Path("/nonexistent/.cache/pilot/work")
