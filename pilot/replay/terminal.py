"""A program that a person talks with, on a terminal of its own: what runs in it never holds the person's.

A program that holds a terminal can push characters into it (TIOCSTI), which whoever reads next takes for typed. So a hostile
payload's shell gets a new pseudo-terminal in a session of its own, and this process carries the bytes between the two.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from pilot.job.errors import PayloadError, PilotError
from pilot.payload.process import register_child, release_child
from pilot.payload.programs import DEFAULT_PATH
from pilot.runtime.stop import Stop

BLOCK_BYTES = 64 << 10
LOOK_S = 0.25  # how soon a stop is noticed
ENDING_S = 5.0


def attended(argv: tuple[str, ...], environment: Mapping[str, str], folder: Path, umask: int, stop: Stop) -> int:
    """Run it until it ends or ``stop``; its exit code, 128+n when signal n ended it. Raises PayloadError: it did not start."""
    on_terminal = os.isatty(sys.stdin.fileno()) and os.isatty(sys.stdout.fileno())
    master, slave = os.openpty() if on_terminal else os.pipe2(os.O_CLOEXEC)
    setsid = shutil.which("setsid", path=DEFAULT_PATH) or "setsid"
    argv = (setsid, "--ctty", *argv) if on_terminal else argv
    try:
        child = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd=folder,
            stdin=slave if on_terminal else sys.stdin,
            stdout=slave,
            stderr=slave,
            umask=umask,
            start_new_session=not on_terminal,
            close_fds=True,
        )
    except OSError as error:
        os.close(master)
        raise PayloadError(PilotError.SETUP_FAILURE, f"{argv[0]} could not be started: {error.strerror}") from error
    finally:
        os.close(slave)
    register_child(child.pid)
    try:
        with _raw_terminal(master) if on_terminal else _as_it_is():
            _carry(master, [sys.stdin.fileno()] if on_terminal else [], child, stop)
        return _ended(child)
    finally:
        os.close(master)
        release_child(child.pid)


def _carry(master: int, ours: list[int], child: subprocess.Popen[bytes], stop: Stop) -> None:
    """Bytes both ways until the other side is gone; what it wrote last is still shown."""
    while not stop.is_set():
        ready, _, _ = select.select([master, *ours], [], [], LOOK_S)
        if master in ready:
            try:
                data = os.read(master, BLOCK_BYTES)
            except OSError:  # the pseudo-terminal's other side is closed
                return
            if not data:
                return
            _write_all(sys.stdout.fileno(), data)
        elif child.poll() is not None and not ready:
            return
        for source in ours:
            if source in ready:
                data = os.read(source, BLOCK_BYTES)
                _write_all(master, data or b"\x04")
    child.terminate()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _ended(child: subprocess.Popen[bytes]) -> int:
    try:
        code = child.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _raw_terminal(master: int) -> Iterator[None]:
    """While inside, every key goes to the program, and the program's terminal is as large as ours."""
    ours = sys.stdin.fileno()
    before = termios.tcgetattr(ours)

    def resize(_number: int = 0, _frame: FrameType | None = None) -> None:
        with suppress(OSError):
            fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(ours, termios.TIOCGWINSZ, b"\0" * 8))

    resize()
    handler = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(ours)
        yield
    finally:
        termios.tcsetattr(ours, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
