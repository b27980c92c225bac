from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import Attempt
from pilot.runtime.workdir import JobFolder, WorkVolume, remove_tree

HOLDER = """
import sys
from pathlib import Path
from pilot.job.errors import PilotCannotWork
from pilot.runtime.workdir import WorkVolume
try:
    with WorkVolume(Path(sys.argv[1])).held():
        print("held")
except PilotCannotWork as trouble:
    print(int(trouble.exit_code), trouble)
"""


def hold_elsewhere(root: Path) -> str:
    return subprocess.run([sys.executable, "-c", HOLDER, str(root)], capture_output=True, text=True, check=True).stdout


def test_the_volume_is_made_with_its_parents(tmp_path: Path) -> None:
    with WorkVolume(tmp_path / "a" / "b").held():
        assert (tmp_path / "a" / "b" / "jobs").is_dir()


def test_a_volume_that_is_open_to_all_is_closed_to_others_and_nothing_else_about_it_is_changed(tmp_path: Path) -> None:
    tmp_path.chmod(0o2777)
    with WorkVolume(tmp_path).held():
        assert tmp_path.stat().st_mode & 0o7777 == 0o2755
    tmp_path.chmod(0o750)
    with WorkVolume(tmp_path).held():
        assert tmp_path.stat().st_mode & 0o7777 == 0o750


def test_a_second_pilot_is_told_to_use_another_folder(tmp_path: Path) -> None:
    with WorkVolume(tmp_path).held():
        said = hold_elsewhere(tmp_path)
        assert said == f"65 another pilot works in {tmp_path}; give this one another folder with --workdir DIR\n"
        with pytest.raises(PilotCannotWork, match="another pilot"), WorkVolume(tmp_path).held():
            pass
    assert hold_elsewhere(tmp_path) == "held\n"


def test_an_error_inside_is_not_taken_for_a_second_pilot(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), WorkVolume(tmp_path).held():
        raise BlockingIOError("mine")
    assert hold_elsewhere(tmp_path) == "held\n"


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "work"
    with pytest.raises(PilotCannotWork) as raised, WorkVolume(root).held():
        pass
    assert raised.value.exit_code is ExitCode.MKDIR
    assert str(raised.value) == f"cannot make the work folder {root}: Not a directory; give another with --workdir DIR"


def test_free_bytes_are_those_of_the_volume(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert abs(WorkVolume(tmp_path).free_bytes() - status.f_bavail * status.f_frsize) < 1 << 30


def test_a_job_has_its_folders_and_they_are_its_own(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    with volume.held():
        folder = volume.open_job(Attempt(4711, 2))
    assert folder.root == tmp_path / "jobs" / "4711.2"
    for path in (folder.work, folder.logs, folder.tmp, folder.home, folder.control):
        assert path.is_dir() and path.stat().st_mode & 0o777 == 0o700
    assert folder.logs not in folder.work.parents and folder.work not in folder.logs.parents


def test_leftovers_are_known_oldest_first_and_strangers_are_not(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    with volume.held():
        for number in (3, 1, 2):
            path = volume.open_job(Attempt(number, 0)).root
            os.utime(path, (number, number))
        (volume.jobs / "file").write_text("")
        (volume.jobs / "link").symlink_to(tmp_path)
        assert [folder.root.name for folder in volume.known_jobs()] == ["1.0", "2.0", "3.0"]


def test_a_folder_goes_whatever_a_payload_made_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (outside / "precious").write_text("")
    volume = WorkVolume(tmp_path / "work")
    with volume.held():
        folder = volume.open_job(Attempt(1, 0))
        deep = folder.work / "deep"
        (deep / "deeper").mkdir(parents=True)
        (deep / "deeper" / "file").write_text("")
        (folder.work / "link").symlink_to(outside)
        os.mkfifo(folder.work / "pipe")
        (deep / "deeper").chmod(0o000)
        deep.chmod(0o000)
        folder.remove()
        assert not folder.root.exists()
        folder.remove()
    assert (outside / "precious").exists() and outside.stat().st_mode & 0o777 == 0o500


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_removing_many_files_is_quick(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    with volume.held():
        folder = volume.open_job(Attempt(1, 0))
        for number in range(2000):
            (folder.work / str(number)).touch()
        folder.remove()


def _make_deep(folder: Path, levels: int) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


def test_a_folder_goes_however_deep_a_payload_made_it(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.work.mkdir(parents=True)
    _make_deep(folder.work, 3000)
    folder.remove()
    assert not folder.root.exists()


def test_removing_a_folder_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "job" / "work"
    (outside / "kept").mkdir(parents=True)
    (inside / "wide").mkdir(parents=True)
    (inside / "wide" / "link").symlink_to(outside)
    (inside / "link").symlink_to(outside / "kept")
    (tmp_path / "job" / "link").symlink_to(outside)
    os.mkfifo(inside / "pipe")
    for number in range(50):
        (inside / "wide" / f"d{number}").mkdir()
    remove_tree(tmp_path / "job")
    assert not (tmp_path / "job").exists()
    assert (outside / "kept").is_dir()


def test_removing_what_is_no_folder_or_not_there_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("link", "file", "absent"):
        remove_tree(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_on_a_full_volume_a_settled_journal_is_kept_at_the_reserves_expense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = WorkVolume(tmp_path)
    volume.jobs.mkdir()
    assert volume.keep_reserve()
    folder = volume.open_job(Attempt(4711, 2))
    folder.journal.touch()
    really_rename = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if volume.reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    volume.archive(folder)
    assert volume.is_over(Attempt(4711, 2))
    assert not folder.root.exists()
