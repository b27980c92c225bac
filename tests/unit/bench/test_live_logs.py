"""A log put together from its segments and its object, and the payload whose numbered lines allow it."""

from __future__ import annotations

import subprocess

from tests.bench.live_logs import BLOCK_LINES, LAST_MOMENT, LINE_BYTES, LOUD, joined

LINES = [f"{number:09d} {'.' * (LINE_BYTES - 11)}\n".encode() for number in range(100)]
TEXT = b"".join(LINES)


def test_a_log_is_its_segments_and_from_there_on_what_its_object_shows() -> None:
    notice = b"[... 4000 bytes are left out here: the whole text is in payload.stdout.0001, beside this ...]\n"
    assert joined(b"", TEXT) == TEXT
    assert joined(TEXT[:6000], notice + b"".join(LINES[40:])) == TEXT, "they overlap"
    assert joined(TEXT[:6000], notice + b"".join(LINES[60:]) + b"half a li") == TEXT + b"half a li", "they meet"
    assert joined(TEXT, b"") == TEXT, "the object could not be read"


def test_what_lies_in_neither_is_seen_as_missing() -> None:
    assert joined(TEXT[:6000], b"[...]\n" + b"".join(LINES[70:])) != TEXT


def test_the_loud_payload_writes_numbered_lines_of_one_length() -> None:
    text = subprocess.run(["bash", "-c", LOUD.format(seconds=1)], capture_output=True, check=True).stdout
    lines = text.splitlines(keepends=True)
    assert {len(line) for line in lines} == {LINE_BYTES}
    assert [int(line[:9]) for line in lines] == list(range(len(lines)))
    assert len(LAST_MOMENT.findall(text)) == len(lines) / BLOCK_LINES
