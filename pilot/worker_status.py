"""Tells the PanDA server that Harvester's worker has started and, whatever becomes of it, that it has finished.

The server knows these two states and no other, takes them only with both Harvester ids, and needs no job for either (server
rule, panda-wire section 6). So they frame all that a pilot does with the server, a queue that turns out to be offline
included: a worker that left early must not be shown as running. Neither may cost time: ``started`` goes out beside the rest,
both are given up soon, and a failure is logged and nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pilot.ports import PandaServer, ServerRefused, ServerUnreachable
from pilot.runtime.loops import Helpers
from pilot.runtime.stop import Stop, StopKind, StopReason

logger = logging.getLogger("pilot.worker")

STARTED, FINISHED = "started", "finished"
BOUND_S = 10.0  # for the last word, when there is time
HURRIED_BOUND_S = 2.0


@contextmanager
def worker_told(
    server: PandaServer, harvester_id: str | None, worker_id: int | None, site: str, node: str, worker_stop: Stop
) -> Iterator[None]:
    """While inside, the worker is one that has started; nothing is told when an id is missing."""
    if harvester_id is None or worker_id is None:
        yield
        return

    def tell(status: str, stop: Stop) -> None:
        try:
            server.worker_status(harvester_id, worker_id, status, site, node, stop)
        except (ServerUnreachable, ServerRefused) as trouble:
            logger.warning("worker status %s not delivered: %s", status, trouble)

    def tell_both(duty: Stop) -> None:
        tell(STARTED, duty)
        duty.wait(None)
        tell(FINISHED, last_word)

    last_word, helpers = Stop(), Helpers(Stop())
    teller = helpers.start("worker-status", tell_both)
    try:
        yield
    finally:
        helpers.finish(teller, HURRIED_BOUND_S if worker_stop.is_set() else BOUND_S)
        last_word.request(StopReason(StopKind.PAYLOAD_DONE))
