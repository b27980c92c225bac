"""The view on a terminal: the log's lines scroll by, and below them stands the frame, drawn anew each second.

The terminal is never put into a mode of any kind: no raw input, no hidden cursor, no other screen, no colour that outlasts
its line. So there is nothing to give back, whatever ends the pilot, SIGKILL included. The frame is removed by moving up over
its own lines; when those may no longer be where they were (the pilot was suspended), it begins anew below.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TextIO

from pilot.runtime.clock import monotonic_s
from pilot.watch.frame import Line

TICK_S = 1.0
SUSPENDED_S = 3.5  # without a tick for so long, somebody else has had the terminal
LEAST_ROWS = 6
JOIN_S = 2.0
STYLES = {"": "", "bold": "\x1b[1m", "dim": "\x1b[2m", "warn": "\x1b[33m"}
_RESET, _TO_LINE_END, _TO_SCREEN_END = "\x1b[0m", "\x1b[K", "\x1b[J"


class Terminal:
    """A stream for the log's lines, which keeps the frame below them. Safe for several threads.

    ``frame(columns)`` is called at every drawing; what it raises goes to the caller of ``draw``.
    """

    def __init__(self, stream: TextIO, frame: Callable[[int], list[Line]]) -> None:
        self._stream, self._frame = stream, frame
        self._lock = Lock()
        self._rows = 0  # of the frame on the screen; the cursor stands at the end of its last
        self._drawn_s = monotonic_s()
        self._closed = False

    def write(self, text: str) -> int:
        """Lines of the log, whole ones: the frame makes room for them."""
        with self._lock:
            below = self._lines() if not self._closed else []
            self._put(self._removal() + text, below)
        return len(text)

    def flush(self) -> None:
        """Every write is one already."""

    def draw(self) -> None:
        """Draw the frame as things are now. A terminal that takes nothing (Ctrl-S) is not waited for."""
        with self._lock:
            if not self._closed and select.select([], [self._stream], [], 0)[1]:
                self._put("", self._lines())

    def close(self) -> None:
        """Remove the frame; from now on lines are only lines."""
        with self._lock:
            self._closed = True
            if self._rows and select.select([], [self._stream], [], 0)[1]:
                self._put(self._removal(), [])

    def _lines(self) -> list[Line]:
        """The frame, where there is room for one and the terminal is ours."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return []
        lines = self._frame(columns) if rows >= LEAST_ROWS and self._in_foreground() else []
        return lines[: rows - 2]

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except OSError:
            return True  # not our controlling terminal: nobody else's job either

    def _removal(self) -> str:
        """What takes the frame off the screen and puts the cursor where it began."""
        return self._home() + _TO_SCREEN_END if self._home() else ""

    def _home(self) -> str:
        if not self._rows:
            return ""
        if monotonic_s() - self._drawn_s > SUSPENDED_S:
            return "\n"
        return "\r" + (f"\x1b[{self._rows - 1}A" if self._rows > 1 else "")

    def _put(self, before: str, lines: list[Line]) -> None:
        """Write what is said and the frame in one piece."""
        head = before or self._home()
        shown = "\n".join(f"{STYLES[line.style]}{line.text}{_RESET}{_TO_LINE_END}" for line in lines)
        end = _TO_SCREEN_END if len(lines) < self._rows else ""
        self._stream.write(head + shown + end)
        self._stream.flush()
        self._rows, self._drawn_s = len(lines), monotonic_s()


@contextmanager
def kept_drawn(terminal: Terminal) -> Iterator[None]:
    """While inside, the frame is drawn once a second; at the end it is removed."""
    over = Event()

    def keep_drawing() -> None:
        while not over.wait(TICK_S):
            try:
                terminal.draw()
            except OSError:  # the terminal is gone
                return

    thread = Thread(target=keep_drawing, name="terminal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(JOIN_S)
        if not thread.is_alive():
            terminal.close()
