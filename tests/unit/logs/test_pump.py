"""While a payload runs its logs are public: the end of each, and what is before it in segments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import BinaryIO

import pytest

from pilot.logs import pump, segments
from pilot.logs.pump import TAIL_BYTES, WHOLE_MAX_BYTES, follow, whole_or_ends
from pilot.logs.segments import Segments
from pilot.runtime.events import redactor
from pilot.runtime.loops import Helpers
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import Unavailable

DONE = StopReason(StopKind.PAYLOAD_DONE)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "FIRST_LOOK_S", 0.0)


class Board(dict[str, bytes]):
    """Objects by name; ``stop`` is requested when the last log was put."""

    def __init__(self, stop: Stop | None = None) -> None:
        self.stop, self.puts = stop, 0

    def put(self, name: str, content: BinaryIO) -> None:
        size_bytes = content.seek(0, 2)
        content.seek(0)
        self[name] = content.read(size_bytes)
        self.puts += 1
        if self.stop and name == "pilotlog.txt":
            self.stop.request(DONE)


def shown_once(folder: JobFolder) -> Board:
    board = Board(Stop())
    assert board.stop is not None
    follow(folder, board.put, board.stop)
    return board


def lines(first: int, end: int) -> bytes:
    return b"".join(b"line %08d of the log, and more words\n" % number for number in range(first, end))


def test_growing_logs_are_shown(folder: JobFolder, eventually: Callable[..., None]) -> None:
    board = Board()
    with Helpers(Stop()) as helpers:
        helpers.start("log-pump", lambda stop: follow(folder, board.put, stop))
        eventually(lambda: "pilotlog.txt" in board)
    assert board["pilotlog.txt"] == b"this is pilotlog.txt\n" and board["payload.stdout"] == b"this is payload.stdout\n"


def test_a_log_that_did_not_grow_is_not_sent_again(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "SHORTEST_INTERVAL_S", 0.0)
    board, stop, rounds = Board(), Stop(), 0

    def wait(timeout_s: float | None) -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            folder.stdout.write_text("it has grown, and by more than a word\n")
        if rounds == 6:
            stop.request(DONE)
        return stop.is_set()

    monkeypatch.setattr(stop, "wait", wait)
    follow(folder, board.put, stop)
    assert board.puts == 4 + 1


def shown_at(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, grows_at_s: Callable[[float], bool], until_s: float
) -> list[float]:
    """When the standard output of a job was shown, in seconds since its start, by a clock that only waiting moves."""
    now_s, stop, moments = 0.0, Stop(), []

    def wait(timeout_s: float | None) -> bool:
        nonlocal now_s
        before_s, now_s = now_s, now_s + (timeout_s or 0.0)
        if any(grows_at_s(float(second)) for second in range(int(before_s), int(now_s))):
            with folder.stdout.open("ab") as log:
                log.write(b"a line\n")
        if now_s > until_s:
            stop.request(DONE)
        return stop.is_set()

    def put(name: str, _content: BinaryIO) -> None:
        if name == "payload.stdout":
            moments.append(now_s)

    monkeypatch.setattr(pump, "monotonic_s", lambda: now_s)
    monkeypatch.setattr(stop, "wait", wait)
    follow(folder, put, stop)
    return moments


def test_of_a_job_that_is_over_at_once_nothing_is_sent(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "FIRST_LOOK_S", 60.0)
    board, stop = Board(), Stop()
    stopping = threading.Timer(0.05, stop.request, (DONE,))
    stopping.start()
    follow(folder, board.put, stop)
    stopping.join()
    assert board == {}


def test_a_line_after_a_quiet_time_is_shown_at_once_however_long_the_job_has_run(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, *later = shown_at(folder, monkeypatch, lambda second: second in (5_000, 40_000), 43_200)
    assert begin == 0.0 and len(later) == 2
    assert 0 < later[0] - 5_000 <= 3 and 0 < later[1] - 40_000 <= 3


def test_a_log_that_always_grows_is_shown_every_ten_seconds_and_later_every_hundredth(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = shown_at(folder, monkeypatch, lambda _second: True, 12_000)
    pauses = {before: after - before for before, after in pairwise(moments)}
    assert {pause for before, pause in pauses.items() if before < 900} == {10}
    assert {pause for before, pause in pauses.items() if 2_900 < before < 3_000} == {30}
    assert all(0 <= pause - 0.01 * before < 3 for before, pause in pauses.items() if before > 6_000)


def test_of_a_large_log_the_end_is_shown_from_a_line_on_and_all_of_it_is_kept(folder: JobFolder) -> None:
    text = lines(0, 100_000)
    folder.stdout.write_bytes(text + b"the end is not")
    board = shown_once(folder)
    shown = board["payload.stdout"]
    assert len(shown) <= TAIL_BYTES
    notice, _, end = shown.partition(b"\n")
    assert b"the whole text is in payload.stdout.0001, beside this" in notice
    assert end.startswith(b"line ") and end.endswith(b"words\nthe end is not")
    assert board["payload.stdout.0001"] == text


def test_segments_and_the_shown_end_together_hold_every_byte_at_any_time(folder: JobFolder) -> None:
    board: dict[str, bytes] = {}
    for size in (20_000, 40_000, 41_000, 90_000, 200_000):
        text = lines(0, size)
        folder.stdout.write_bytes(text)
        board |= shown_once(folder)
        kept = b"".join(board[name] for name in sorted(board) if name.startswith("payload.stdout."))
        end = board["payload.stdout"].partition(b"]\n")[2] if kept else board["payload.stdout"]
        assert text.startswith(kept) and text.endswith(end) and len(kept) + len(end) >= len(text)


def test_a_segment_has_a_largest_size(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_MAX_BYTES", 1 << 20)
    text = lines(0, 100_000)
    folder.stdout.write_bytes(text)
    board = shown_once(folder)
    kept = [board[name] for name in sorted(board) if name.startswith("payload.stdout.")]
    assert b"".join(kept) == text and max(map(len, kept)) == 1 << 20
    assert b"payload.stdout.0001 to payload.stdout.0004" in board["payload.stdout"]


def test_a_successor_goes_on_with_the_next_segment(folder: JobFolder) -> None:
    folder.stdout.write_bytes(lines(0, 50_000))
    first = shown_once(folder)
    folder.stdout.write_bytes(lines(0, 100_000))
    second = shown_once(folder)
    assert sorted(name for name in second if name.startswith("payload.stdout.")) == ["payload.stdout.0002"]
    assert first["payload.stdout.0001"] + second["payload.stdout.0002"] == lines(0, 100_000)


@pytest.mark.parametrize("left", [b"", b"{", b'{"payload.stdout": 5}', b'{"payload.stdout": ["x"]}', b"[1]", b"\xff"])
def test_a_spoilt_memory_of_segments_begins_with_the_first_again(folder: JobFolder, left: bytes) -> None:
    (folder.logs / "segments.json").write_bytes(left)
    assert Segments(folder).names("payload.stdout") == () and Segments(folder).end_bytes("payload.stdout") == 0


def test_a_store_that_is_away_does_not_end_the_pump(folder: JobFolder, caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []
    stop = Stop()

    def put(name: str, content: BinaryIO) -> None:
        tried.append(name)
        if len(tried) == 4:
            stop.request(DONE)
        raise Unavailable("down")

    follow(folder, put, stop)
    assert len(tried) == 4
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


# --- at the end -------------------------------------------------------------------------------------------------------


def stored_at_the_end(folder: JobFolder, kept: Segments) -> tuple[bool, Board]:
    board = Board()
    with redactor.reading(folder.stdout.open("rb")) as opened:
        return whole_or_ends("payload.stdout", opened, kept, board.put), board


def test_an_ended_log_is_stored_whole_and_its_segments_are_superfluous(folder: JobFolder) -> None:
    folder.stdout.write_bytes(lines(0, 100_000))
    shown_once(folder)
    needed, board = stored_at_the_end(folder, Segments(folder))
    assert not needed and board == {"payload.stdout": lines(0, 100_000)}


def test_a_very_large_log_lies_in_segments_and_its_object_shows_both_ends(folder: JobFolder) -> None:
    text = lines(0, WHOLE_MAX_BYTES // 30)
    folder.stdout.write_bytes(lines(0, 300_000))
    before = shown_once(folder)
    folder.stdout.write_bytes(text + b"no line end")
    kept = Segments(folder)
    needed, board = stored_at_the_end(folder, kept)
    assert needed and kept.names("payload.stdout") == ("payload.stdout.0001", "payload.stdout.0002")
    assert before["payload.stdout.0001"] + board["payload.stdout.0002"] == text + b"no line end"
    shown = board["payload.stdout"]
    assert shown.startswith(b"line 00000000 of") and shown.endswith(b"words\nno line end")
    assert b"\n[... " in shown and b"in payload.stdout.0001 to payload.stdout.0002, beside this ...]\nline " in shown
    assert len(shown) <= TAIL_BYTES


# --- secrets ----------------------------------------------------------------------------------------------------------

WORD = "open-sesame-42"


@pytest.mark.parametrize("written", range(len(WORD) + 1))
def test_a_log_that_ends_within_a_secret_shows_no_part_of_it(folder: JobFolder, written: int) -> None:
    folder.stdout.write_bytes(lines(0, 100_000) + WORD.encode() + b" and " + WORD.encode()[:written])
    with redactor.knowing([Secret(WORD)]):
        board = shown_once(folder)
    everything = b"".join(board.values())
    assert not [piece for start in range(len(WORD) - 5) if (piece := WORD[start : start + 6].encode()) in everything]
    assert board["payload.stdout"].endswith(
        b"*" * len(WORD) + b" and " + (WORD.encode()[:written] if written < 6 else b"*" * written)
    )


def test_a_secret_that_a_segments_end_cuts_is_in_neither(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_MAX_BYTES", 1 << 20)
    middle = (1 << 20) - 7
    folder.stdout.write_bytes(b"-" * middle + WORD.encode() + b"-" * middle)
    with redactor.knowing([Secret(WORD)]):
        board = shown_once(folder)
    kept = b"".join(board[name] for name in sorted(board) if name.startswith("payload.stdout."))
    assert kept == b"-" * middle + b"*" * len(WORD) + b"-" * middle
