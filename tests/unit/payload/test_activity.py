"""Since when a payload has been quiet, and what its folder holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.payload import activity
from pilot.payload.activity import Activity, folder_use
from pilot.runtime.workdir import remove_tree


def test_quiet_is_counted_from_the_start_until_something_happens() -> None:
    activity = Activity()
    assert activity.quiet_s(7) == 7
    activity.saw_output(8, "a")
    assert activity.quiet_s(10) == 2


def test_the_same_figures_again_are_no_output() -> None:
    activity = Activity()
    activity.saw_output(1, ("a", 5))
    activity.saw_output(9, ("a", 5))
    assert activity.quiet_s(10) == 9
    activity.saw_output(11, ("a", 4))  # smaller is a change too
    assert activity.quiet_s(11) == 0


def test_a_processor_at_work_is_activity_and_a_sleeper_that_asks_now_and_then_is_not() -> None:
    activity = Activity(window_s=5)
    for second in range(1, 101):
        activity.saw_cpu(second, second * 0.005)
    assert activity.quiet_s(100) == 100
    activity.saw_cpu(105, 0.5 + 1)
    assert activity.quiet_s(106) == 1


def test_a_short_burst_after_a_long_sleep_counts() -> None:
    activity = Activity(window_s=5)
    activity.saw_cpu(3600, 0.1)
    activity.saw_cpu(3605, 0.3)
    assert activity.quiet_s(3605) == 0


def test_file_times_far_in_the_future_hide_no_silence(tmp_path: Path) -> None:
    (tmp_path / "late").write_text("x")
    os.utime(tmp_path / "late", (4e9, 4e9))
    activity = Activity()
    activity.saw_output(1, folder_use((tmp_path,)))
    activity.saw_output(500, folder_use((tmp_path,)))
    assert activity.quiet_s(500) == 499


def test_files_and_folders_are_counted_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"x" * 10_000)
    (tmp_path / "link").symlink_to("/usr")
    found = folder_use((tmp_path, tmp_path / "missing"))
    assert found.entries == 3
    assert 10_000 <= found.used_bytes < 100_000


def test_a_monitors_table_does_not_count_as_new(tmp_path: Path) -> None:
    (tmp_path / "memory_monitor_output.txt").write_text("Time")
    assert folder_use((tmp_path,)).newest_s == 0


def test_what_lies_deeper_than_a_path_can_name_is_counted_too(tmp_path: Path) -> None:
    levels, content = 400, b"x" * 10_000
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("a-folder-with-a-name", dir_fd=descriptor)
        below = os.open("a-folder-with-a-name", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    hidden = os.open("hidden", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    os.write(hidden, content)
    os.close(hidden)
    os.close(descriptor)
    use = folder_use((tmp_path,))
    assert use.entries == levels + 1 and use.used_bytes >= len(content)
    remove_tree(tmp_path)


def test_as_many_are_counted_as_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "MAX_FOLDER_ENTRIES", 10)
    for number in range(5):
        (tmp_path / f"d{number}").mkdir()
        for name in "abcdefghij":
            (tmp_path / f"d{number}" / name).touch()
    assert folder_use((tmp_path,)).entries < 30
    assert folder_use((tmp_path,), most_allowed=40).entries > 40
