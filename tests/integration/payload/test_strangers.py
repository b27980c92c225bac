"""Orphans that come to the pilot as PID 1: collected while it does other things, and nobody else's child with them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from pilot.payload import procfs
from pilot.payload.process import become_subreaper, register_child, release_child
from pilot.payload.strangers import collect_strangers, look, strangers_collected
from pilot.runtime.stop import Stop, StopKind, StopReason
from tests.conftest import PR_SET_CHILD_SUBREAPER

Eventually = Callable[..., None]


@pytest.fixture(autouse=True)
def inheriting() -> Iterator[None]:
    """Orphans come to this process, as to PID 1 of a container; those of other tests do not."""
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def orphan(command: str = "exit 3") -> int:
    """A process in a session of its own that does this when its parent has ended; its pid."""
    when_alone = f"while kill -0 $$ 2>/dev/null; do sleep 0.01; done; {command}"  # $$: the outer shell
    text = f'setsid sh -c "{when_alone}" >/dev/null 2>&1 & echo $!'
    return int(subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True).stdout)


def comm(pid: int) -> str:
    process = procfs.read_process(pid)
    return process.comm if process else ""


def dead(pid: int) -> bool:
    process = procfs.read_process(pid)
    return process is not None and process.zombie and process.ppid == os.getpid()


def test_dead_orphans_are_collected_for_as_long_as_the_scope_lasts(eventually: Eventually) -> None:
    stop = Stop()
    thread = threading.Thread(target=collect_strangers, args=(stop, 0.01))
    thread.start()
    try:
        for _ in range(3):
            pid = orphan()
            eventually(lambda pid=pid: procfs.read_process(pid) is None, what=f"orphan {pid} is collected")
        living = orphan("exec sleep 60")
        eventually(lambda: comm(living) == "sleep")
    finally:
        stop.request(StopReason(StopKind.PAYLOAD_DONE))
        thread.join()
    assert procfs.read_process(living) is not None
    os.kill(living, 9)
    os.waitpid(living, 0)


def test_at_first_sight_nobody_is_collected(eventually: Eventually) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=True)  # not registered (yet)
    eventually(lambda: dead(child.pid))
    seen = look(frozenset())
    assert child.pid in {pid for pid, _started in seen}
    assert child.wait() == 7
    assert look(seen) == frozenset()


def test_who_is_still_there_at_the_second_look_is_collected(eventually: Eventually) -> None:
    pid = orphan()
    eventually(lambda: dead(pid))
    assert look(look(frozenset())) and procfs.read_process(pid) is None


def test_registered_children_keep_their_status(eventually: Eventually) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=True)
    register_child(child.pid)
    eventually(lambda: dead(child.pid))
    look(look(look(frozenset())))
    assert child.wait() == 7
    release_child(child.pid)


def test_the_thread_ends_with_what_it_is_for() -> None:
    before = threading.active_count()
    with strangers_collected(Stop()):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
