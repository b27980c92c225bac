"""A pilot program that freezes on purpose: ``freezing.py PLAN.json <options of pilot-start>``.

One thread of it takes a lock that nobody gives back, as a deadlock does, and the file ``frozen`` says so. The plan names a
point of the fault laboratory, or a part whose loop is to freeze, and makes the pulse quick, so that a test need not wait a
minute.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pilot.runtime.probe import Point, install

# The loops beside the conductor: what freezes there is the next call of this.
LOOPS = {
    "heartbeat": ("pilot.heartbeat", "Heartbeat", "_send"),
    "log-pump": ("pilot.logs.upload", "PublicLogs", "follow"),
    "monitor": ("pilot.payload.monitor", "Monitor", "_sample_on"),
    "acquire": ("pilot.panda.client", "PandaClient", "acquire"),
    "setup": ("pilot.payload.runtime", "PayloadRunner", "prepare"),
    "logs": ("pilot.logs.upload", "PublicLogs", "store"),
    "worker-status": ("pilot.panda.client", "PandaClient", "worker_status"),
    "cric": ("pilot.cric.client", "CricClient", "queue"),
    "clear-away": ("pilot.runtime.workdir", "WorkVolume", "archive"),
}


class Freezer:
    """Deadlocks the thread that calls it, once."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark
        self._lock = threading.Lock()
        self._lock.acquire()
        self.frozen = False

    def __call__(self, *_: Any, **__: Any) -> None:
        if self.frozen:
            return
        self.frozen = True
        ready = self._mark.with_suffix(".new")
        ready.write_text(threading.current_thread().name)
        ready.rename(self._mark)
        self._lock.acquire()


def freeze_point(freeze: Callable[..., None], name: str) -> None:
    def reached(point: Point) -> None:
        if point.name == name:
            freeze()

    install(reached)


def freeze_loop(freeze: Callable[..., None], name: str) -> None:
    import importlib

    module, owner, method = LOOPS[name]
    setattr(getattr(importlib.import_module(module), owner), method, freeze)


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    import pilot.app as app
    from pilot.runtime.health import Signature
    from pilot.runtime.pulse import pulse_of_this_thread

    quick = {
        "pulse_of_this_thread": partial(pulse_of_this_thread, every_s=plan["every_s"]),
        "Signature": partial(Signature, stale_after_s=plan["stale_after_s"]),
    }
    for name, part in quick.items():
        setattr(app, name, part)
    freezer = Freezer(Path(plan["mark"]))
    if plan["at"] in LOOPS:
        freeze_loop(freezer, plan["at"])
    elif plan["at"]:
        freeze_point(freezer, plan["at"])
    from pilot.cli import main as pilot_start

    code = pilot_start(sys.argv[2:])
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
