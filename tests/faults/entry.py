"""The laboratory's own pilot program: ``entry.py RUN.json <options of pilot-start>``.

It tells the laboratory, over a Unix socket, each point that is reached, and waits there for its word: the laboratory does
the fault from outside (signals, servers, disk, clock). Only a failing fsync is done in here.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from pilot.runtime.probe import Point, install


class FailingFsync:
    """Stands in for ``os.fsync`` in this process: fails as often as it is told to, else syncs."""

    def __init__(self) -> None:
        self._sync = os.fsync
        self.recorder: Recorder | None = None
        self._left = 0
        self._lock = threading.Lock()

    def fail(self, times: int) -> None:
        with self._lock:
            self._left = times

    def __call__(self, descriptor: int) -> None:
        with self._lock:
            failing, self._left = self._left > 0, max(0, self._left - 1)
        if failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._sync(descriptor)
        if self.recorder is not None:
            self.recorder.note(descriptor, "fsync", None)


def _sleep(seconds: float) -> None:
    select.select([], [], [], max(0.0, seconds))


class Recorder:
    """Notes each write, fsync and truncation of a job's journal, in order, into a file of JSON lines."""

    def __init__(self, path: str) -> None:
        self._out = open(path, "a", buffering=1)  # noqa: SIM115  (until the process ends)
        self._write, self._truncate = os.write, os.ftruncate
        os.write, os.ftruncate = self.write, self.truncate  # type: ignore[assignment]

    def write(self, descriptor: int, data: bytes) -> int:
        written = self._write(descriptor, data)
        self.note(descriptor, "write", bytes(data[:written]).decode("latin-1"))
        return written

    def truncate(self, descriptor: int, length: int) -> None:
        self._truncate(descriptor, length)
        self.note(descriptor, "truncate", length)

    def note(self, descriptor: int, operation: str, value: object) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/journal"):
            self._out.write(json.dumps([operation, value]) + "\n")


def main() -> int:
    run = json.loads(Path(sys.argv[1]).read_text())
    faulthandler.register(signal.SIGUSR1)  # a pilot that hangs is asked where
    random.seed(run["seed"])  # back-off and jitter
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        # libfaketime 0.9.10 spoils absolute clock_nanosleep(CLOCK_MONOTONIC), which is what time.sleep is made of: EINVAL.
        time.sleep = _sleep  # type: ignore[assignment]
    fsync = FailingFsync()
    os.fsync = fsync  # type: ignore[assignment]
    if "record" in run:
        fsync.recorder = Recorder(run["record"])

    def ask(point: Point) -> None:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(run["socket"])
            line.sendall(json.dumps({"pid": os.getpid(), "point": point.name}).encode() + b"\n")
            word = line.makefile().readline().strip()
        if word.startswith("fsync "):
            fsync.fail(int(word.split()[1]))

    install(ask)
    from pilot.cli import main as pilot_start

    return pilot_start(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
