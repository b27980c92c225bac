"""What is known of containers on a node holds for one boot, one runtime and one pilot's rights."""

from __future__ import annotations

from pathlib import Path

from pilot.payload.apptainer import Mode
from pilot.payload.known import NAME, KnownModes


def test_what_was_found_out_is_known_to_a_successor(tmp_path: Path) -> None:
    runtime = tmp_path / "apptainer"
    runtime.write_text("1.4")
    assert KnownModes(tmp_path, runtime).read() == {}
    modes = {True: Mode(own_proc=False), False: Mode(user_namespace=False)}
    KnownModes(tmp_path, runtime).write(modes)
    assert KnownModes(tmp_path, runtime).read() == modes


def test_a_new_runtime_or_a_torn_file_makes_it_unknown(tmp_path: Path) -> None:
    runtime = tmp_path / "apptainer"
    runtime.write_text("1.4")
    KnownModes(tmp_path, runtime).write({True: Mode()})
    runtime.write_text("1.4.6")
    assert KnownModes(tmp_path, runtime).read() == {}
    for text in ("", "[]", '{"valid_for": 1}', "[" * 5000):
        (tmp_path / NAME).write_text(text)
        assert KnownModes(tmp_path, runtime).read() == {}


def test_a_volume_that_takes_nothing_is_no_failure(tmp_path: Path) -> None:
    runtime = tmp_path / "apptainer"
    runtime.write_text("1.4")
    KnownModes(tmp_path / "missing", runtime).write({True: Mode()})
