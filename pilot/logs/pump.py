"""The log pump: while the payload runs, the public objects follow its logs."""

from __future__ import annotations

import io
import logging
from typing import BinaryIO

from pilot.logs.collect import LogFile, log_files
from pilot.logs.segments import Put, Segments, line_end_before, line_start_after, part, size_of
from pilot.runtime.clock import monotonic_s
from pilot.runtime.events import redactor
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError, StoreError

logger = logging.getLogger("pilot.logs")

TAIL_BYTES = 1 << 20  # what a growing log's object holds at most
WHOLE_MAX_BYTES = 32 << 20  # up to here the object of an ended job's log holds the whole text: what a browser can show
HEAD_BYTES = 64 << 10  # of a larger one, besides its end: how it began
NOTICE_BYTES = 1 << 10  # room for the line that says what is left out
FIRST_LOOK_S = 1.0  # a shorter job is shown when it has ended
LOOK_S = 2.0  # whether a log has grown
# A log that always grows is sent again after ten seconds, later after a hundredth of the run time so far: 479 requests in
# twelve hours, by whose end a pilot that is killed takes the last seven minutes along.
SHORTEST_INTERVAL_S = 10.0
INTERVAL_SHARE = 0.01


def follow(folder: JobFolder, put: Put, stop: Stop) -> None:
    """Until ``stop``: show the end of every log that grew, and keep what is before it. A failure is logged once and tried
    again later; a log that did not grow costs nothing, and one that was quiet is shown as soon as it grows.
    """
    segments = Segments(folder)
    shown: dict[str, int] = {}
    due_s: dict[str, float] = {}
    troubled = False
    started_s = monotonic_s()
    stop.wait(FIRST_LOOK_S)
    while not stop.is_set():
        for file in log_files(folder):
            size_bytes, now_s = file.size_bytes(), monotonic_s()
            if size_bytes is None or shown.get(file.name) == size_bytes or stop.is_set():
                continue
            if now_s < due_s.get(file.name, now_s):
                continue
            due_s[file.name] = now_s + max(SHORTEST_INTERVAL_S, INTERVAL_SHARE * (now_s - started_s))
            try:
                _show(file, segments, put)
                shown[file.name], troubled = size_bytes, False
            except (StoreError, LocalFileError, OSError) as trouble:
                logger.log(logging.DEBUG if troubled else logging.WARNING, "live log of %s: %s", file.name, trouble)
                troubled = True
        stop.wait(LOOK_S)


def _show(file: LogFile, segments: Segments, put: Put) -> None:
    """The end of a log, secrets masked: also one that is cut by the end's beginning or not yet written to its own end.

    What would be in no segment and not in the shown end either goes into a further segment first: whenever the pilot dies,
    all that there was lies in public.
    """
    with redactor.reading(file.open()) as opened:
        size_bytes = size_of(opened)
        first = _shown_from(opened, size_bytes, TAIL_BYTES)
        if segments.end_bytes(file.name) < first:
            segments.store(file.name, opened, line_end_before(opened, size_bytes), put)
        notice = _left_out(file.name, segments, first) if first else b""
        put(file.name, io.BytesIO(notice + part(opened, first, size_bytes)))


def whole_or_ends(log: str, content: BinaryIO, segments: Segments, put: Put) -> bool:
    """An ended job's log: its object gets the whole text, or of a large one both ends when all of it lies in segments.

    False: the segments there are have become superfluous. Raises what ``put`` does.
    """
    size_bytes = size_of(content)
    if size_bytes <= WHOLE_MAX_BYTES:
        put(log, content)
        return False
    segments.store(log, content, size_bytes, put)
    first_end = line_end_before(content, HEAD_BYTES)
    first = _shown_from(content, size_bytes, TAIL_BYTES - HEAD_BYTES)
    notice = _left_out(log, segments, first - first_end)
    put(log, io.BytesIO(part(content, 0, first_end) + notice + part(content, first, size_bytes)))
    return True


def _shown_from(content: BinaryIO, size_bytes: int, most_bytes: int) -> int:
    """Where the end that is shown begins, a line's beginning; 0 when all of it is shown."""
    return 0 if size_bytes <= most_bytes else line_start_after(content, size_bytes - most_bytes + NOTICE_BYTES)


def _left_out(log: str, segments: Segments, left_out_bytes: int) -> bytes:
    """The line in the place of what is not shown. A log that has become one by other means than growing has no segments."""
    names = segments.names(log)
    where = f"{names[0]} to {names[-1]}, beside this" if len(names) > 1 else f"{''.join(names)}, beside this"
    told = f"the whole text is in {where}" if names else "not shown"
    return f"[... {left_out_bytes} bytes are left out here: {told} ...]\n".encode()
