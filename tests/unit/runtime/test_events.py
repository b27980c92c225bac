from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.runtime.events import (
    JsonFormatter,
    RedactingFormatter,
    last_event,
    lines_written_by,
    log_to_file,
    redactor,
    start_logging,
)
from pilot.runtime.files import replace_atomically
from pilot.runtime.progress import JobAt, board
from pilot.runtime.secret import Secret
from pilot.runtime.summary import Summary

logger = logging.getLogger("pilot.test")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the pilot says, at INFO."""
    root = logging.getLogger("pilot")
    before = (root.handlers[:], root.level, root.propagate)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging()
    yield stream
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_a_line_has_time_level_thread_and_name(lines: io.StringIO) -> None:
    logger.info("job %s", 7)
    time, level, thread, name, message = (part.strip() for part in lines.getvalue().split("|"))
    assert (level, thread, name, message) == ("INFO", "MainThread", "pilot.test", "job 7")
    assert len(time) == len("2026-11-23 05:00:00.000")


def test_starting_twice_says_everything_once(lines: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("WARNING")
    logger.info("quiet")
    logger.warning("loud")
    said = lines.getvalue() + capsys.readouterr().err
    assert said.count("loud") == 1 and "quiet" not in said


def test_a_message_cannot_forge_a_line_or_command_the_terminal(lines: io.StringIO) -> None:
    logger.info("evil\n2026-11-23 | ERROR | \x1b[2J\r\x9b\x08\x00 tab\tstays")
    assert lines.getvalue().count("\n") == 1
    assert "evil\\n2026-11-23" in lines.getvalue()
    assert "\\x1b[2J\\x0d\\x9b\\x08\\x00 tab\tstays" in lines.getvalue()


def test_a_traceback_keeps_its_lines_and_loses_its_secrets(lines: io.StringIO) -> None:
    redactor.add(Secret("open sesame"))
    try:
        raise ValueError("the word is open sesame")
    except ValueError:
        logger.exception("failed with %s", "open sesame")
    assert "Traceback" in lines.getvalue() and lines.getvalue().count("\n") > 3
    assert "sesame" not in lines.getvalue()


def test_a_jobs_log_holds_the_events_of_its_time(lines: io.StringIO, tmp_path: Path) -> None:
    path = tmp_path / "pilotlog.txt"
    logger.info("before")
    with log_to_file(path):
        logger.info("during")
    logger.info("after")
    with log_to_file(path):
        logger.info("again")
    text = path.read_text()
    assert ["during" in text, "again" in text, "before" in text, "after" in text] == [True, True, False, False]


def test_a_word_that_is_no_unicode_is_logged_all_the_same(tmp_path: Path) -> None:
    code = (
        "import logging, sys; from pathlib import Path; from pilot.runtime.events import log_to_file, start_logging;"
        "start_logging();"
        "context = log_to_file(Path(sys.argv[1])); context.__enter__();"
        "logging.getLogger('pilot.x').info('odd %s', chr(0xd800)); context.__exit__(None, None, None)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "odd \\ud800" in done.stderr and "Error" not in done.stderr
    assert "odd \\ud800" in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), log_to_file(tmp_path / "missing" / "pilotlog.txt"):
        pass


def test_the_formatter_is_in_utc() -> None:
    record = logging.LogRecord("pilot", logging.INFO, "", 0, "x", None, None)
    record.created, record.msecs = 0.0, 0.0
    assert RedactingFormatter().format(record).startswith("1970-01-01 00:00:00.000")


def test_a_disk_that_takes_no_more_costs_lines_of_a_jobs_log_and_nothing_else(lines: io.StringIO) -> None:
    with log_to_file(Path("/dev/full")):
        logger.warning("still told")
    assert "still told" in lines.getvalue() and "Traceback" not in lines.getvalue()


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    replace_atomically(path, b"new", mode=0o600, durable=durable)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["summary.json"]


def test_a_file_that_cannot_be_replaced_stays_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    with pytest.raises(OSError):
        replace_atomically(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder"]


def test_the_summary_is_json_with_a_line_for_each_job(tmp_path: Path) -> None:
    summary = Summary(tmp_path / "s.json")
    summary.write({"queue": "Q"})
    assert json.loads(summary.path.read_text()) == {"queue": "Q", "jobs": []}
    for number in (1, 2, 3):
        summary.add({"panda_id": number})
    summary.write({"queue": "Q", "pilot": {"exit_code": 0}})
    told = summary.path.read_text()
    assert json.loads(told) == {"queue": "Q", "pilot": {"exit_code": 0}, "jobs": [{"panda_id": n} for n in (1, 2, 3)]}
    assert told.splitlines()[2] == '{"panda_id": 2},'


# --- JSON lines, and who else may write them --------------------------------------------------------------------------


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    return logging.LogRecord("pilot.test", logging.WARNING, "file", 1, message, args, None, **more)  # type: ignore[arg-type]


def test_a_json_line_says_what_when_where_and_of_which_job() -> None:
    fields = json.loads(JsonFormatter().format(record("job %s", 7)))
    assert (fields["level"], fields["logger"], fields["thread"]) == ("WARNING", "pilot.test", "MainThread")
    assert fields["message"] == "job 7" and fields["time"].endswith("Z") and "job" not in fields
    at = JobAt(4711, 2, None, "isr", "", Path("/logs"), "payload", 0.0, 0.0)
    with board.job_in_hand(at):
        fields = json.loads(JsonFormatter().format(record("x")))
    assert (fields["job"], fields["attempt"]) == (4711, 2)


def test_a_json_line_is_one_line_of_plain_characters_whatever_is_said() -> None:
    line = JsonFormatter().format(record('evil\n{"level": "INFO"}\x1b[2J\r\u2028\udc80\u4e2d'))
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["message"].startswith("evil\n{")


def test_a_json_line_holds_no_secret_not_even_in_its_traceback() -> None:
    with redactor.knowing((Secret('open "sesame" now'),)):
        try:
            raise ValueError('the word is open "sesame" now')
        except ValueError:
            line = JsonFormatter().format(
                logging.LogRecord("pilot", 40, "f", 1, 'say open "sesame" now', (), sys.exc_info())
            )
    fields = json.loads(line)
    assert "sesame" not in line and fields["message"] == "say ***"
    assert fields["traceback"].endswith("ValueError: the word is ***")


def test_lines_can_be_written_by_another_and_come_back(lines: io.StringIO) -> None:
    other = io.StringIO()
    with lines_written_by(other):
        logger.info("to the other")
    logger.info("back again")
    assert "to the other" in other.getvalue() and "to the other" not in lines.getvalue()
    assert "back again" in lines.getvalue() and "back again" not in other.getvalue()


def test_the_last_event_is_remembered_redacted(lines: io.StringIO) -> None:
    with redactor.knowing((Secret("open sesame"),)), last_event() as said:
        assert said() == ""
        logger.info("first")
        logger.info("the word is %s", "open sesame")
        assert said() == "the word is ***"
