"""The image cache: complete or absent, fetched once, by the store's word or by a published sum. No container is started."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilot.job.errors import PayloadError
from pilot.job.model import Checksum
from pilot.payload.image import SIF_MAGIC, Image, ImageCache, require_sif, squashfs_offset
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.storage.store import Span, StoredObject, Stores
from tests.unit.storage.scripted import Coming, Scripted

URL = "gs://bucket/lsst.sif"
SIF = b"#!/usr/bin/env run-singularity\n\0" + SIF_MAGIC + b"01\0" + b"\0" * 200


class ShelfStore(Scripted):
    """A store that describes its objects by their md5; ``downloaded``: what was asked for, in order."""

    def __init__(self) -> None:
        super().__init__(announces=_by_md5)
        self.downloaded: list[str] = []

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[Coming]:
        with super().read(url, span, stop, version) as coming:
            self.downloaded.append(url)
            yield coming


def _by_md5(body: bytes) -> StoredObject:
    return StoredObject(len(body), (Checksum("md5", hashlib.md5(body).hexdigest()),))


@pytest.fixture
def shelf() -> ShelfStore:
    return ShelfStore()


@pytest.fixture
def cache(shelf: ShelfStore, tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "images", Stores({"gs": lambda: shelf}))


def get(cache: ImageCache, name: str = URL, checksum: Checksum | None = None) -> Path:
    image = cache.get(name, Stop(), checksum)
    image.release()
    return image.path


def code_of(call: Callable[[], object]) -> int:
    with pytest.raises(PayloadError) as caught:
        call()
    return caught.value.diagnosis.code


def test_a_remote_image_is_fetched_once(cache: ImageCache, shelf: ShelfStore) -> None:
    shelf.objects[URL] = SIF
    first, second = get(cache), get(cache)
    assert first == second
    assert first.read_bytes() == SIF
    assert shelf.downloaded == [URL]


def test_a_later_pilot_of_the_node_finds_it(cache: ImageCache, shelf: ShelfStore, tmp_path: Path) -> None:
    shelf.objects[URL] = SIF
    get(cache)
    get(ImageCache(tmp_path / "images", Stores({"gs": lambda: shelf})))
    assert shelf.downloaded == [URL]


def test_an_image_that_changed_in_its_store_is_fetched_by_the_next_pilot(
    cache: ImageCache, shelf: ShelfStore, tmp_path: Path
) -> None:
    shelf.objects[URL] = SIF
    before = get(cache)
    shelf.objects[URL] = SIF + b"new"
    assert get(cache) == before
    assert get(ImageCache(tmp_path / "images", Stores({"gs": lambda: shelf}))).read_bytes() == SIF + b"new"


def test_a_published_sum_is_verified(cache: ImageCache, shelf: ShelfStore) -> None:
    shelf.objects[URL] = SIF
    shelf.objects[URL + ".sha256"] = f"{hashlib.sha256(SIF).hexdigest().upper()}  lsst.sif\n".encode()
    assert get(cache).read_bytes() == SIF


@pytest.mark.parametrize("published", [b"0" * 64, b"not a sum", b""])
def test_a_sum_that_does_not_agree_or_is_none_is_refused(
    cache: ImageCache, shelf: ShelfStore, tmp_path: Path, published: bytes
) -> None:
    shelf.objects[URL] = SIF
    shelf.objects[URL + ".sha256"] = published
    stop = Stop()
    # the engine tries a mismatch again, for the next try may bring the right bytes; the test need not wait for that
    timer = threading.Timer(0.3, stop.request, (StopReason(StopKind.INTERNAL),))
    timer.start()
    try:
        with pytest.raises((PayloadError, Stopped)) as caught:
            cache.get(URL, stop)
    finally:
        timer.cancel()
        timer.join()
    if isinstance(caught.value, PayloadError):
        assert caught.value.diagnosis.code == 1309
    assert not list((tmp_path / "images").glob("*.sif"))
    assert not list((tmp_path / "images").glob("*.part*"))


def test_a_missing_image_is_told_as_one(cache: ImageCache) -> None:
    assert code_of(lambda: get(cache)) == 1360


def test_what_is_no_sif_does_not_enter_the_cache(cache: ImageCache, shelf: ShelfStore, tmp_path: Path) -> None:
    shelf.objects[URL] = b"<html>please sign in</html>"
    assert code_of(lambda: get(cache)) == 1309
    assert not list((tmp_path / "images").glob("*.sif"))


@pytest.mark.parametrize("name", ["docker://x/y", "oras://x/y", "library://x"])
def test_registries_are_refused_with_advice(cache: ImageCache, name: str) -> None:
    with pytest.raises(PayloadError, match="apptainer build"):
        get(cache, name)


def test_a_local_path_is_used_as_it_is(cache: ImageCache, tmp_path: Path) -> None:
    sif = tmp_path / "my.sif"
    sif.write_bytes(SIF)
    assert cache.get(str(sif), Stop()) == Image(sif, is_folder=False)
    assert cache.get(f"file://{tmp_path}", Stop()) == Image(tmp_path, is_folder=True)
    assert code_of(lambda: get(cache, str(tmp_path / "none.sif"))) == 1360


def test_an_image_in_use_is_locked_against_removal(cache: ImageCache, shelf: ShelfStore) -> None:
    shelf.objects[URL] = SIF
    image = cache.get(URL, Stop())
    lock = os.open(f"{image.path}.lock", os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        image.release()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)


def test_two_pilots_of_a_node_use_an_image_at_the_same_time(cache: ImageCache, shelf: ShelfStore) -> None:
    shelf.objects[URL] = SIF
    first = cache.get(URL, Stop())
    second = cache.get(URL, Stop())
    assert first.path == second.path
    first.release()
    second.release()


def test_waiting_for_another_pilots_fetch_ends_with_the_scope(
    cache: ImageCache, shelf: ShelfStore, tmp_path: Path
) -> None:
    shelf.objects[URL] = SIF
    path = get(cache)
    lock = os.open(f"{path}.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    stop = Stop()
    timer = threading.Timer(0.2, stop.request, (StopReason(StopKind.SIGTERM),))
    timer.start()
    try:
        with pytest.raises(Stopped):
            cache.get(URL, stop)
    finally:
        timer.join()
        os.close(lock)


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"\0" * 500])
def test_what_is_no_sif_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sif"
    path.write_bytes(content)
    assert code_of(lambda: require_sif(path)) == 1309


def test_a_sif_without_a_file_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sif"
    for content in (SIF, SIF[:80], b""):
        path.write_bytes(content)
        assert code_of(lambda: squashfs_offset(path)) == 1309
