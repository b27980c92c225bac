from __future__ import annotations

import pytest

from pilot.job.errors import (
    DIAG_MAX_CHARS,
    Diagnosis,
    ExitCode,
    PilotCannotWork,
    PilotError,
    SettingsError,
    StageError,
    StageInError,
    StageOutError,
)


def test_no_code_is_given_twice_and_each_has_a_sentence() -> None:
    codes = [error.code for error in PilotError]
    assert len(set(codes)) == len(codes)
    assert all(1000 <= code < 2000 for code in codes)
    assert all(error.text and "\n" not in error.text for error in PilotError)


def test_exit_codes_stay_apart_from_signals_and_from_harvesters_own() -> None:
    assert all(code < 100 or code in (130, 143) for code in ExitCode)


def test_a_diagnosis_begins_with_the_codes_own_text_and_fits_the_column() -> None:
    assert str(Diagnosis(PilotError.PANDA_KILL)) == "This job was killed by panda server"
    long = str(Diagnosis(PilotError.STAGE_IN_FAILED, "x" * 1000))
    assert long.startswith("Failed to stage-in file: xxx") and len(long) == DIAG_MAX_CHARS == 500


@pytest.mark.parametrize("kind", [StageError, StageInError, StageOutError])
def test_a_stage_error_carries_its_diagnosis(kind: type[StageError]) -> None:
    error = kind(PilotError.NO_STORAGE, "queue Q has none")
    assert error.diagnosis == Diagnosis(PilotError.NO_STORAGE, "queue Q has none")
    assert str(error) == str(error.diagnosis)


def test_wrong_settings_are_a_usage_error() -> None:
    error = SettingsError("no queue")
    assert isinstance(error, PilotCannotWork)
    assert error.exit_code is ExitCode.USAGE
    assert int(error.exit_code) == 2
