"""The engine, between folders: names, disks, sizes, files that change under it."""

from __future__ import annotations

import os
import threading
import zlib
from pathlib import Path

import pytest

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.local import LocalStore
from pilot.storage.store import (
    BadUrl,
    LocalFileError,
    LocalFileMissing,
    NoSpace,
    NotFound,
    ObjectHeaders,
    Sink,
    SizeMismatch,
    Source,
    StoredObject,
    Stores,
    TimedOut,
    TooLarge,
    Truncated,
)
from pilot.storage.transfer import Slowest, fetch, open_regular, require_free_disk, send

QUICK = RetryPolicy("quick", tries=3, first_s=0.001, cap_s=0.001, total_s=5)
CONTENT = os.urandom(600_000)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_bytes(CONTENT)
    return tmp_path / "disk"


@pytest.fixture
def stores(disk: Path) -> Stores:
    return Stores({"file": lambda: LocalStore((disk,))})


class Scripted:
    """A store made of two functions, for what no real store does on demand."""

    upload_checksum: ChecksumAlgorithm = "adler32"

    def __init__(self, blocks: list[bytes] | None = None, stored: StoredObject | None = None, read: int = -1) -> None:
        self.blocks, self.stored, self.read = blocks or [], stored, read

    def download(self, url: str, sink: Sink) -> None:
        for block in self.blocks:
            sink.write(block)

    def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject:
        source.read(self.read)
        return self.stored or StoredObject()

    def stat(self, url: str) -> StoredObject:
        return StoredObject()

    def close(self) -> None:
        return None


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


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "file://host/etc/passwd", "file://", "{disk}"])
def test_local_files_outside_the_roots_are_refused(stores: Stores, disk: Path, tmp_path: Path, url: str) -> None:
    for form in (url, f"{disk}/../secret", f"{disk}/link/secret"):
        (disk / "link").unlink(missing_ok=True)
        (disk / "link").symlink_to(tmp_path)
        (tmp_path / "secret").write_text("secret")
        with pytest.raises(BadUrl):
            fetch(stores, form.format(disk=disk), tmp_path / "target", Stop())
        with pytest.raises(BadUrl):
            send(stores, tmp_path / "secret", form.format(disk=disk), Stop())


def test_a_local_pipe_or_folder_is_no_file(stores: Stores, disk: Path, tmp_path: Path) -> None:
    os.mkfifo(disk / "pipe")
    (disk / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(LocalFileError):
            fetch(stores, f"{disk}/{name}", tmp_path / "target", Stop())
    with pytest.raises(NotFound):
        fetch(stores, f"{disk}/absent", tmp_path / "target", Stop())


def test_a_known_size_over_the_limit_is_refused_unseen(stores: Stores, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        fetch(stores, f"{disk}/absent", tmp_path / "target", Stop(), size_bytes=11, max_bytes=10)


def test_an_endless_download_is_cut_at_the_limit(tmp_path: Path) -> None:
    stores = Stores({"gs": lambda: Scripted([b"x" * 1000] * 1000)})
    with pytest.raises(TooLarge):
        fetch(stores, "gs://b/o", tmp_path / "target", Stop(), max_bytes=5000, policy=QUICK)
    with pytest.raises(SizeMismatch):
        fetch(stores, "gs://b/o", tmp_path / "target", Stop(), size_bytes=5000, policy=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_object_is_an_empty_file(tmp_path: Path) -> None:
    stores = Stores({"gs": lambda: Scripted()})
    fetch(stores, "gs://b/o", tmp_path / "target", Stop(), checksum=Checksum("adler32", "00000001"), size_bytes=0)
    assert (tmp_path / "target").read_bytes() == b""


def test_a_log_that_grows_while_it_is_sent_is_stored_as_it_was(stores: Stores, disk: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(CONTENT)
    with log.open("rb") as file, log.open("ab") as more:
        size_bytes = os.fstat(file.fileno()).st_size

        class Growing(Scripted):
            def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject:
                more.write(b"more")
                more.flush()
                assert source.read() == CONTENT
                assert source.read() == b""
                return StoredObject(size_bytes)

        stored = send(Stores({"gs": Growing}), file, "gs://b/o", Stop())
        assert stored.size_bytes == len(CONTENT)
        assert stored.adler32 == f"{zlib.adler32(CONTENT):08x}"
        assert not file.closed


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)

    class Shrinking(Scripted):
        def upload(self, source: Source, url: str, headers: ObjectHeaders) -> StoredObject:
            os.truncate(tmp_path / "source", 10)
            while source.read(200_000):
                pass
            return StoredObject()

    with pytest.raises(LocalFileError, match="shrank"):
        send(Stores({"gs": Shrinking}), source, "gs://b/o", Stop())


def test_a_store_that_did_not_read_everything_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    with pytest.raises(Truncated, match="only 10 of"):
        send(Stores({"gs": lambda: Scripted(read=10)}), tmp_path / "source", "gs://b/o", Stop(), policy=QUICK)


def test_what_is_sent_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(LocalFileError):
            open_regular(tmp_path / name)
    with pytest.raises(LocalFileMissing):
        open_regular(tmp_path / "absent")


def test_a_transfer_below_the_slowest_pace_is_given_up(tmp_path: Path) -> None:
    waited = threading.Event()

    class Dripping(Scripted):
        def download(self, url: str, sink: Sink) -> None:
            for _drop in range(100):
                sink.write(b"x")
                waited.wait(0.01)

    once = RetryPolicy("once", tries=1, first_s=0.001, cap_s=0.001, total_s=5)
    with pytest.raises(TimedOut, match="moved only"):
        fetch(Stores({"gs": Dripping}), "gs://b/o", tmp_path / "t", Stop(), policy=once, slowest=Slowest(1024, 0.05))


def test_a_store_is_made_once_and_closed(tmp_path: Path) -> None:
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
