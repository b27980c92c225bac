"""Sizes, times and rates as people read them. A MB is 2**20 bytes here, as in PanDA's own sentences."""

from __future__ import annotations

import json
import re
import time

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STEP = 1024.0
# Terminal colours and the like, and what no text should hold: control characters, lone surrogates, direction overrides.
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
LONGEST_LINE_CHARS = 1000
RECORD_MAX_CHARS = 64 << 10


def size(size_bytes: float | None) -> str:
    """``3.52 GB``: three digits."""
    if size_bytes is None:
        return "unknown"
    value, unit = float(size_bytes), 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value /= _STEP
        unit += 1
    return f"{value:.0f} B" if unit == 0 else f"{_three(value)} {_UNITS[unit]}"


def rate(bytes_per_s: float) -> str:
    return f"{size(bytes_per_s)}/s"


def duration(seconds: float | None) -> str:
    """``0.45 s``, ``12.3 s``, ``4 min 05 s``, ``12 h 03 min``, ``3 d 04 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds else "0 s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def moment(seconds_since_1970: float | None) -> str:
    """``2026-11-27 02:00:54 UTC``."""
    if seconds_since_1970 is None:
        return "unknown"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds_since_1970))
    except (OverflowError, ValueError, OSError):
        return "unknown"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole > 0 else "unknown"


def number(value: float) -> str:
    """``2``, ``0.25``, ``1.5``."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def plain(text: str) -> str:
    """Text without terminal escapes and without characters that no page should hold; line ends and tabs stay."""
    if text.isprintable():  # as nearly all are; no control character is
        return text
    return _UNPRINTABLE.sub(
        "\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    )


def last_lines(tail: bytes, most: int, whole: bool) -> tuple[str, ...]:
    """The last lines of a log's tail, as text that can be shown. ``whole``: the tail is all there is of the log.

    A line cut off by the tail's beginning is left out, an overlong one is cut. Records of a JSON log are shown as
    ``time LEVEL name: message``.
    """
    lines = plain(tail.decode("utf-8", "replace")).split("\n")
    if not whole and len(lines) > 1:
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(_cut(_record(line)) for line in lines[-most:])


def _record(line: str) -> str:
    """A JSON log record as a line for people; any other line as it is."""
    if not line.startswith('{"') or len(line) > RECORD_MAX_CHARS or line.count("[") + line.count("{") > 1000:
        return line
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(record, dict) or not isinstance(record.get("message"), str):
        return line
    head = " ".join(str(record[name]) for name in ("asctime", "levelname", "name") if isinstance(record.get(name), str))
    return f"{head}: {record['message']}" if head else str(record["message"])


def _cut(line: str) -> str:
    left = len(line) - LONGEST_LINE_CHARS
    return line if left <= 0 else f"{line[:LONGEST_LINE_CHARS]} ({left} more characters)"


def _three(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
