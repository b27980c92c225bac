"""The log pump: while the payload runs, the public objects follow its logs."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable

from pilot.logs.collect import LogFile, log_files
from pilot.runtime.clock import monotonic_s
from pilot.runtime.events import redactor
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError, StoreError

logger = logging.getLogger("pilot.logs")

TAIL_BYTES = 1 << 20  # what a growing log's object holds at most; the whole is written once, at the end
SHORTEST_INTERVAL_S = 10.0
INTERVAL_SHARE = 0.01  # of the run time so far: a twelve-hour job is refreshed every seven minutes


def follow(folder: JobFolder, show: Callable[[LogFile, io.BytesIO], None], stop: Stop) -> None:
    """Until ``stop``: call ``show`` with the tail of every log that grew. A failure is logged once and tried again later."""
    shown: dict[str, int] = {}
    troubled = False
    started_s = monotonic_s()
    while not stop.is_set():
        for file in log_files(folder):
            size_bytes = file.size_bytes()
            if size_bytes is None or shown.get(file.name) == size_bytes or stop.is_set():
                continue
            try:
                show(file, _tail(file))
                shown[file.name], troubled = size_bytes, False
            except (StoreError, LocalFileError, OSError) as trouble:
                logger.log(logging.DEBUG if troubled else logging.WARNING, "live log of %s: %s", file.name, trouble)
                troubled = True
        stop.wait(max(SHORTEST_INTERVAL_S, INTERVAL_SHARE * (monotonic_s() - started_s)))


def _tail(file: LogFile) -> io.BytesIO:
    """The end of a log, secrets masked: also one that is cut by the tail's beginning or not yet written to its end."""
    with redactor.reading(file.open()) as opened:
        size_bytes = os.fstat(opened.fileno()).st_size
        opened.seek(max(0, size_bytes - TAIL_BYTES))
        return io.BytesIO(opened.read(TAIL_BYTES))
