from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.logs.page import words


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "unknown"), (0, "0 B"), (999, "999 B"), (1024, "1.00 kB"), (1 << 20, "1.00 MB"), (3600 << 20, "3.52 GB"),
        (999_999, "977 kB"), (1023 << 10, "1.00 MB"), (10 << 30, "10.0 GB"), (100 << 30, "100 GB"), (1 << 60, "1024 PB"),
    ],
)  # fmt: skip
def test_a_size_has_three_digits_and_a_unit(size_bytes: int | None, text: str) -> None:
    assert words.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"), (0, "0 s"), (0.452, "0.45 s"), (12.34, "12.3 s"), (99.96, "1 min 40 s"), (245, "4 min 05 s"),
        (3599.7, "1 h 00 min"), (43_380, "12 h 03 min"), (273_600, "3 d 04 h"), (-2, "-2.00 s"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_two_units_at_most(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(("moment", "text"), [(0, "1970-01-01 00:00:00 UTC"), (1e300, "unknown"), (None, "unknown")])
def test_a_moment_is_told_in_utc(moment: float | None, text: str) -> None:
    assert words.moment(moment) == text


def test_terminal_colours_and_characters_that_turn_a_text_around_do_not_pass() -> None:
    assert words.plain("\x1b[31mred\x1b[0m a\x00b \u202egnp.exe\r\nnext") == "red a\ufffdb \ufffdgnp.exe\nnext"


def test_of_a_log_the_last_lines_are_shown_but_not_the_half_line_a_tail_begins_with() -> None:
    tail = b"alf a line\n" + b"".join(b"line %d\n" % n for n in range(9)) + b"\n\n"
    assert words.last_lines(tail, 3, whole=False) == ("line 6", "line 7", "line 8")
    assert words.last_lines(b"first\nsecond", 9, whole=True) == ("first", "second")


def test_a_json_record_is_shown_as_a_line_for_people() -> None:
    record = b'{"asctime": "12:00", "levelname": "ERROR", "name": "lsst.isr", "message": "no bias", "exc_info": null}'
    assert words.last_lines(record, 1, whole=True) == ("12:00 ERROR lsst.isr: no bias",)


@pytest.mark.parametrize("line", ['{"', '{"message": 7}', '["a"]', '{"a": ' + "[" * 5000])
def test_what_is_no_record_is_shown_as_it_is(line: str) -> None:
    assert words.last_lines(line.encode(), 1, whole=True)[0].startswith(line[:20])


def test_an_overlong_line_is_cut_and_says_so() -> None:
    (line,) = words.last_lines(b"x" * 5000, 1, whole=True)
    assert line.endswith("(4000 more characters)") and len(line) < 1100


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_of_a_log_can_break_its_tail(tail: bytes, whole: bool) -> None:
    for line in words.last_lines(tail, 5, whole):
        line.encode()
        assert "\n" not in line or line  # a record's message may hold several lines
