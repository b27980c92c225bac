"""Uploads by the engine: files that change under it, parts, streams, and what is taken up again where it was cut."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from pilot.job.model import Checksum
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.storage.local import LocalStore
from pilot.storage.store import (
    BadUrl,
    Changed,
    ChecksumMismatch,
    LocalFileError,
    LocalFileMissing,
    ObjectHeaders,
    Source,
    StoredObject,
    Stores,
    Truncated,
    Unavailable,
)
from pilot.storage.transfer import open_regular
from pilot.storage.upload import FILE_PART_BYTES, STREAM_PART_BYTES, StreamUpload, send
from tests.unit.storage.scripted import Scripted

QUICK = RetryPolicy("quick", tries=3, first_s=0.001, cap_s=0.001, total_s=5)
CONTENT = os.urandom(600_000)
URL = "gs://b/o"
PLAIN = ObjectHeaders()


def adler32(content: bytes) -> str:
    return f"{zlib.adler32(content):08x}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(CONTENT)
    return tmp_path / "source"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "file"
    path.write_bytes(os.urandom(1 << 20) * (2 * FILE_PART_BYTES >> 20) + b"and a rest")
    return path


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_goes_in_one_request_and_its_sums_are_told(source: Path) -> None:
    store = Scripted()
    stored = send(store.stores, source, URL, Stop())
    assert store.objects == {URL: CONTENT}
    assert (stored.url, stored.size_bytes, stored.adler32) == (URL, len(CONTENT), adler32(CONTENT))


def test_a_log_that_grows_while_it_is_sent_is_stored_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(CONTENT)
    with log.open("rb") as file, log.open("ab") as more:

        def grow(_offset: int) -> None:
            more.write(b"more")
            more.flush()

        stored = send(Scripted(on_put=grow).stores, file, URL, Stop())
        assert (stored.size_bytes, stored.adler32) == (len(CONTENT), adler32(CONTENT))
        assert not file.closed


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(source: Path) -> None:
    store = Scripted(on_put=lambda offset: os.truncate(source, 10))

    class Slowly(Scripted):
        def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
            store.on_put(0)
            while source.read(200_000):
                pass
            return StoredObject()

    with pytest.raises(LocalFileError, match="shrank"):
        send(Slowly().stores, source, URL, Stop())


def test_a_store_that_did_not_read_everything_is_not_believed(source: Path) -> None:
    with pytest.raises(Truncated, match="only 10 of"):
        send(Scripted(reads_bytes=10, stored=StoredObject()).stores, source, URL, Stop(), policy=QUICK)


def test_a_store_that_keeps_less_than_it_was_sent_is_not_believed(source: Path) -> None:
    with pytest.raises(Truncated, match="holds 5 bytes"):
        send(Scripted(stored=StoredObject(5)).stores, source, URL, Stop(), policy=QUICK)


def test_bytes_that_arrive_changed_are_sent_again(source: Path) -> None:
    answers = [StoredObject(len(CONTENT), (Checksum("crc32c", "00000000"),)), None]

    class Forgetful(Scripted):
        def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
            self.stored = answers.pop(0)
            return super().write(url, source, headers, stop)

    store = Forgetful()
    send(store.stores, source, URL, Stop(), policy=QUICK)
    assert answers == [] and store.objects == {URL: CONTENT}


def test_what_is_sent_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(LocalFileError):
            open_regular(tmp_path / name)
    with pytest.raises(LocalFileMissing):
        open_regular(tmp_path / "absent")


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/x", "file://host/x", "file://", "{disk}", "{disk}/../x"])
def test_local_files_outside_the_roots_are_refused(source: Path, tmp_path: Path, url: str) -> None:
    (tmp_path / "disk").mkdir()
    stores = Stores({"file": lambda: LocalStore((tmp_path / "disk",))})
    with pytest.raises(BadUrl):
        send(stores, source, url.format(disk=tmp_path / "disk"), Stop())


# --- large files ------------------------------------------------------------------------------------------------------


def test_a_large_file_goes_in_parts(large: Path) -> None:
    store = Scripted()
    stored = send(store.stores, large, URL, Stop())
    assert store.kept[URL].offsets == [0, FILE_PART_BYTES, 2 * FILE_PART_BYTES]
    assert store.objects[URL] == large.read_bytes()
    assert stored.adler32 == adler32(large.read_bytes())


def test_the_md5_of_a_large_file_is_not_computed_beside_those_of_its_parts(large: Path, source: Path) -> None:
    wrong = Checksum("md5", "0" * 32)
    store = Scripted(upload_checksum="md5", stored=StoredObject(None, (wrong,)))
    send(store.stores, large, URL, Stop())  # what such a store says of the whole is never an md5, and not compared
    assert store.objects[URL] == large.read_bytes()
    with pytest.raises(ChecksumMismatch):
        send(store.stores, source, URL, Stop(), policy=QUICK)


def test_a_part_that_fails_is_sent_again_and_no_other(large: Path) -> None:
    store, failures = Scripted(), [Unavailable("cut"), Unavailable("cut")]

    def fail(offset: int) -> None:
        if offset == FILE_PART_BYTES and failures:
            raise failures.pop()

    store.on_put = fail
    send(store.stores, large, URL, Stop(), policy=QUICK)
    assert store.kept[URL].offsets == [0, FILE_PART_BYTES, 2 * FILE_PART_BYTES]
    assert store.objects[URL] == large.read_bytes()


def test_what_a_store_kept_of_a_part_is_not_sent_again(large: Path) -> None:
    store, kept_bytes = Scripted(), 123_456

    def cut(offset: int) -> None:
        if offset == 0:
            store.kept[URL].content = large.read_bytes()[:kept_bytes]
            raise Unavailable("cut")

    store.on_put = cut
    stored = send(store.stores, large, URL, Stop(), policy=QUICK)
    assert store.kept[URL].offsets[0] == kept_bytes
    assert store.objects[URL] == large.read_bytes()
    assert stored.adler32 == adler32(large.read_bytes())


def test_a_store_that_forgot_the_upload_gets_it_anew(large: Path) -> None:
    store, failures = Scripted(), [Unavailable("cut")]

    def forget(offset: int) -> None:
        if offset == FILE_PART_BYTES and failures:
            store.kept[URL].content = b""
            raise failures.pop()

    store.on_put = forget
    send(store.stores, large, URL, Stop(), policy=QUICK)
    assert store.objects[URL] == large.read_bytes()


def test_parts_that_cannot_be_sent_are_not_left_lying(large: Path) -> None:
    def fail(offset: int) -> None:
        raise Unavailable("down")

    store = Scripted(on_put=fail)
    with pytest.raises(Unavailable, match="down"):
        send(store.stores, large, URL, Stop(), policy=QUICK)
    assert store.kept[URL].abandoned
    assert store.objects == {}


# --- streams ----------------------------------------------------------------------------------------------------------


def written(store: Scripted, pieces: list[bytes]) -> StreamUpload:
    upload = StreamUpload(store.stores, URL, Stop(), PLAIN, QUICK)
    for piece in pieces:
        upload.write(piece)
    return upload


@pytest.mark.parametrize("pieces", [[], [b"a few"], [b"x" * 1000] * 99, [CONTENT] * 3])
def test_a_short_stream_goes_in_one_request(pieces: list[bytes]) -> None:
    store, whole = Scripted(), b"".join(pieces)
    stored = written(store, pieces).finish()
    assert store.objects == {URL: whole} and store.kept == {}
    assert (stored.size_bytes, stored.adler32) == (len(whole), adler32(whole))


@pytest.mark.parametrize("size_bytes", [STREAM_PART_BYTES, STREAM_PART_BYTES + 1, 3 * STREAM_PART_BYTES])
def test_a_long_stream_goes_in_parts_and_its_end_is_told(size_bytes: int) -> None:
    store, whole = Scripted(), (os.urandom(65536) * (size_bytes // 65536 + 1))[:size_bytes]
    upload = written(store, [whole[first : first + 100_000] for first in range(0, size_bytes, 100_000)])
    assert upload.size_bytes == size_bytes
    assert upload.finish().adler32 == adler32(whole)
    assert store.objects == {URL: whole}


def test_nobody_sees_a_stream_before_its_end() -> None:
    store = Scripted()
    upload = written(store, [b"x" * STREAM_PART_BYTES] * 3)
    assert store.objects == {}
    upload.abandon()
    assert store.kept[URL].abandoned and store.objects == {}


def test_a_part_of_a_stream_is_sent_again_from_memory() -> None:
    store, failures = Scripted(), [Unavailable("cut"), Unavailable("cut")]

    def fail(offset: int) -> None:
        if offset and failures:
            raise failures.pop()

    store.on_put = fail
    whole = os.urandom(65536) * 300
    assert written(store, [whole]).finish().adler32 == adler32(whole)
    assert store.objects == {URL: whole}


def test_a_stream_whose_beginning_the_store_forgot_cannot_go_on() -> None:
    store = Scripted()

    def forget(offset: int) -> None:
        if offset:
            store.kept[URL].content = b""
            raise Unavailable("cut")

    store.on_put = forget
    with pytest.raises(Changed):
        written(store, [b"x" * STREAM_PART_BYTES] * 4).finish()


def test_a_stream_that_arrives_changed_is_told() -> None:
    store = Scripted(stored=StoredObject(5, (Checksum("crc32c", "00000000"),)))
    with pytest.raises(ChecksumMismatch):
        written(store, [b"hello"]).finish()


def test_a_stop_ends_a_stream_at_its_next_piece() -> None:
    stop = Stop()
    upload = StreamUpload(Scripted().stores, URL, stop, PLAIN)
    upload.write(b"a piece")
    stop.request(StopReason(StopKind.SIGTERM))
    with pytest.raises(Stopped):
        upload.write(b"another")
    with pytest.raises(Stopped):
        upload.finish()
