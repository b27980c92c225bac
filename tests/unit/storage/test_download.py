"""Downloads by the engine: names, disks, sizes, several streams, and what is taken up again where it was cut."""

from __future__ import annotations

import os
import threading
import zlib
from pathlib import Path

import pytest

from pilot.job.model import Checksum
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.download import LARGE_BYTES, SPAN_BYTES, fetch
from pilot.storage.local import LocalStore
from pilot.storage.store import (
    BadUrl,
    Changed,
    ChecksumMismatch,
    LocalFileError,
    NoSpace,
    NotFound,
    SizeMismatch,
    Span,
    StoredObject,
    Stores,
    TimedOut,
    TooLarge,
    TooSlow,
    Truncated,
    Unavailable,
)
from pilot.storage.transfer import Slowest, require_free_disk
from tests.unit.storage.scripted import Scripted

QUICK = RetryPolicy("quick", tries=3, first_s=0.001, cap_s=0.001, total_s=5)
ONCE = RetryPolicy("once", tries=1, first_s=0.001, cap_s=0.001, total_s=5)
CONTENT = os.urandom(600_000)
LARGE = os.urandom(1 << 20) * (LARGE_BYTES >> 20) + b"and a rest"
URL = "gs://b/o"


def adler32(content: bytes) -> Checksum:
    return Checksum("adler32", f"{zlib.adler32(content):08x}")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_bytes(CONTENT)
    return tmp_path / "disk"


@pytest.fixture
def stores(disk: Path) -> Stores:
    return Stores({"file": lambda: LocalStore((disk,))})


# --- names and disks --------------------------------------------------------------------------------------------------


def test_a_target_with_the_longest_name_is_no_trouble(stores: Stores, disk: Path, tmp_path: Path) -> None:
    fetched = fetch(stores, f"{disk}/file", tmp_path / ("n" * 255), Stop())
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.adler32 == f"{zlib.adler32(CONTENT):08x}"


def test_an_existing_target_is_replaced_even_when_it_is_a_link(stores: Stores, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "target").symlink_to(tmp_path / "precious")
    fetch(stores, f"file://{disk}/file", tmp_path / "target", Stop())
    assert (tmp_path / "precious").read_text() == "keep"
    assert not (tmp_path / "target").is_symlink()


def test_a_folder_that_is_not_there_is_a_sentence(stores: Stores, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalFileError, match="No such file or directory"):
        fetch(stores, f"{disk}/file", tmp_path / "absent" / "target", Stop())


def test_a_disk_that_is_too_small_is_told_before_anything_is_moved(stores: Stores, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="MiB are needed"):
        fetch(stores, f"{disk}/absent", tmp_path / "target", Stop(), size_bytes=1 << 60)
    require_free_disk(tmp_path, 0)


def test_a_disk_that_is_too_small_for_what_the_store_announces_is_told(tmp_path: Path) -> None:
    store = Scripted({URL: b"x"}, announces=lambda content: StoredObject(1 << 60))
    with pytest.raises(NoSpace, match="MiB are needed"):
        fetch(store.stores, URL, tmp_path / "target", Stop())


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "file://host/etc/passwd", "file://", "{disk}"])
def test_local_files_outside_the_roots_are_refused(stores: Stores, disk: Path, tmp_path: Path, url: str) -> None:
    for form in (url, f"{disk}/../secret", f"{disk}/link/secret"):
        (disk / "link").unlink(missing_ok=True)
        (disk / "link").symlink_to(tmp_path)
        (tmp_path / "secret").write_text("secret")
        with pytest.raises(BadUrl):
            fetch(stores, form.format(disk=disk), tmp_path / "target", Stop())


def test_a_local_pipe_or_folder_is_no_file(stores: Stores, disk: Path, tmp_path: Path) -> None:
    os.mkfifo(disk / "pipe")
    (disk / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(LocalFileError):
            fetch(stores, f"{disk}/{name}", tmp_path / "target", Stop())
    with pytest.raises(NotFound):
        fetch(stores, f"{disk}/absent", tmp_path / "target", Stop())


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_a_known_size_over_the_limit_is_refused_unseen(stores: Stores, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        fetch(stores, f"{disk}/absent", tmp_path / "target", Stop(), size_bytes=11, max_bytes=10)


def test_an_endless_download_is_cut_at_the_limit(tmp_path: Path) -> None:
    store = Scripted({URL: CONTENT}, announces=lambda content: StoredObject())
    with pytest.raises(TooLarge):
        fetch(store.stores, URL, tmp_path / "target", Stop(), max_bytes=5000, policy=QUICK)
    with pytest.raises(SizeMismatch):
        fetch(store.stores, URL, tmp_path / "target", Stop(), size_bytes=5000, policy=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_object_is_an_empty_file(tmp_path: Path) -> None:
    store = Scripted({URL: b""})
    fetch(store.stores, URL, tmp_path / "target", Stop(), checksum=Checksum("adler32", "00000001"), size_bytes=0)
    assert (tmp_path / "target").read_bytes() == b""


def test_a_store_that_announces_nothing_is_read_to_its_end(tmp_path: Path) -> None:
    store = Scripted({URL: CONTENT}, announces=lambda content: StoredObject())
    fetch(store.stores, URL, tmp_path / "target", Stop(), checksum=adler32(CONTENT))
    assert (tmp_path / "target").read_bytes() == CONTENT


# --- several streams --------------------------------------------------------------------------------------------------


def test_a_large_file_comes_in_spans_and_is_verified_whole(tmp_path: Path) -> None:
    store = Scripted({URL: LARGE})
    fetched = fetch(
        store.stores, URL, tmp_path / "target", Stop(), size_bytes=len(LARGE), checksum=adler32(LARGE), policy=QUICK
    )
    assert fetched.adler32 == adler32(LARGE).hexdigest
    assert fetched.path.read_bytes() == LARGE
    expected = [Span(first, min(first + SPAN_BYTES, len(LARGE))) for first in range(0, len(LARGE), SPAN_BYTES)]
    assert sorted(store.asked, key=lambda span: span.first) == expected


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_sum_that_cannot_be_put_together_takes_one_stream(tmp_path: Path, algorithm: str) -> None:
    import hashlib

    store = Scripted({URL: LARGE})
    checksum = Checksum(algorithm, hashlib.new(algorithm, LARGE).hexdigest())  # type: ignore[arg-type]
    fetch(store.stores, URL, tmp_path / "target", Stop(), size_bytes=len(LARGE), checksum=checksum)
    assert store.asked == [Span()]


def test_a_flipped_bit_in_one_of_the_spans_is_found(tmp_path: Path) -> None:
    wrong = bytearray(LARGE)
    wrong[SPAN_BYTES + 5] ^= 1
    store = Scripted({URL: bytes(wrong)})
    with pytest.raises(ChecksumMismatch):
        fetch(store.stores, URL, tmp_path / "t", Stop(), size_bytes=len(LARGE), checksum=adler32(LARGE), policy=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_one_span_that_fails_for_good_ends_the_others(tmp_path: Path) -> None:
    def fail(span: Span) -> Span:
        if span.first == SPAN_BYTES:
            raise Unavailable("this part is not to be had")
        return span

    store = Scripted({URL: LARGE}, on_read=fail)
    with pytest.raises(Unavailable, match="not to be had"):
        fetch(store.stores, URL, tmp_path / "t", Stop(), size_bytes=len(LARGE), checksum=adler32(LARGE), policy=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_while_other_files_are_moved_a_large_one_has_one_stream(tmp_path: Path) -> None:
    store = Scripted({URL: LARGE})
    stores = store.stores
    threads: set[str] = set()

    def note(piece: bytes) -> bytes:
        threads.add(threading.current_thread().name)
        return piece

    store.piece = note
    for _ in range(stores.lanes.width):
        assert stores.lanes.take_one_more()
    fetch(stores, URL, tmp_path / "t", Stop(), size_bytes=len(LARGE), checksum=adler32(LARGE))
    assert threads == {"MainThread"}
    assert not stores.lanes.take_one_more()


# --- taken up again ---------------------------------------------------------------------------------------------------


class Cutting:
    """Lets so many bytes through, then ends the stream, each time."""

    def __init__(self, after_bytes: int, times: int) -> None:
        self._after_bytes, self._times, self._passed_bytes = after_bytes, times, 0

    def __call__(self, piece: bytes) -> bytes:
        if self._times and self._passed_bytes + len(piece) > self._after_bytes:
            self._times, self._passed_bytes = self._times - 1, 0
            return b""
        self._passed_bytes += len(piece)
        return piece


def test_a_stream_that_is_cut_is_gone_on_with_where_it_was_cut(tmp_path: Path) -> None:
    store = Scripted({URL: CONTENT}, piece=Cutting(300_000, times=1))
    fetch(store.stores, URL, tmp_path / "target", Stop(), checksum=adler32(CONTENT), policy=QUICK)
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert store.asked[0] == Span()
    assert store.asked[1].first > 0 and len(store.asked) == 2


def test_more_cuts_than_tries_are_no_trouble_while_it_gets_further(tmp_path: Path) -> None:
    store = Scripted({URL: LARGE}, piece=Cutting(5_000_000, times=8))
    fetch(store.stores, URL, tmp_path / "target", Stop(), policy=QUICK)
    assert (tmp_path / "target").read_bytes() == LARGE
    assert len(store.asked) == 9 > QUICK.tries


def test_cuts_at_the_same_place_are_given_up(tmp_path: Path) -> None:
    store = Scripted({URL: CONTENT}, piece=Cutting(0, times=-1))
    with pytest.raises(Truncated):
        fetch(store.stores, URL, tmp_path / "target", Stop(), policy=QUICK)
    assert len(store.asked) == QUICK.tries


def test_a_store_without_parts_sends_all_of_it_again(tmp_path: Path) -> None:
    store = Scripted({URL: CONTENT}, piece=Cutting(300_000, times=1), on_read=lambda span: Span())
    fetch(store.stores, URL, tmp_path / "target", Stop(), checksum=adler32(CONTENT), policy=QUICK)
    assert (tmp_path / "target").read_bytes() == CONTENT


def test_an_object_that_is_replaced_on_the_way_is_begun_anew(tmp_path: Path) -> None:
    other = os.urandom(len(CONTENT))
    store = Scripted({URL: CONTENT}, piece=Cutting(300_000, times=1))
    store.announces = lambda content: StoredObject(len(content), (), adler32(content).hexdigest)

    def replace(span: Span) -> Span:
        if span.first:
            store.objects[URL] = other
        return span

    store.on_read = replace
    fetch(store.stores, URL, tmp_path / "target", Stop(), checksum=adler32(other), policy=QUICK)
    assert (tmp_path / "target").read_bytes() == other
    assert store.asked[0] == store.asked[2] == Span()


def test_an_object_that_changes_each_time_is_given_up(tmp_path: Path) -> None:
    versions = iter(range(1000))
    store = Scripted({URL: CONTENT}, piece=Cutting(300_000, times=-1))
    store.announces = lambda content: StoredObject(len(content), (), str(next(versions)))
    with pytest.raises(Changed):
        fetch(store.stores, URL, tmp_path / "target", Stop(), policy=QUICK)


# --- pace and time ----------------------------------------------------------------------------------------------------


def test_a_transfer_below_the_slowest_pace_is_given_up(tmp_path: Path) -> None:
    waited = threading.Event()

    def drip(piece: bytes) -> bytes:
        waited.wait(0.01)
        return piece[:1]

    store = Scripted({URL: CONTENT}, piece=drip)
    with pytest.raises(TimedOut, match="moved only"):
        fetch(store.stores, URL, tmp_path / "t", Stop(), policy=ONCE, slowest=Slowest(1024, 0.05))


def test_a_file_has_a_time_that_no_progress_makes_longer(tmp_path: Path) -> None:
    waited = threading.Event()

    def amble(piece: bytes) -> bytes:
        waited.wait(0.01)
        return piece[:2000]

    store = Scripted({URL: CONTENT}, piece=amble)
    short = RetryPolicy("short", tries=3, first_s=0.001, cap_s=0.001, total_s=0.1)
    with pytest.raises(TooSlow, match="in the time a file of its size may take"):
        fetch(store.stores, URL, tmp_path / "t", Stop(), policy=short, slowest=Slowest(1, 60))
    assert list(tmp_path.iterdir()) == []


# --- the stores -------------------------------------------------------------------------------------------------------


def test_a_store_is_made_once_and_closed() -> None:
    made: list[Scripted] = []

    def make() -> Scripted:
        made.append(Scripted())
        return made[-1]

    stores = Stores({"gs": make})
    assert stores.for_url("gs://a/b") is stores.for_url("GS://c/d")
    assert stores.schemes == ("gs",)
    stores.close()
    assert len(made) == 1
    with pytest.raises(BadUrl, match="known schemes are gs"):
        stores.for_url("s3://a/b")
