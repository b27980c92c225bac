"""The metrics in a file, for the node exporter's textfile collector: replaced whole, again and again, and once at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from pilot.runtime.files import replace_atomically

logger = logging.getLogger("pilot.watch")

PAUSE_S = 15.0
JOIN_S = 2.0


@contextmanager
def metrics_file(path: Path, text: Callable[[bool], str], pause_s: float = PAUSE_S) -> Iterator[None]:
    """While inside, ``text(True)`` is written to ``path`` every ``pause_s`` seconds; at the end ``text(False)``.

    A disk that does not take it costs a word in the log, once, and nothing else.
    """
    over, trouble = Event(), [""]

    def write(*, up: bool) -> None:
        before, trouble[0] = trouble[0], ""
        try:
            replace_atomically(path, text(up).encode())
        except OSError as error:
            trouble[0] = str(error.strerror)
            if trouble[0] != before:
                logger.warning("the metrics file %s cannot be written: %s", path, error.strerror)

    def keep_writing() -> None:
        while not over.wait(pause_s):
            write(up=True)

    write(up=True)
    thread = Thread(target=keep_writing, name="metrics-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(JOIN_S)
        if not thread.is_alive():  # else the disk hangs, and would hold us too
            write(up=False)
