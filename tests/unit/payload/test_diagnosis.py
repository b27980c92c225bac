"""A payload's own words, read from files that may be anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot.payload.diagnosis import MAX_TEXT_CHARS, last_meaningful_line, printable, read_words

FAILED = (
    "Execution of task 'isr' on quantum {instrument: 'MiniCam', detector: 1} failed. "
    "Exception RuntimeError: the sky fell down"
)


def log(folder: Path, *records: object) -> None:
    (folder / "payload-log.json").write_text("".join(json.dumps(record) + "\n" for record in records))


def record(message: str, level: str = "INFO", number: int = 20) -> dict[str, object]:
    return {"message": message, "levelname": level, "levelno": number, "MDC": {}}


@pytest.fixture
def stderr(tmp_path: Path) -> Path:
    return tmp_path / "payload.stderr"


def test_the_first_error_record_names_class_and_message(tmp_path: Path, stderr: Path) -> None:
    log(tmp_path, record("fine"), record(FAILED, "ERROR", 40), record("Exception Other: later", "ERROR", 40))
    assert read_words(tmp_path, stderr).first_error == "RuntimeError: the sky fell down"


def test_the_traceback_of_the_first_error_is_kept_as_it_is_and_bounded(tmp_path: Path, stderr: Path) -> None:
    told = 'Traceback (most recent call last):\n  File "isr.py", line 7\nRuntimeError: the sky fell down'
    log(tmp_path, record(FAILED, "ERROR", 40) | {"exc_info": told}, record("x", "ERROR", 40) | {"exc_info": "later"})
    assert read_words(tmp_path, stderr).traceback == told
    log(tmp_path, record(FAILED, "ERROR", 40) | {"exc_info": "x" * 100_000})
    assert len(read_words(tmp_path, stderr).traceback) == 20_000
    log(tmp_path, record(FAILED, "ERROR", 40) | {"exc_info": ["no", "text"]})
    assert read_words(tmp_path, stderr).traceback == ""


def test_an_error_without_an_exception_is_quoted(tmp_path: Path, stderr: Path) -> None:
    log(tmp_path, record("no repository there", "CRITICAL", 50))
    assert read_words(tmp_path, stderr).first_error == "no repository there"


@pytest.mark.parametrize(
    "message", ["Task isr exited early with no work found: empty", "Nothing to do for task 'isr' on quantum"]
)
def test_no_work_is_seen(tmp_path: Path, stderr: Path, message: str) -> None:
    log(tmp_path, record(message))
    assert read_words(tmp_path, stderr).no_work


def test_without_a_log_the_last_meaningful_line_of_stderr_is_quoted(tmp_path: Path, stderr: Path) -> None:
    stderr.write_text(
        "starting\nFileNotFoundError: run.qg\nlsst...MPGraphExecutorError: One or more tasks failed\nKilled\n\n"
    )
    words = read_words(tmp_path, stderr)
    assert words.first_error == "FileNotFoundError: run.qg"
    assert not words.no_work


def test_torn_lines_and_strange_records_are_passed_over(tmp_path: Path, stderr: Path) -> None:
    lines = [
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        b'{"message": 7, "levelno": 40}',
        b'{"a":' * 100_000,
        b"{" + b"x" * (2 << 20),
        json.dumps(record(FAILED, "ERROR", 40)).encode(),
        b'{"message": "torn',
    ]
    (tmp_path / "payload-log.json").write_bytes(b"\n".join(lines))
    assert read_words(tmp_path, stderr).first_error == "RuntimeError: the sky fell down"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Caught an exception, details are in traceback:", "LookupError: no node 17 in the graph"),
        ("No graph", "LookupError: no node 17 in the graph (No graph)"),
        ("Task failed. Exception RuntimeError: the sky", "RuntimeError: the sky"),
    ],
)
def test_the_exception_below_a_traceback_says_more_than_that_there_was_one(
    tmp_path: Path, stderr: Path, message: str, told: str
) -> None:
    traceback = (
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    raise KeyError(17)\nKeyError: 17\n\n'
        "During handling of the above exception, another exception occurred:\n\n"
        'Traceback (most recent call last):\n  File "b.py", line 2, in g\n    raise x\nLookupError: no node 17\nin the graph\n'
    )
    (tmp_path / "payload-log.json").write_text(json.dumps({**record(message, "ERROR", 40), "exc_info": traceback}))
    assert read_words(tmp_path, stderr).first_error == told


def test_links_pipes_and_folders_are_not_read(tmp_path: Path, stderr: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token=12345\n")
    (tmp_path / "payload-log.json").symlink_to(secret)
    stderr.symlink_to(secret)
    assert read_words(tmp_path, stderr).first_error is None
    stderr.unlink()
    os.mkfifo(stderr)
    assert last_meaningful_line(stderr) is None
    assert last_meaningful_line(tmp_path) is None


def test_a_huge_stderr_is_read_from_its_end(stderr: Path) -> None:
    with stderr.open("wb") as file:
        file.truncate(1 << 32)
        file.seek(0, os.SEEK_END)
        file.write(b"\nValueError: at the very end\n")
    assert last_meaningful_line(stderr) == "ValueError: at the very end"


def test_terminal_escapes_do_not_survive() -> None:
    assert printable("\x1b[31mred\x1b[0m \x1b]0;title\x07and\r\nmore\x00\x9b") == "red and more"
    assert len(printable("x" * 10_000)) == MAX_TEXT_CHARS


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_bytes_at_all_give_a_short_printable_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "payload-log.json").write_bytes(content)
    (tmp_path / "stderr").write_bytes(content)
    words = read_words(tmp_path, tmp_path / "stderr").first_error
    assert words is None or (words.isprintable() and len(words) <= MAX_TEXT_CHARS)


def test_a_last_line_that_is_no_complaint_is_quoted_as_the_last_words(stderr: Path) -> None:
    stderr.write_text(
        "INFO 2026-11-23T06:06:29.318+00:00 lsst.pipe.base (isr:{detector: 0})(executor.py:302) - Constructing task isr\n"
    )
    assert last_meaningful_line(stderr) == "it last said: Constructing task isr"
    stderr.write_text("INFO without any more\n")
    assert last_meaningful_line(stderr) == "INFO without any more"
