"""Wiring of those who look on while a pilot works, from Settings: the view on a terminal, the metrics' port and file.

The view goes to standard error with the log's lines above it; where only standard output is a terminal (``2>pilot.log``), to
that, with the last line of the log in it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from pilot import __version__
from pilot.runtime.clock import monotonic_s
from pilot.runtime.events import last_event, lines_written_by
from pilot.runtime.metrics import counts
from pilot.runtime.progress import board
from pilot.settings import Settings

logger = logging.getLogger("pilot")


@contextmanager
def watched(settings: Settings) -> Iterator[None]:
    """While inside, those whom the settings name look on; nothing is imported for those they do not. Raises nothing."""
    with ExitStack() as closing:
        screen = None if settings.plain or settings.log_format != "text" else _terminal()
        if screen is not None:
            closing.enter_context(_view(screen))
        if settings.metrics_port is not None or settings.metrics_file is not None:
            closing.enter_context(_metrics(settings))
        yield


def _terminal() -> TextIO | None:
    return next((stream for stream in (sys.stderr, sys.stdout) if stream is not None and stream.isatty()), None)


@contextmanager
def _view(screen: TextIO) -> Iterator[None]:
    from pilot.watch.frame import Line, Said, frame
    from pilot.watch.tail import last_line
    from pilot.watch.terminal import Terminal, kept_drawn

    with ExitStack() as closing:
        told = closing.enter_context(last_event()) if screen is not sys.stderr else None

        def lines(columns: int) -> list[Line]:
            progress = board.now()
            payload = last_line(progress.job.logs) if progress.job else ""
            return frame(progress, Said(payload, told() if told else ""), monotonic_s(), columns)

        terminal = Terminal(screen, lines)
        if screen is sys.stderr:
            closing.enter_context(lines_written_by(terminal))
        closing.enter_context(kept_drawn(terminal))
        yield


@contextmanager
def _metrics(settings: Settings) -> Iterator[None]:
    from pilot.watch.exposition import About, OwnUse, rendered

    about = About(__version__, settings.queue, settings.node, time.time())

    def text(up: bool = True) -> str:
        return rendered(about, board.now(), counts.now(), OwnUse.now(), monotonic_s(), up=up)

    with ExitStack() as closing:
        if settings.metrics_port is not None:
            from pilot.watch.port import ADDRESS, metrics_port

            try:
                port = closing.enter_context(metrics_port(settings.metrics_port, text))
                logger.info("metrics: http://%s:%d/metrics", ADDRESS, port)
            except OSError as error:
                logger.warning("no metrics on port %d of %s: %s", settings.metrics_port, ADDRESS, error.strerror)
        if settings.metrics_file is not None:
            from pilot.watch.textfile import metrics_file

            closing.enter_context(metrics_file(settings.metrics_file, text))
        yield
