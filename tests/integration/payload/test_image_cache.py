"""The node's image cache under real pilots' conditions: many at once, killed at any instant, too small, and with signatures."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pilot.job.errors import PayloadError
from pilot.payload.image import ImageCache, make_room
from pilot.runtime.stop import Stop
from pilot.storage.store import Span, Stores
from tests.unit.storage.scripted import Coming, Scripted

URL = "gs://bucket/busybox.sif"
PILOTS = 20


class FileStore(Scripted):
    """A store at the port whose one object is a file; each download leaves a line in a book that processes share."""

    def __init__(self, path: Path, book: Path) -> None:
        super().__init__({URL: path.read_bytes()})
        self._book = book

    @contextmanager
    def read(self, url: str, span: Span, stop: Stop, version: str = "") -> Iterator[Coming]:
        with super().read(url, span, stop, version) as coming:
            with self._book.open("a") as book:
                book.write(f"{os.getpid()}\n")
            yield coming


def use(folder: Path, sif: Path, book: Path) -> Path:
    """What a pilot does before it runs a payload: the path of the unpacked image."""
    cache = ImageCache(folder, Stores({"gs": lambda: FileStore(sif, book)}))
    packed = cache.get(URL, Stop())
    unpacked = cache.unpacked(packed, Stop())
    packed.release()
    unpacked.release()
    return unpacked.path


def downloads(book: Path) -> int:
    return len(book.read_text().splitlines()) if book.exists() else 0


def test_twenty_pilots_at_once_download_once(busybox: tuple[Path, Path], tmp_path: Path) -> None:
    book, context = tmp_path / "book", multiprocessing.get_context("fork")
    pilots = [context.Process(target=use, args=(tmp_path / "images", busybox[0], book)) for _ in range(PILOTS)]
    for pilot in pilots:
        pilot.start()
    for pilot in pilots:
        pilot.join(60)
    assert [pilot.exitcode for pilot in pilots] == [0] * PILOTS
    assert downloads(book) == 1


def test_a_pilot_killed_at_any_instant_leaves_no_broken_image(busybox: tuple[Path, Path], tmp_path: Path) -> None:
    folder, book, context = tmp_path / "images", tmp_path / "book", multiprocessing.get_context("fork")
    dice, whole_files = random.Random(4), len(list(busybox[1].rglob("*")))
    started_s = time.monotonic()
    use(tmp_path / "warm", busybox[0], book)
    whole_s = time.monotonic() - started_s
    for _ in range(15):
        pilot = context.Process(target=use, args=(folder, busybox[0], book))
        pilot.start()
        pilot.join(dice.uniform(0, 1.2 * whole_s))
        if pilot.is_alive():
            os.kill(pilot.pid or 0, signal.SIGKILL)
        pilot.join(10)
        for image in folder.glob("*.sif"):
            assert image.read_bytes() == busybox[0].read_bytes()
        for image in folder.glob("*.d"):
            assert len(list(image.rglob("*"))) >= whole_files
        if dice.random() < 0.5:  # begin anew
            make_room(folder, 0)
    use(folder, busybox[0], book)
    assert not [path for path in folder.iterdir() if ".part." in path.name or ".tmp." in path.name]


def test_the_image_not_used_for_longest_makes_room_and_one_in_use_stays(
    busybox: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for age_s, name in ((30, "old.sif"), (20, "used.sif"), (10, "new.sif")):
        (folder / name).write_bytes(os.urandom(1 << 20))
        os.utime(folder / name, (time.time() - age_s, time.time() - age_s))
    with (folder / "old.sif.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        gone = make_room(folder, 2 << 20)
    assert [path.name for path in gone] == ["used.sif"]
    assert sorted(path.name for path in folder.glob("*.sif")) == ["new.sif", "old.sif"]
    assert make_room(folder, None) == []


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "others"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return lambda name: folder / name


def signed(sif: Path, folder: Path, private: Path) -> Path:
    copy = folder / "signed.sif"
    copy.write_bytes(sif.read_bytes())
    subprocess.run(["apptainer", "sign", "--key", private, copy], check=True, capture_output=True)
    return copy


def test_an_image_is_run_only_with_the_signature_that_is_demanded(
    busybox: tuple[Path, Path], tmp_path: Path, keys: Callable[[str], Path]
) -> None:
    sif, book = signed(busybox[0], tmp_path, keys("ours.pem")), tmp_path / "book"
    good = ImageCache(tmp_path / "a", Stores({"gs": lambda: FileStore(sif, book)}), public_key=keys("ours.pub"))
    image = good.get(URL, Stop())
    assert image.path.read_bytes() == sif.read_bytes()
    image.release()
    for name, path, key in (("unsigned", busybox[0], "ours.pub"), ("by another", sif, "others.pub")):
        cache = ImageCache(tmp_path / name, Stores({"gs": partial(FileStore, path, book)}), public_key=keys(key))
        for image_name in (URL, str(path)):
            with pytest.raises(PayloadError) as caught:
                cache.get(image_name, Stop())
            assert caught.value.diagnosis.code == 1309
            assert "is not signed with the key of" in caught.value.diagnosis.detail
        assert not list((tmp_path / name).glob("*.sif"))
    with pytest.raises(PayloadError, match="bears no signature"):
        good.get(str(busybox[1]), Stop())
