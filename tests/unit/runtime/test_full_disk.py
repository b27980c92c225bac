"""A full work volume: the reserve makes the report possible, and no job is asked for without room."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pilot.runtime.journal import WORTH_THE_RESERVE, Event, Journal
from pilot.runtime.workdir import RESERVE_BYTES, WorkVolume

# On a tmpfs of 24 MiB in a mount namespace of its own: everything here is real but the disk's size.
ON_SMALL_DISK = 'mount -t tmpfs -o size=24m none "$1" && exec "$2" -c "$3" "$1"'
HEAD = """
import json, sys
from pathlib import Path
from pilot.job.model import Attempt
from pilot.runtime.journal import Event, Journal, read_journal
from pilot.runtime.workdir import RESERVE_BYTES, WorkVolume

volume = WorkVolume(Path(sys.argv[1]))

def fill():
    with (volume.root / "filler").open("ab", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass

def code_of(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
"""


def on_small_disk(folder: Path, program: str) -> dict[str, Any]:
    """What the program printed, as JSON."""
    argv = ["unshare", "--mount", "sh", "-c", ON_SMALL_DISK, "sh", str(folder), sys.executable, HEAD + program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_reserve_takes_its_room_and_gives_it_back(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    with volume.held():
        assert volume.reserve.stat().st_blocks * 512 >= RESERVE_BYTES
        assert volume.keep_reserve()
        assert volume.release_reserve()
        assert not volume.reserve.exists()
        assert not volume.release_reserve()


def test_a_link_in_the_reserves_place_is_not_written_through(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    volume.reserve.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        volume.keep_reserve()
    assert not (tmp_path / "precious").exists()


def test_every_record_of_the_outbox_finds_room_on_a_full_disk(tmp_path: Path) -> None:
    found = on_small_disk(
        tmp_path,
        """
with volume.held():
    journal = Journal(volume.root / "journal", volume.release_reserve)
    fill()
    body = {"text": "x" * 100_000}
    codes = [code_of(lambda: journal.append(Event.FINAL_PREPARED, body=body))]
    codes += [code_of(lambda: journal.append(Event.FINAL_ACKED))]
events = [record.event.value for record in read_journal(journal.path)]
print(json.dumps({"codes": codes, "events": events, "kept": volume.reserve.exists()}))
""",
    )
    assert found == {"codes": [0, 0], "events": ["final_prepared", "final_acked"], "kept": False}


def test_a_payload_is_not_started_at_the_reserves_expense(tmp_path: Path) -> None:
    found = on_small_disk(
        tmp_path,
        """
with volume.held():
    journal = Journal(volume.root / "journal", volume.release_reserve)
    fill()
    code = code_of(lambda: journal.append(Event.PAYLOAD_STARTING, filling="x" * 100_000))
print(json.dumps({"code": code, "records": len(read_journal(journal.path)), "kept": volume.reserve.exists()}))
""",
    )
    assert found == {"code": errno.ENOSPC, "records": 0, "kept": True}


def test_without_a_reserve_the_failure_is_told_and_the_journal_stays_whole(tmp_path: Path) -> None:
    found = on_small_disk(
        tmp_path,
        """
with volume.held():
    journal = Journal(volume.root / "journal")
    journal.append(Event.ACQUIRED)
    fill()
    code = code_of(lambda: journal.append(Event.FINAL_PREPARED, body="x" * 100_000))
    (volume.root / "filler").unlink()
    journal.append(Event.FINAL_PREPARED, body="y")
print(json.dumps({"code": code, "events": [r.event.value for r in read_journal(journal.path)]}))
""",
    )
    assert found == {"code": errno.ENOSPC, "events": ["acquired", "final_prepared"]}


def test_where_there_is_no_room_for_the_reserve_none_is_kept_and_nothing_is_taken(tmp_path: Path) -> None:
    found = on_small_disk(
        tmp_path,
        """
with volume.held():
    volume.release_reserve()
    fill()
    kept = volume.keep_reserve()
print(json.dumps({"kept": kept, "there": volume.reserve.exists()}))
""",
    )
    assert found == {"kept": False, "there": False}


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_broken_disk_is_not_a_full_one(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[bool] = []
    journal = Journal(tmp_path / "journal", lambda: released.append(True) or True)  # type: ignore[func-returns-value]

    def broken(descriptor: int) -> None:
        raise OSError(code, "broken")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="broken"):
        journal.append(Event.FINAL_PREPARED)
    journal.close()
    assert released == []


def test_a_reserve_that_makes_no_room_is_tried_once(tmp_path: Path) -> None:
    found = on_small_disk(
        tmp_path,
        """
asked = []
with volume.held():
    journal = Journal(volume.root / "journal", lambda: not asked.append(1))
    fill()
    code = code_of(lambda: journal.append(Event.FINAL_PREPARED, body="x" * 100_000))
print(json.dumps({"code": code, "asked": len(asked)}))
""",
    )
    assert found == {"code": errno.ENOSPC, "asked": 1}


def test_all_that_a_successor_needs_is_worth_the_reserve() -> None:
    assert {Event.ACQUIRED, Event.PAYLOAD_EXITED, Event.FINAL_PREPARED, Event.FINAL_ACKED} <= WORTH_THE_RESERVE
    assert Event.PAYLOAD_STARTING not in WORTH_THE_RESERVE


def test_on_a_nearly_full_disk_the_logs_get_the_reserve_but_what_the_report_needs(tmp_path: Path) -> None:
    found = on_small_disk(
        tmp_path,
        """
with volume.held():
    fill()
    volume.open_reserve_for_logs()
    kept, free = volume.reserve.stat().st_blocks * 512, volume.free_bytes()
print(json.dumps({"kept": kept, "free": free}))
""",
    )
    assert found == {"kept": 1 << 20, "free": RESERVE_BYTES - (1 << 20)}
