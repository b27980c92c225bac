"""Many pilots in one process: ``python -m tests.bench.fleet_pilots ORDER.json``. Each is the real loop of pilot/worker.py
with the real client of pilot/panda, on a thread of its own with a work folder of its own. They are given no jobs.

Writes every pilot's requests as ``[began, took in seconds, outcome]`` when its time is over.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pilot.cric.parse import parse_queue
from pilot.jobrun import JobParts
from pilot.panda.auth import Credentials, X509Credentials
from pilot.panda.client import PandaClient
from pilot.ports import Acquired, AcquireRequest, NoJob, PandaServer, ServerRefused, ServerUnreachable
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import WorkVolume
from pilot.worker import Worker, WorkerPlan

STACK_BYTES = 512 << 10  # of a thread: there are hundreds
NONE, JOB, TROUBLE = "none", "job", "trouble"


@dataclass(frozen=True)
class Order:
    """What a process of pilots is to do. Times in seconds since 1970."""

    server: str
    cert: str
    key: str
    ca: str
    queue: dict[str, Any]
    folder: str
    pilots: int
    wait_s: float  # the shortest one after an empty answer
    begin_from: float  # each begins at a random moment between these two
    begin_to: float
    end: float
    result: str


@dataclass
class TimedServer:
    """The real client; every request for a job is written down. What else a worker may ask is not asked here."""

    client: PandaClient
    requests: list[tuple[float, float, str]] = field(default_factory=list)

    def acquire(self, request: AcquireRequest, stop: Stop) -> Acquired | NoJob:
        began, begun_s, outcome = time.time(), time.monotonic(), TROUBLE
        try:
            answer = self.client.acquire(request, stop)
            outcome = JOB if isinstance(answer, Acquired) else NONE
            return answer
        except (ServerUnreachable, ServerRefused):
            raise
        finally:
            self.requests.append((began, time.monotonic() - begun_s, outcome))


class SimulatedPilot:
    """One pilot's life without its start: the worker, its client, its volume."""

    def __init__(self, order: Order, number: int, plan: WorkerPlan) -> None:
        root = Path(order.folder) / f"pilot{number}"
        root.mkdir()
        # One reserve on the disk for all of them: sixteen megabytes each would be a lot.
        os.link(Path(order.folder) / "reserve", root / "reserve")
        credentials = Credentials(X509Credentials(Path(order.cert), Path(order.key)), None)
        self.server = TimedServer(PandaClient((order.server,), "auto", credentials, order.ca))
        volume = WorkVolume(root)
        volume.jobs.mkdir()
        self.stop = Stop()
        self._worker = Worker(
            plan, cast(PandaServer, self.server), _no_job, volume, self.stop, lambda _worker, _record: None
        )

    def live(self, begin_at: float) -> None:
        if not self.stop.wait(max(0.0, begin_at - time.time())):
            self._worker.live()
        self.server.client.close()


def _no_job() -> JobParts:
    raise AssertionError("there is no job here")


def plan_of(document: dict[str, Any], wait_s: float) -> WorkerPlan:
    """A worker that stays when there is nothing."""
    queue = parse_queue(document, next(iter(document)))
    return WorkerPlan(
        queue, "managed", None, "SCORE", None, None, "node", None,
        max_jobs=0, max_empty=1_000_000, empty_wait_s=wait_s, lifetime_s=0.0, time_floor_s=0.0,
        final_retry_s=3600.0, disk_limit_bytes=None,
    )  # fmt: skip


def run(order: Order) -> list[list[tuple[float, float, str]]]:
    """The requests of each pilot."""
    threading.stack_size(STACK_BYTES)
    folder = Path(order.folder)
    folder.mkdir(parents=True)
    WorkVolume(folder).keep_reserve()
    plan = plan_of(order.queue, order.wait_s)
    pilots = [SimulatedPilot(order, number, plan) for number in range(order.pilots)]
    threads = [_started(pilot.live, random.uniform(order.begin_from, order.begin_to)) for pilot in pilots]
    time.sleep(max(0.0, order.end - time.time()))
    for pilot in pilots:
        pilot.stop.request(StopReason(StopKind.SIGTERM))
    for thread in threads:
        thread.join(60.0)
    return [pilot.server.requests for pilot in pilots]


def _started(body: Callable[[float], None], begin_at: float) -> threading.Thread:
    thread = threading.Thread(target=body, args=(begin_at,), daemon=True)
    thread.start()
    return thread


def main() -> int:
    logging.disable(logging.CRITICAL)
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    Path(order.result).write_text(json.dumps(run(order)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
