from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from pilot.runtime.journal import Event, Journal, read_journal


def write(path: Path, *events: Event, **data: Any) -> bytes:
    journal = Journal(path)
    for number, event in enumerate(events):
        journal.append(event, number=number, **data)
    journal.close()
    return path.read_bytes()


def line_of(fields: object) -> bytes:
    body = json.dumps(fields)
    return f"{zlib.crc32(body.encode()):08x} {body}\n".encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


ALL = tuple(Event)


def test_what_is_appended_is_read_in_its_order(path: Path) -> None:
    write(path, *ALL, text='ä "quoted"\n\r\x85\u2028')
    records = read_journal(path)
    assert [record.event for record in records] == list(ALL)
    assert [record.data["number"] for record in records] == list(range(len(ALL)))
    assert {record.data["text"] for record in records} == {'ä "quoted"\n\r\x85\u2028'}
    assert all(record.at for record in records)


def test_a_lone_surrogate_can_be_journalled(path: Path) -> None:
    write(path, Event.ACQUIRED, text="\ud800")
    assert read_journal(path)[0].data["text"] == "\ud800"


def test_a_journal_is_readable_by_its_owner_only(path: Path) -> None:
    write(path, Event.ACQUIRED)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_goes_on_where_it_was_left(path: Path) -> None:
    write(path, Event.ACQUIRED)
    write(path, Event.FINAL_PREPARED)
    assert [record.event for record in read_journal(path)] == [Event.ACQUIRED, Event.FINAL_PREPARED]


def test_every_prefix_of_a_journal_is_readable(path: Path) -> None:
    data = write(path, *ALL[:5])
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = sum(end <= length for end in ends)
        assert [record.event for record in read_journal(path)] == list(ALL[:whole])


def test_a_torn_line_is_cut_off_when_the_journal_is_opened_again(path: Path) -> None:
    data = write(path, *ALL[:3])
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        whole = data[:length].count(b"\n")
        write(path, Event.FINAL_ACKED)
        assert [record.event for record in read_journal(path)] == [*ALL[:whole], Event.FINAL_ACKED]


def test_a_flipped_bit_ends_the_reading_there(path: Path) -> None:
    good = write(path, *ALL[:3])
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        whole = good[:at].count(b"\n")
        assert [record.event for record in read_journal(path)] == list(ALL[:whole])


def test_events_of_later_versions_are_skipped(path: Path) -> None:
    good = write(path, Event.ACQUIRED)
    later = line_of({"event": "teleported", "at": "2030-01-01T00:00:00+00:00", "to": "Mars"})
    odd = line_of({"at": "x"}) + line_of([1]) + line_of("text") + line_of({"event": ["acquired"], "at": "x"})
    path.write_bytes(good + later + odd + good)
    assert [record.event for record in read_journal(path)] == [Event.ACQUIRED, Event.ACQUIRED]
    write(path, Event.FINAL_ACKED)
    assert path.read_bytes().startswith(good + later + odd + good)


@pytest.mark.parametrize("garbage", [b"", b"\n", b"\r\n\r\n", b"\0" * 100, b"00000000 {}\n", b"not a journal at all"])
def test_garbage_is_an_empty_journal(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    assert read_journal(path) == []


def test_a_link_in_the_journals_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        Journal(path)
    assert (tmp_path / "victim").read_text() == "precious"


FULL_DISK = """
import resource, sys
from pathlib import Path
from pilot.runtime.journal import Event, Journal, read_journal

path = Path(sys.argv[1])
journal = Journal(path)
journal.append(Event.ACQUIRED, text="x" * 100)
size_bytes = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 150, size_bytes + 150))
for _ in range(2):
    try:
        journal.append(Event.FINAL_PREPARED, text="y" * 4000)
    except OSError as error:
        print(error.strerror)
    assert path.stat().st_size == size_bytes
journal.append(Event.FINAL_ACKED)
journal.close()
print([record.event.name for record in read_journal(path)])
"""


def test_a_full_disk_leaves_whole_records_and_the_next_that_fits_is_written(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["File too large", "File too large", "['ACQUIRED', 'FINAL_ACKED']"]


NO_FSYNC = """
import errno, os, sys
from pathlib import Path
from pilot.runtime.journal import Event, Journal, read_journal

def fails(descriptor):
    raise OSError(errno.EIO, "no such luck")

journal = Journal(Path(sys.argv[1]))
os.fsync = fails
try:
    journal.append(Event.FINAL_PREPARED, body={})
except OSError as error:
    print(error.strerror)
print([record.event.name for record in read_journal(journal.path)])
"""


def test_nothing_is_written_behind_half_a_record_that_could_not_be_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_write = os.write
    pieces = iter((lambda fd, line: really_write(fd, line[:20]), broken))
    journal = Journal(path)
    journal.append(Event.ACQUIRED, attempt=[1, 0])
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", lambda fd, line: next(pieces)(fd, line))
        disk.setattr(os, "ftruncate", broken)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                journal.append(Event.STARTING_ACCEPTED)
    journal.append(Event.PAYLOAD_STARTING)
    journal.close()
    assert [record.event for record in read_journal(path)] == [Event.ACQUIRED, Event.PAYLOAD_STARTING]


def broken(*_of_any: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


def test_a_record_that_cannot_be_made_durable_can_still_be_read(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NO_FSYNC, str(path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["no such luck", "['FINAL_PREPARED']"]


def test_closing_twice_is_harmless(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    journal.close()
