"""The view on a real pseudo-terminal, looked at through a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import threading
from collections.abc import Callable, Iterator

import pyte
import pytest

from pilot.runtime.clock import monotonic_s
from pilot.watch import terminal as module
from pilot.watch.frame import Line
from pilot.watch.terminal import Terminal, kept_drawn

ROWS, COLUMNS = 12, 40


class Tty:
    """A pseudo-terminal: ``stream`` is what a program writes to, ``shown`` what a person sees."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._bytes = pyte.ByteStream(self._screen)
        self.resize(ROWS, COLUMNS)
        self.modes = termios.tcgetattr(self._master)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    @property
    def shown(self) -> list[str]:
        while select.select([self._master], [], [], 0.05)[0]:
            self._bytes.feed(os.read(self._master, 65536))
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def cursor(self) -> tuple[int, int]:
        return self._screen.cursor.y, self._screen.cursor.x

    @property
    def as_it_was(self) -> bool:
        """No mode of the terminal is changed: its settings, its cursor, its way of wrapping."""
        default = pyte.Screen(COLUMNS, ROWS)
        return (
            termios.tcgetattr(self._master) == self.modes
            and not self._screen.cursor.hidden
            and self._screen.mode == default.mode
            and self._screen.cursor.attrs == default.cursor.attrs
        )

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def tty() -> Iterator[Tty]:
    tty = Tty()
    yield tty
    tty.close()


def test_lines_scroll_above_and_the_frame_stays_below(tty: Tty) -> None:
    at = [1]
    view = Terminal(
        tty.stream, lambda columns: [Line("-- queue Q --", "bold"), Line(f"job {at[0]}"), Line("tail", "dim")]
    )
    view.draw()
    assert tty.shown == ["-- queue Q --", "job 1", "tail"]
    view.write("first line of the log\n")
    view.write("second\n")
    assert tty.shown == ["first line of the log", "second", "-- queue Q --", "job 1", "tail"]
    at[0] = 2
    view.draw()
    assert tty.shown[-2:] == ["job 2", "tail"] and len(tty.shown) == 5
    for number in range(30):
        view.write(f"line {number}\n")
    assert tty.shown == [*(f"line {number}" for number in range(21, 30)), "-- queue Q --", "job 2", "tail"]
    view.close()
    assert tty.shown[-1] == "line 29" and "job 2" not in tty.shown
    assert tty.cursor[1] == 0 and tty.as_it_was


def test_a_frame_that_shrinks_leaves_nothing_behind(tty: Tty) -> None:
    count = [5]
    view = Terminal(tty.stream, lambda columns: [Line(f"row {number}") for number in range(count[0])])
    view.write("log\n")
    assert len(tty.shown) == 6
    count[0] = 2
    view.draw()
    assert tty.shown == ["log", "row 0", "row 1"]
    count[0] = 0
    view.draw()
    assert tty.shown == ["log"]
    count[0] = 3
    view.write("more\n")
    assert tty.shown == ["log", "more", "row 0", "row 1", "row 2"]


def test_a_line_that_got_shorter_is_not_seen_through(tty: Tty) -> None:
    text = ["a rather long line"]
    view = Terminal(tty.stream, lambda columns: [Line(text[0])])
    view.draw()
    text[0] = "short"
    view.draw()
    assert tty.shown == ["short"]


def test_another_size_is_taken_up_and_no_line_of_the_log_is_eaten(tty: Tty) -> None:
    view = Terminal(tty.stream, lambda columns: [Line(f"{columns} columns"), Line("-" * (min(columns, 30) - 1))])
    view.write("log one\n")
    for columns in (80, 25, 40):
        tty.resize(ROWS, columns)
        view.draw()
        assert f"{columns} columns" in tty.shown and "log one" in tty.shown
    view.write("log two\n")
    assert tty.shown[:2] == ["log one", "log two"]
    view.close()
    assert tty.shown == ["log one", "log two"]


def test_a_terminal_of_a_few_rows_has_lines_only(tty: Tty) -> None:
    view = Terminal(tty.stream, lambda columns: [Line("frame")] * 9)
    tty.resize(4, COLUMNS)
    view.write("log\n")
    assert tty.shown == ["log"]
    tty.resize(8, COLUMNS)
    view.draw()
    assert tty.shown == ["log", *["frame"] * 6]


def test_after_a_suspension_it_begins_anew_below_what_others_wrote(tty: Tty, monkeypatch: pytest.MonkeyPatch) -> None:
    view = Terminal(tty.stream, lambda columns: [Line("frame"), Line("more")])
    view.write("log\n")
    tty.stream.write("\n$ ls\na b\n$ fg\n")
    tty.stream.flush()
    now_s = monotonic_s()
    monkeypatch.setattr(module, "monotonic_s", lambda: now_s + 60)
    view.draw()
    assert tty.shown == ["log", "frame", "more", "$ ls", "a b", "$ fg", "", "frame", "more"]
    view.write("log two\n")
    assert tty.shown[-4:] == ["", "log two", "frame", "more"]


def test_a_terminal_that_takes_nothing_does_not_hold_the_drawing(tty: Tty) -> None:
    view = Terminal(tty.stream, lambda columns: [Line("x" * 30)] * 3)
    full = threading.Event()

    def fill() -> None:
        while not full.is_set():  # until the pseudo-terminal's buffer is full
            if not select.select([], [tty.stream], [], 0.1)[1]:
                full.set()
            else:
                os.write(tty.stream.fileno(), b"y" * 512)

    os.set_blocking(tty.stream.fileno(), False)
    try:
        fill()
    except BlockingIOError:
        pass
    os.set_blocking(tty.stream.fileno(), True)
    drawing = threading.Thread(target=view.draw)
    drawing.start()
    drawing.join(10)
    assert not drawing.is_alive()
    view.close()
    assert "x" not in "".join(tty.shown)


def test_the_frame_is_kept_drawn_and_gone_at_the_end(
    tty: Tty, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.02)
    drawn: list[int] = []

    def frame(columns: int) -> list[Line]:
        drawn.append(columns)
        return [Line("frame")]

    view = Terminal(tty.stream, frame)
    with kept_drawn(view):
        eventually(lambda: len(drawn) > 3, what="drawn again and again")
        view.write("log\n")
    assert tty.shown == ["log"]
    view.write("afterwards\n")
    assert tty.shown == ["log", "afterwards"]


def test_lines_of_many_threads_stay_whole(tty: Tty) -> None:
    view = Terminal(tty.stream, lambda columns: [Line("frame")])

    def write(name: str) -> None:
        for number in range(20):
            view.write(f"{name}{number} ends here\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    seen: list[str] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen += tty.shown
    for thread in threads:
        thread.join()
    seen += tty.shown
    assert all(line == "frame" or line.endswith("ends here") for line in seen if line)
    assert tty.shown[-1] == "frame" and len(tty.shown) == ROWS
