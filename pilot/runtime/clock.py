"""Time, as the parts ask for it: monotonic for waits and limits, wall clock for records and people."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def monotonic_s() -> float:
    """Seconds that never step; the only clock for waits, limits and durations."""
    return time.monotonic()


def utc_now() -> datetime:
    """The wall clock in UTC; for records and reports only, never for waits."""
    return datetime.now(UTC)


def server_time(moment: datetime) -> str:
    """``YYYY-MM-DD HH:MM:SS`` in UTC: the only form the server does not drop silently (server rule)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
