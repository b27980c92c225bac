"""``pilot-start``: the first lines. A health check must not pay for what only a pilot needs, so it branches off here."""

from __future__ import annotations

import sys


def entry() -> None:
    """The command's entry point; leaves with its exit code."""
    if "--healthcheck" in sys.argv[1:]:
        from pilot.runtime.health import healthcheck

        sys.exit(healthcheck(sys.argv[1:]))
    from pilot.cli import entry as start

    start()
