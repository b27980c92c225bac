"""The pilot as a person at a terminal starts it: on a pseudo-terminal of its own, seen through a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.integration.pilot.pilotrun import PROGRAM, Pilots, processes_of

ROWS, COLUMNS = 40, 120


class Seat:
    """A terminal with a pilot on it. ``seen``: every state of the screen that was looked at, oldest first."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], folder: Path, stderr: Path | None) -> None:
        self._master, slave = pty.openpty()
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=5000)
        self._bytes = pyte.ByteStream(self.screen)
        self.raw = b""
        self.seen: list[list[str]] = []
        self.resize(ROWS, COLUMNS)
        self.modes = termios.tcgetattr(self._master)
        with open(stderr or os.devnull, "ab") as errors:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *argv],
                env=dict(environment),
                cwd=folder,
                stdin=slave,
                stdout=slave,
                stderr=errors if stderr else slave,
            )
        self._slave = slave  # kept open: its settings are looked at when the pilot is gone

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def look(self, wait_s: float = 0.05) -> list[str]:
        """What stands on the screen now."""
        while select.select([self._master], [], [], wait_s)[0]:
            came = os.read(self._master, 65536)
            self.raw += came
            self._bytes.feed(came)
            self._remember()
        return self.lines

    @property
    def lines(self) -> list[str]:
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _remember(self) -> None:
        if not self.seen or self.seen[-1] != self.lines:
            self.seen.append(self.lines)

    def wait_until(self, true: Callable[[list[str]], object], what: str, timeout_s: float = 30.0) -> None:
        """Look until the screen shows it; AssertionError with the screen when it never does."""
        end_s = time.monotonic() + timeout_s
        while not true(self.look()):
            assert time.monotonic() < end_s and self.process.poll() is None, f"not seen: {what}\n" + "\n".join(
                self.lines
            )

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for the pilot to leave; its exit code. The screen is read all the while: a full one would hold the pilot."""
        end_s = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < end_s, "the pilot did not leave:\n" + "\n".join(self.lines)
        self.look()
        return self.process.returncode

    @property
    def as_it_was(self) -> bool:
        """Nothing of the terminal is changed: its settings, its cursor, its screen, its colours."""
        default = pyte.Screen(COLUMNS, ROWS)
        return (
            termios.tcgetattr(self._master) == self.modes
            and not self.screen.cursor.hidden
            and self.screen.mode == default.mode
            and self.screen.margins == default.margins
            and self.screen.cursor.attrs == default.cursor.attrs
        )

    def close(self, folder: Path) -> None:
        for pid in processes_of(folder):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)


@contextmanager
def at_a_terminal(
    pilots: Pilots,
    *args: str,
    env: Mapping[str, str] | None = None,
    stderr: Path | None = None,
    queue: str = "DOMA_LSST_DEV",
) -> Iterator[Seat]:
    """``pilot-start`` with the world's settings on a terminal; with ``stderr`` given, as ``2>FILE``."""
    argv = [str(PROGRAM), "--queue", queue, "--config", str(pilots.world.state_dir / "pilot.yaml")]
    argv += ["--workdir", str(pilots.folder / "work"), *args]
    seat = Seat(argv, {**pilots.environment(), "TERM": "xterm-256color", **(env or {})}, pilots.folder, stderr)
    try:
        yield seat
    finally:
        seat.close(pilots.folder)
