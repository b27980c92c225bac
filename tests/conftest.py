"""What holds for every test: nothing of it is left behind, and waiting is for facts, never for time."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No example database in the checkout, no deadline on a busy machine, and the same examples each time.
settings.register_profile("pilot", database=None, deadline=None, derandomize=True)
settings.load_profile("pilot")

PR_SET_CHILD_SUBREAPER = 36
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1)
ENDING_S = 5.0  # how long threads and children of a test may take to end by themselves
PYTEST_VARIABLES = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")


def _eventually(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    end_s = time.monotonic() + timeout_s
    pause_s = 0.001
    while not condition():
        if time.monotonic() >= end_s:
            words = what or getattr(condition, "__doc__", None) or _source(condition)
            pytest.fail(f"waited {timeout_s} s in vain for: {words}")
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(2 * pause_s, 0.05)


def _source(condition: Callable[[], object]) -> str:
    import inspect

    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """``eventually(condition, timeout_s=10, what="")``: poll until true; the failure says what was waited for."""
    return _eventually


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A TMPDIR of this test process alone, so that what a test leaves in it is seen, and is its own."""
    tmp_path_factory.getbasetemp()  # pytest's own folder stays where it is looked for
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix="pilot-tests-"))
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    yield folder
    tempfile.tempdir = before
    if variable is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = variable
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(temporary_folder: Path) -> Iterator[None]:
    """Each test ends the threads and child processes it started, and gives back handlers, variables and files."""
    threads, children = set(threading.enumerate()), _children()
    handlers = [signal.getsignal(number) for number in SIGNALS]
    variables, files = _variables(), set(os.listdir(temporary_folder))
    yield
    _wait_for_end(lambda: _new_threads(threads) or (_children() - children))
    left = {
        "threads": [thread.name for thread in _new_threads(threads)],
        "child processes": sorted(_children() - children),
        "signal handlers": [n.name for n, old in zip(SIGNALS, handlers, strict=True) if signal.getsignal(n) != old],
        "environment variables": sorted(_changed(variables, _variables())),
        "temporary files": sorted(set(os.listdir(temporary_folder)) - files),
    }
    found = {what: names for what, names in left.items() if names}
    # A payload made ready in this process made it the one that orphans go to; those of the next test are not its own.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not found, f"the test left behind: {found}"


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    # A server that serves several tests keeps threads for its connections as long as it likes.
    def of_a_server(name: str) -> bool:
        return name.startswith("sandbox-") or "process_request_thread" in name

    return [thread for thread in threading.enumerate() if thread not in before and not of_a_server(thread.name)]


def _children() -> set[str]:
    """Process ids of this process's children, named so that a failure can be read."""
    pids: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids.update((task / "children").read_text().split())
        except OSError:
            continue  # the thread ended meanwhile
    return pids


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in PYTEST_VARIABLES}


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name, _value in before.items() ^ after.items()}


def _wait_for_end(left: Callable[[], object]) -> None:
    end_s = time.monotonic() + ENDING_S
    while left() and time.monotonic() < end_s:
        time.sleep(0.01)
