"""The pilot's own log: one line an event, to standard error and to each job's pilotlog.txt, secrets taken out."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pilot.runtime.progress import board
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


class _MessageAlone(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redactor.clean(record.getMessage()).translate(_CONTROLS)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``thread``, ``message``; ``job`` and ``attempt`` while there
    is one in hand; ``traceback`` where there is one. Redacted.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "thread": record.threadName,
            "message": redactor.clean(record.getMessage()),
        }
        job = board.job
        if job is not None:
            fields |= {"job": job.panda_id, "attempt": job.attempt_nr}
        if record.exc_info:
            fields["traceback"] = redactor.clean(self.formatException(record.exc_info))
        return json.dumps(fields)


class _Lines(Protocol):
    """Where lines go: a stream, or what stands for one."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class _StandardError(logging.StreamHandler[_Lines]):
    """The lines for whoever started the pilot."""


def start_logging(level: str = "INFO", log_format: str = "text") -> None:
    """Send the pilot's events to standard error, as ``text`` or ``json`` lines. Called once, by the entry point."""
    handler = _StandardError(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else RedactingFormatter())
    root = logging.getLogger("pilot")
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


@contextmanager
def lines_written_by(lines: _Lines) -> Iterator[None]:
    """While inside, what ``start_logging`` sends to standard error goes to ``lines`` instead."""
    ours = [handler for handler in logging.getLogger("pilot").handlers if isinstance(handler, _StandardError)]
    before = [handler.setStream(lines) for handler in ours]
    try:
        yield
    finally:
        for handler, stream in zip(ours, before, strict=True):
            handler.setStream(stream or sys.stderr)


class _LastEvent(logging.Handler):
    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = self.format(record)


@contextmanager
def last_event() -> Iterator[Callable[[], str]]:
    """While inside, the call gives the last event's message, redacted."""
    handler = _LastEvent()
    handler.setFormatter(_MessageAlone())
    with log_to(handler):
        yield lambda: handler.message


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
