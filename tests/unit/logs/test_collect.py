"""Which files of a job are its logs, and what a payload lays out as a trap."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pilot.logs.collect import BUNDLED_FILE_MAX_BYTES, DEEPEST, Budget, LogFile, bundle_members, log_files
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError
from tests.unit.logs.jobs import MOVED


def names(folder: JobFolder, budget: Budget | None = None) -> list[str]:
    found = []
    for name, file in bundle_members(folder, MOVED, budget):
        file.close()
        found.append(name)
    return found


def test_the_logs_that_go_out_are_the_existing_ones_the_pilots_own_last(folder: JobFolder) -> None:
    assert [file.name for file in log_files(folder)] == [
        "payload-log.json",
        "payload.stderr",
        "payload.stdout",
        "pilotlog.txt",
    ]


def test_the_bundle_holds_logs_and_small_files_and_no_inputs_and_outputs(folder: JobFolder) -> None:
    (folder.work / "sub").mkdir()
    (folder.work / "sub" / "a.log").write_text("a")
    (folder.work / "jobReport.json").write_text("{}")
    (folder.home / "secret").write_text("x")
    assert sorted(names(folder)) == [
        "payload-log.json",
        "payload.stderr",
        "payload.stdout",
        "pilotlog.txt",
        "work/jobReport.json",
        "work/sub/a.log",
    ]


def test_what_a_payload_lays_out_as_a_trap_is_passed_over_and_told(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "token").write_text("sesame")
    (folder.work / "link").symlink_to(tmp_path / "outside" / "token")
    (folder.work / "folder").symlink_to(tmp_path / "outside")
    (folder.work / "payload-log.json").unlink()
    (folder.work / "payload-log.json").symlink_to(tmp_path / "outside" / "token")
    os.mkfifo(folder.work / "pipe")
    (folder.work / ".hidden").write_text("x")
    (folder.work / "core").write_bytes(b"")
    os.truncate(folder.work / "core", BUNDLED_FILE_MAX_BYTES + 1)
    budget = Budget()
    assert [name for name in names(folder, budget) if "work" in name or "json" in name] == []
    text = budget.passed_over.text()
    assert all(
        f"{name!r}: " in text for name in ("work/link", "work/folder", "work/pipe", "work/core", "payload-log.json")
    )
    assert "sesame" not in text


def test_a_payload_that_removed_its_own_folder_still_has_its_logs(folder: JobFolder) -> None:
    shutil.rmtree(folder.work)
    assert names(folder) == ["payload.stderr", "payload.stdout", "pilotlog.txt"]


def test_a_log_that_is_a_link_is_not_opened(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    (folder.work / "x").symlink_to(tmp_path / "token")
    with pytest.raises(LocalFileError):
        LogFile("x", folder.work).open()
    assert LogFile("absent", folder.work).size_bytes() is None


def test_of_very_many_files_a_bounded_number_is_looked_at(folder: JobFolder) -> None:
    for number in range(200):
        (folder.work / f"f{number}").write_text("x")
    budget = Budget(entries=50)
    found = [name for name in names(folder, budget) if name.startswith("work/")]
    assert 0 < len(found) <= 50
    assert "too many files: 50 of them are looked at" in budget.passed_over.text()


def test_a_bundle_is_full_at_a_number_of_files_and_at_a_size(folder: JobFolder) -> None:
    for number in range(10):
        (folder.work / f"f{number}").write_text("x" * 100)
    few = Budget(members=3)
    assert len([name for name in names(folder, few) if name.startswith("work/")]) == 3
    assert few.passed_over.text().count("the bundle is full") == 7
    logs_bytes = sum(file.size_bytes() or 0 for file in log_files(folder))
    small = Budget(bytes_=logs_bytes + 450)
    assert len([name for name in names(folder, small) if name.startswith("work/")]) == 4
    assert "'work/f9': 100 bytes, and the bundle is full" in small.passed_over.text()


def test_folders_in_folders_without_an_end_are_left_at_some_depth(folder: JobFolder) -> None:
    place = folder.work
    for _depth in range(DEEPEST + 5):
        place = place / "d"
        place.mkdir()
        (place / "f").write_text("x")
    budget = Budget()
    assert len([name for name in names(folder, budget) if name.endswith("/f")]) == DEEPEST
    assert f"more than {DEEPEST} folders deep" in budget.passed_over.text()


def test_of_many_files_left_out_the_first_are_told_and_the_rest_counted(folder: JobFolder) -> None:
    for number in range(1005):
        (folder.work / f"l{number}").symlink_to("nowhere")
    budget = Budget()
    names(folder, budget)
    assert budget.passed_over.text().endswith("and 5 more\n")
