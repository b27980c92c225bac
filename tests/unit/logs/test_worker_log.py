"""The worker log: where old probes look for it, as old as the conductor's last beat, never over what is somebody else's."""

from __future__ import annotations

import gzip
import io
import logging
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.logs import worker_log as module
from pilot.logs.worker_log import Excerpt, WorkerLog, hand_in, worker_log
from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Deadline, Stop, StopKind, Stopped, StopReason

OLD_S = 11 * 60
TERM = StopReason(StopKind.SIGTERM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "pilotdir").mkdir()
    return tmp_path / "pilotdir/wrapper-wid.log"


@pytest.fixture
def link(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp/wrapper-wid.log"


@pytest.fixture
def log(path: Path, link: Path) -> Iterator[WorkerLog]:
    log = WorkerLog(path, link)
    yield log
    log.close()


def probe(name: Path) -> bool:
    """The liveness probe of unchanged templates."""
    command = f"find {name} -mmin -10 | egrep '.*'"
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False).returncode == 0


def grow_old(*names: Path) -> None:
    then = time.time() - OLD_S
    for name in names:
        os.utime(name, (then, then), follow_symlinks=False)


# --- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_of_old_templates_holds_as_long_as_the_conductor_beats(
    log: WorkerLog, path: Path, link: Path
) -> None:
    log.touch()
    assert probe(path) and probe(link)
    grow_old(path, link)
    assert not probe(path) and not probe(link)
    log.touch()
    assert probe(path) and probe(link)


def test_a_line_of_a_helper_makes_a_stuck_conductor_no_younger(
    log: WorkerLog, path: Path, link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago_ns = (int(time.time()) - OLD_S) * 1_000_000_000
    monkeypatch.setattr("pilot.logs.worker_log.time.time_ns", lambda: long_ago_ns)
    log.touch()
    log.write("heartbeat not delivered")
    assert path.read_text() == "heartbeat not delivered\n"
    assert not probe(path) and not probe(link)


def test_a_link_that_was_cleaned_away_comes_back_with_the_next_beat(log: WorkerLog, path: Path, link: Path) -> None:
    link.unlink()
    log.touch()
    assert link.readlink() == path and probe(link)


# --- whose name it is -------------------------------------------------------------------------------------------------


def test_the_link_goes_with_the_pilot_and_the_log_stays(path: Path, link: Path) -> None:
    log = WorkerLog(path, link)
    assert link.readlink() == path
    log.close()
    assert not os.path.lexists(link) and path.exists()


def test_the_log_of_an_earlier_container_goes_on(path: Path, link: Path) -> None:
    for line in ("first", "second"):
        log = WorkerLog(path, link)
        log.write(line)
        log.close()
    assert path.read_text() == "first\nsecond\n"


def test_a_link_an_earlier_pilot_left_leads_to_the_new_log(path: Path, link: Path) -> None:
    link.symlink_to("/nowhere/wrapper-wid.log")
    log = WorkerLog(path, link)
    assert link.readlink() == path
    log.close()


def test_a_file_of_that_name_is_left_alone(path: Path, link: Path) -> None:
    link.write_text("somebody's")
    grow_old(link)
    log = WorkerLog(path, link)
    log.touch()
    log.close()
    assert link.read_text() == "somebody's" and not probe(link)


def test_a_link_of_another_user_is_left_alone(path: Path, link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = WorkerLog(path, link)
    link.unlink()
    link.symlink_to("/etc/hostname")
    monkeypatch.setattr("pilot.logs.worker_log.os.geteuid", lambda: link.lstat().st_uid + 1)
    log.touch()
    log.close()
    assert str(link.readlink()) == "/etc/hostname"


def test_where_the_log_is_under_the_probed_name_itself_there_is_no_link(link: Path) -> None:
    log = WorkerLog(link, link)
    log.touch()
    assert stat.S_ISREG(link.lstat().st_mode) and probe(link)
    log.close()
    assert link.exists()


def test_a_folder_that_cannot_be_written_has_no_link_and_that_is_all(path: Path, tmp_path: Path) -> None:
    log = WorkerLog(path, tmp_path / "not" / "there" / "wrapper-wid.log")
    log.touch()
    log.close()


def test_no_link_is_followed_to_the_log(path: Path) -> None:
    precious = path.parent / "precious"
    precious.write_text("kept")
    path.symlink_to(precious)
    with pytest.raises(OSError):
        WorkerLog(path, None)
    assert precious.read_text() == "kept"


def test_a_second_name_of_a_file_is_not_the_log(path: Path) -> None:
    precious = path.parent / "precious"
    precious.write_text("kept")
    os.link(precious, path)
    with pytest.raises(FileExistsError, match="not a plain file of ours"):
        WorkerLog(path, None)
    assert precious.read_text() == "kept"


def test_a_pipe_is_not_the_log_and_nobody_waits_for_its_reader(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError):
        WorkerLog(path, None)


def test_the_next_place_is_taken_where_the_first_cannot_be_had(tmp_path: Path, path: Path, link: Path) -> None:
    (tmp_path / "folder").mkdir()
    with worker_log((tmp_path / "folder", path), link) as log:
        assert log is not None and log.path == path
    with worker_log((tmp_path / "folder",), link) as log:
        assert log is None
    with worker_log((), link) as log:
        assert log is None


# --- what stands in it ------------------------------------------------------------------------------------------------


def test_the_pilots_events_stand_in_it_without_secrets(path: Path, link: Path) -> None:
    logger = logging.getLogger("pilot.of.a.test")
    with redactor.knowing([Secret("sesame-open")]), worker_log((path,), link):
        logger.warning("the word is %s", "sesame-open")
    logger.warning("afterwards")
    line = path.read_text()
    assert line.endswith("the word is ***\n") and "afterwards" not in line


def test_a_full_disk_costs_lines_and_nothing_else(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pilot.of.a.test")
    with worker_log((Path("/dev/full"), path), None) as log:
        assert log is not None and log.path == path, "a device is no log"
        os.close(log._descriptor)
        logger.warning("lost")
        log._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    assert "Traceback" not in capfd.readouterr().err


def content(log: WorkerLog, packed: bool) -> bytes:
    with log.opened(packed) as (file, size_bytes):
        data = file.read()
    assert len(data) == size_bytes
    return gzip.decompress(data) if packed else data


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_handed_in_is_the_log_as_it_is_now(log: WorkerLog, packed: bool) -> None:
    log.write("one")
    with log.opened(packed) as (file, size_bytes):
        log.write("two")
        assert len(file.read(size_bytes)) == size_bytes
    assert content(log, packed) == b"one\ntwo\n"


@pytest.mark.parametrize("packed", [False, True])
def test_a_secret_that_was_learnt_late_is_not_handed_in(log: WorkerLog, packed: bool) -> None:
    log.write("the word is sesame-open")
    with redactor.knowing([Secret("sesame-open")]):
        assert b"sesame" not in content(log, packed)


def test_of_a_long_log_head_and_tail_are_handed_in(log: WorkerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPLOAD_MAX_BYTES", 10_000)
    for number in range(10_000):
        log.write(f"line {number}")
    data = content(log, packed=False)
    assert len(data) <= 10_000
    assert data.startswith(b"line 0\nline 1\n") and data.endswith(b"line 9999\n")
    assert data.count(b" are left out here ...\n") == 1
    assert content(log, packed=True) == data


def test_a_log_that_was_swapped_is_not_handed_in(log: WorkerLog, path: Path) -> None:
    path.unlink()
    path.write_text("something else")
    with pytest.raises(FileExistsError), log.opened(packed=False):
        pass
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(OSError), log.opened(packed=True):
        pass


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 1000])
def test_an_excerpt_is_the_same_in_blocks_of_any_size(block_bytes: int) -> None:
    data = bytes(range(256)) * 4
    for most_bytes in (300, 1023, 1024, 5000):
        excerpt = Excerpt(io.BytesIO(data), len(data), most_bytes)
        pieces = list(iter(lambda: excerpt.read(block_bytes), b""))  # noqa: B023
        whole = b"".join(pieces)
        assert len(whole) == excerpt.size_bytes <= max(most_bytes, 0)
        assert whole == data if most_bytes >= 1024 else data.startswith(whole[:80]) and data.endswith(whole[-80:])


# --- when it is handed in ---------------------------------------------------------------------------------------------


def test_without_a_stop_there_is_a_minute() -> None:
    given: list[float] = []
    hand_in(lambda time, stop: given.append(time.left_s()), Stop(), 10.0)
    assert 50 < given[0] <= 60


def test_after_a_stop_there_is_what_the_rest_has_left() -> None:
    stop, given = Stop(), []
    stop.request(TERM)
    hand_in(lambda time, grace: given.append((time.left_s(), grace.is_set())), stop, 10.0)
    assert 5 < given[0][0] <= 10 and not given[0][1]
    with pytest.raises(Stopped, match="SIGTERM"):
        hand_in(lambda time, grace: given.append((0, False)), stop, 0.1)
    assert len(given) == 1


def test_an_upload_that_hangs_is_left_behind_when_the_time_is_over() -> None:
    stop, stuck = Stop(), threading.Event()
    stop.request(TERM)

    def upload(time: Deadline, grace: Stop) -> None:
        stuck.wait(30)

    with pytest.raises(Stopped):
        hand_in(upload, stop, 0.4)
    stuck.set()


def test_a_stop_in_the_middle_of_the_upload_ends_it() -> None:
    stop = Stop()

    def upload(time: Deadline, grace: Stop) -> None:
        stop.request(TERM)
        assert grace.wait(10)
        grace.check()

    with pytest.raises(Stopped, match="SIGTERM"):
        hand_in(upload, stop, 0.1)


def test_what_the_upload_raises_comes_out() -> None:
    def upload(time: Deadline, grace: Stop) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        hand_in(upload, Stop(), 10.0)
