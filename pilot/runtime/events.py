"""The pilot's own log: one line an event, to the terminal and to each job's pilotlog.txt, secrets taken out."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pilot.runtime.redact import Redactor

LINE = "%(asctime)s.%(msecs)03d | %(levelname)-7s | %(threadName)-12s | %(name)-16s | %(message)s"
TIME = "%Y-%m-%d %H:%M:%S"

redactor = Redactor()

# What a terminal would obey, shown instead: a message may quote what a payload or a server wrote.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0)) if code not in (9, 10)}


class RedactingFormatter(logging.Formatter):
    """Times in UTC; everything, tracebacks included, goes through the redactor. A message stays on its line."""

    converter = time.gmtime  # type: ignore[assignment]  # the stub wants a parameter that gmtime has too

    def __init__(self) -> None:
        super().__init__(LINE, TIME)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's own name)
        return super().formatMessage(record).replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        return redactor.clean(super().format(record)).translate(_CONTROLS)


def start_logging(level: str = "INFO") -> None:
    """Send the pilot's events to standard error. Called once, by the entry point."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter())
    root = logging.getLogger("pilot")
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


class _JobLog(logging.FileHandler):
    """A job's pilotlog.txt. A disk that takes no more of it costs lines of the log and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """The line stands on standard error all the same."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """While inside, the pilot's events are also appended to ``path`` (a job's pilotlog.txt). Raises OSError."""
    handler = _JobLog(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(RedactingFormatter())
    with log_to(handler):
        yield


@contextmanager
def log_to(handler: logging.Handler) -> Iterator[None]:
    """While inside, the pilot's events also go to ``handler``, which is closed at the end."""
    root = logging.getLogger("pilot")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
