from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from pilot.runtime.progress import Board, JobAt, PayloadAt, TransferAt


def job(stage: str = "starting") -> JobAt:
    return JobAt(4711, 1, 9, "isr", "https://logs.example/pilotlog.txt", Path("/logs"), stage, 10.0, 10.0)


def test_a_board_begins_with_a_pilot_that_starts_and_nothing_else() -> None:
    at = Board().now()
    assert (at.pilot.doing, at.job, at.payload, at.transfers, at.heard_s, at.report_since_s) == (
        "starting", None, None, (), None, None,
    )  # fmt: skip


def test_what_was_read_stays_as_it_was() -> None:
    board = Board()
    before = board.now()
    board.doing("asking for a job")
    board.counted(finished=True)
    board.counted(finished=False)
    assert before.pilot.doing == "starting"
    at = board.now().pilot
    assert (at.doing, at.finished, at.failed) == ("asking for a job", 1, 1)


def test_a_stage_has_a_beginning_and_ends_what_a_payload_used() -> None:
    board = Board()
    with board.job_in_hand(job()):
        board.payload = PayloadAt(1.0, 1 << 20, 0.5, 2)
        board.stage("stage_out")
        at = board.now()
        assert at.job is not None and at.job.stage == "stage_out" and at.job.stage_began_s > at.job.began_s
        assert at.payload is None


def test_a_stage_without_a_job_is_nobodys() -> None:
    board = Board()
    board.stage("stage_in")
    assert board.now().job is None


def test_a_job_takes_everything_of_its_own_along_when_it_ends() -> None:
    board = Board()
    with board.job_in_hand(job()):
        board.payload, board.heard_s, board.report_since_s = PayloadAt(1.0, 1, 0.5, 2), 3.0, 4.0
    at = board.now()
    assert (at.job, at.payload, at.heard_s, at.report_since_s) == (None, None, None, None)


def test_files_tell_how_far_they_are_when_somebody_looks() -> None:
    board, moved = Board(), [0]
    with board.moving("in.fits", "in", lambda: (moved[0], 100)), board.moving("log.tgz", "out", lambda: (7, None)):
        moved[0] = 42
        assert board.now().transfers == (TransferAt("in.fits", "in", 42, 100), TransferAt("log.tgz", "out", 7, None))
    assert board.now().transfers == ()


def test_of_many_files_that_begin_and_end_at_once_none_is_lost_or_left(eventually: Callable[..., None]) -> None:
    board, hold = Board(), threading.Event()

    def move(name: str) -> None:
        for _ in range(200):
            with board.moving(name, "in", lambda: (0, None)):
                pass
        with board.moving(name, "in", lambda: (0, None)):
            hold.wait(10)

    threads = [threading.Thread(target=move, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(board.now().transfers) == 8 and not hold.is_set(), what="all eight files on their way")
    hold.set()
    for thread in threads:
        thread.join()
    assert board.now().transfers == ()
