"""The watch on the container's memory, over a fabricated control group."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilot.payload.cgroup import MemoryGroup
from pilot.payload.container_watch import ContainerWatch
from pilot.runtime.stop import Deadline

MB = 1 << 20
LIMIT = 1000 * MB


class Told:
    """What the watch has told, and a way to wait for it."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self._came = threading.Event()

    def __call__(self, used_bytes: int) -> None:
        self.bytes.append(used_bytes)
        self._came.set()

    def wait_for(self, used_bytes: int) -> None:
        patience = Deadline(10)
        while used_bytes not in self.bytes:
            assert not patience.passed(), self.bytes
            self._came.wait(0.05)
            self._came.clear()


def use(folder: Path, used_bytes: int) -> None:
    replacement = folder / "new"
    replacement.write_text(f"{used_bytes}\n")
    replacement.rename(folder / "memory.current")


@contextmanager
def watching(folder: Path, told: Told) -> Iterator[None]:
    watch = ContainerWatch(MemoryGroup(folder, LIMIT), int(LIMIT * 0.95), told)
    watch.start()
    try:
        yield
    finally:
        assert watch.finish(5)


def test_what_is_used_at_the_start_and_every_step_is_told(tmp_path: Path) -> None:
    told = Told()
    use(tmp_path, 100 * MB)
    with watching(tmp_path, told):
        told.wait_for(100 * MB)
        use(tmp_path, 300 * MB)
        told.wait_for(300 * MB)


def test_too_much_is_told_each_time_it_is_seen(tmp_path: Path) -> None:
    told = Told()
    use(tmp_path, 951 * MB)
    with watching(tmp_path, told):
        told.wait_for(951 * MB)
        told.bytes.clear()
        told.wait_for(951 * MB)


def test_a_group_that_cannot_be_read_is_no_error_and_is_tried_again(tmp_path: Path) -> None:
    told = Told()
    with watching(tmp_path, told):
        use(tmp_path, 500 * MB)
        told.wait_for(500 * MB)
