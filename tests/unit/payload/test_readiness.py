from __future__ import annotations

from pathlib import Path

import pytest

from pilot.job.errors import PayloadError, PilotError
from pilot.payload import programs
from pilot.payload.readiness import Demands, Readiness
from pilot.payload.rungs import Level


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "DEFAULT_PATH", str(tmp_path))


def test_what_is_required_and_there_is_no_reason_to_refuse(tmp_path: Path) -> None:
    assert Readiness(Demands(required=Level.D)).refusal(tmp_path) == ""


@pytest.mark.usefixtures("no_runtime")
def test_a_container_is_refused_with_both_reasons_where_no_image_is_named_and_no_runtime_is_there(
    tmp_path: Path,
) -> None:
    sentence = Readiness(Demands(required=Level.A)).refusal(tmp_path)
    assert sentence.startswith("isolation A is required and payloads would run on ")
    assert "no image is named (--image, or image in the queue's settings)" in sentence
    assert "neither apptainer nor singularity is installed" in sentence


@pytest.mark.usefixtures("no_runtime")
def test_a_named_image_is_not_called_missing(tmp_path: Path) -> None:
    sentence = Readiness(Demands(required=Level.A, image_named=True)).refusal(tmp_path)
    assert "no image is named" not in sentence and "is installed" in sentence


def test_the_rung_is_found_out_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    readiness = Readiness(Demands())
    with caplog.at_level("INFO"):
        assert readiness.plain(tmp_path) is readiness.plain(tmp_path)
    assert caplog.text.count("payloads without a container run on rung") == 1


def test_a_user_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(PayloadError) as refused:
        Readiness(Demands(user="nobody-of-this-name")).plain(tmp_path)
    assert refused.value.diagnosis.error is PilotError.SETUP_FAILURE
    assert "payload_user: there is no user 'nobody-of-this-name' here" in refused.value.diagnosis.detail


def test_programs_are_found_on_a_path_of_our_own_and_not_on_the_callers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = tmp_path / "singularity"
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755)
    monkeypatch.setattr(programs, "DEFAULT_PATH", str(tmp_path))
    assert programs.find_runtime() == runtime
    monkeypatch.setattr(programs, "DEFAULT_PATH", "/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find_runtime() is None
