from __future__ import annotations

import os
from pathlib import Path

from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.watch.tail import TAIL_BYTES, last_line


def test_nothing_was_said_yet(tmp_path: Path) -> None:
    assert last_line(tmp_path) == ""
    (tmp_path / "payload.stdout").write_text("")
    assert last_line(tmp_path) == ""


def test_the_file_that_was_written_last_counts(tmp_path: Path) -> None:
    out, err = tmp_path / "payload.stdout", tmp_path / "payload.stderr"
    out.write_text("one\ntwo\n")
    err.write_text("trouble\n")
    os.utime(out, ns=(5, 5))
    os.utime(err, ns=(9, 9))
    assert last_line(tmp_path) == "trouble"
    os.utime(out, ns=(11, 11))
    assert last_line(tmp_path) == "two"


def test_a_line_without_its_end_is_shown_and_a_json_record_is_words(tmp_path: Path) -> None:
    out = tmp_path / "payload.stdout"
    out.write_text("one\n 45 %")
    assert last_line(tmp_path) == " 45 %"
    out.write_text('{"message": "visit 7", "levelname": "INFO"}\n\n')
    assert last_line(tmp_path) == "INFO: visit 7"


def test_a_secret_is_masked_also_where_the_window_cuts_it(tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    with redactor.knowing((Secret(secret),)):
        (tmp_path / "payload.stdout").write_text(f"x\nthe word is {secret}, she said")
        assert last_line(tmp_path) == "the word is *********************, she said"
        for cut in range(1, len(secret)):
            line = secret + "y" * (TAIL_BYTES - cut)
            (tmp_path / "payload.stdout").write_text(f"{line}")
            shown = last_line(tmp_path)
            assert secret[-6:] not in shown and secret[:6] not in shown
