"""What the traces of a dead pilot's payload say about the cause, and what is ended."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pilot.payload import cgroup, procfs
from pilot.payload.environment import TRACKING_NAME
from pilot.payload.leftovers import LAST_SAMPLE, lay_to_rest, mark, write_last_sample
from pilot.runtime.workdir import JobFolder

MB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path)
    folder.control.mkdir()
    return folder


def code_and_words(left: dict[str, object], folder: JobFolder) -> tuple[int, str]:
    diagnosis = lay_to_rest(left, folder)
    return diagnosis.code, diagnosis.detail


def test_a_pilot_that_vanished_without_a_trace_was_killed(folder: JobFolder) -> None:
    assert code_and_words(mark("x"), folder) == (1319, "the pilot was killed while the payload was running")


def test_kills_counted_since_the_start_mean_out_of_memory(folder: JobFolder) -> None:
    left = mark("x") | {"oom_kills": cgroup.oom_kill_count() - 2}
    code, words = code_and_words(left, folder)
    assert code == 1212
    assert "killed 2 of its container's processes" in words


def test_another_boots_counter_says_nothing(folder: JobFolder) -> None:
    left = mark("x") | {"oom_kills": cgroup.oom_kill_count() - 2, "boot_id": "another"}
    assert code_and_words(left, folder)[0] == 1319


def test_memory_right_below_the_limit_when_all_vanished_means_out_of_memory(folder: JobFolder) -> None:
    write_last_sample(folder.control / LAST_SAMPLE, 1900 * MB, 2000 * MB)
    code, words = code_and_words(mark("x"), folder)
    assert code == 1212
    assert "1900 MiB of the container's limit of 2000 MiB" in words


def test_memory_far_below_the_limit_is_no_cause(folder: JobFolder) -> None:
    write_last_sample(folder.control / LAST_SAMPLE, 1000 * MB, 2000 * MB)
    assert code_and_words(mark("x"), folder)[0] == 1319


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"used_bytes": "much"}', json.dumps({"used_bytes": 5, "limit_bytes": None})]
)
def test_a_sample_that_makes_no_sense_is_passed_over(folder: JobFolder, text: str) -> None:
    (folder.control / LAST_SAMPLE).write_text(text)
    assert code_and_words(mark("x"), folder)[0] == 1319


def test_a_sample_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    write_last_sample(tmp_path / "missing" / LAST_SAMPLE, 1, 2)


def test_every_carrier_of_the_tracking_variable_is_ended_and_nobody_else(folder: JobFolder) -> None:
    tracking = f"1.1.{os.urandom(8).hex()}"
    ours = subprocess.Popen(["sleep", "60"], env={TRACKING_NAME: tracking, "PATH": os.environ["PATH"]})
    other = subprocess.Popen(["sleep", "60"], env={TRACKING_NAME: tracking + "x", "PATH": os.environ["PATH"]})
    try:
        assert procfs.environment_holds(ours.pid, f"{TRACKING_NAME}={tracking}".encode())
        lay_to_rest(mark(tracking), folder)
        assert ours.wait(5) == -9
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
