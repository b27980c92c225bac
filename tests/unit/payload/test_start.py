"""How a payload's first process comes into being: whose child it is, whom the kernel ends first, what keeps it from starting."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.job.errors import PayloadError
from pilot.payload.landlock import Closed
from pilot.payload.start import Launch, guarded, start

SYSTEM = ("/bin", "/usr", "/lib", "/lib64", "/etc", "/proc")
ENDED_BY_ITS_PARENT = """
import os, sys
from pathlib import Path
from pilot.payload.landlock import Closed
from pilot.payload.start import Launch, guarded, start
folder = Path(sys.argv[1])
argv = guarded(("/bin/sh", "-c", "echo up; exec sleep 600"))
closed = Closed(("/bin", "/usr", "/lib", "/lib64", "/etc"), (str(folder), "/dev/null"))
process = start(Launch(argv, {}, folder, folder / "out", folder / "err", "", closed=closed))
print(process.pid, flush=True)
sys.stdin.read()
"""
# As a pod's pilot that is not root, and hides its memory: its own files below /proc are root's then.
SCORES = """
import os, sys
from pathlib import Path
from pilot.payload.landlock import Closed
from pilot.payload.rungs import hide_memory
from pilot.payload.start import Launch, guarded, start
folder = Path(sys.argv[1])
Path("/proc/self/oom_score_adj").write_text(sys.argv[2])
if os.geteuid() == 0:
    os.chown(folder, 65534, 65534)
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
hide_memory()
closed = Closed(("/bin", "/usr", "/lib", "/lib64", "/etc", "/proc"), (str(folder), "/dev/null"))
argv = guarded(("/bin/cat", "/proc/self/oom_score_adj"))
process = start(Launch(argv, {}, folder, folder / "out", folder / "err", "", closed=closed))
assert process.wait(20) == 0, (folder / "err").read_text()
print((folder / "out").read_text().strip(), Path("/proc/self/oom_score_adj").read_text().strip())
"""


@pytest.fixture(params=["open", "closed"])
def launch(request: pytest.FixtureRequest, tmp_path: Path) -> Launch:
    closed = Closed(SYSTEM, (str(tmp_path), "/dev/null")) if request.param == "closed" else None
    launch = Launch((), {"PATH": "/usr/bin:/bin"}, tmp_path, tmp_path / "out", tmp_path / "err", "", closed=closed)
    return replace(launch, argv=guarded(("/bin/sh", "-c", "echo $PPID; cat; echo more >>/dev/stdout; exit 7")))


def test_it_is_our_child_with_its_texts_and_nothing_to_read(launch: Launch) -> None:
    threads, descriptors = threading.active_count(), os.listdir("/proc/self/fd")
    process = start(launch)
    assert process.wait(30) == 7, launch.stderr.read_text()
    assert launch.stdout.read_text() == f"{os.getpid()}\nmore\n"
    assert (threading.active_count(), os.listdir("/proc/self/fd")) == (threads, descriptors)


def test_its_environment_is_exact_although_it_waited_behind_a_shell(launch: Launch) -> None:
    variables = {"PATH": "/usr/bin:/bin", "go": "1", "EMPTY": "", "TWO": "a\nb='c' \udcff"}
    process = start(replace(launch, argv=guarded(("/bin/cat", "/proc/self/environ")), environment=variables))
    assert process.wait(30) == 0, launch.stderr.read_text()
    entries = launch.stdout.read_text(errors="surrogateescape").split("\0")
    assert sorted(entries) == sorted(["", *(f"{name}={value}" for name, value in variables.items())])


def test_no_thread_is_left_that_it_could_signal_when_it_begins(tmp_path: Path) -> None:
    argv = guarded(("/bin/sh", "-c", f"ls /proc/{os.getpid()}/task"))
    closed = Closed(SYSTEM, (str(tmp_path), "/dev/null"))
    before = set(os.listdir("/proc/self/task"))
    process = start(Launch(argv, {}, tmp_path, tmp_path / "out", tmp_path / "err", "", closed=closed))
    assert process.wait(30) == 0
    assert set((tmp_path / "out").read_text().split()) <= before


def test_it_dies_with_the_pilot_although_the_thread_that_started_it_is_long_gone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDED_BY_ITS_PARENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as pilot:
        assert pilot.stdout is not None
        handle = os.pidfd_open(int(pilot.stdout.readline()))
        try:
            while (tmp_path / "out").read_text() != "up\n":
                assert pilot.poll() is None
            pilot.kill()
            assert pilot.wait(10) == -signal.SIGKILL
            assert select.select([handle], [], [], 10)[0]
        finally:
            os.close(handle)


def test_what_cannot_be_run_is_said_in_a_sentence_and_nothing_is_left(launch: Launch, tmp_path: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(PayloadError, match="could not be started: No such file or directory"):
        start(replace(launch, folder=tmp_path / "missing"))
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize(("score", "told"), [(0, "500 0"), (300, "800 300"), (936, "1000 936"), (1000, "1000 1000")])
def test_the_kernel_ends_it_rather_than_the_pilot_whatever_score_the_pod_has(score: int, told: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        argv = [sys.executable, "-c", SCORES, folder, str(score)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == told, done.stderr
