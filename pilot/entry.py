"""``pilot-start``: the first lines. A health check must not pay for what only a pilot needs, so it branches off here."""

from __future__ import annotations

import os
import signal
import sys


def entry() -> None:
    """The command's entry point; leaves with its exit code."""
    if "--healthcheck" in sys.argv[1:]:
        from pilot.runtime.health import healthcheck

        sys.exit(healthcheck(sys.argv[1:]))
    # The kernel drops a SIGTERM for process 1 that has no handler. Were it lost in the first second, the pilot of a pod that is
    # being removed would take a job and be killed with it.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(128 + signal.SIGTERM))
    from pilot.cli import entry as start

    start()
