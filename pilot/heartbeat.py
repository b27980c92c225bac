"""The heartbeat of a job: tells the server the state at once when it changes and every interval otherwise."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping

from pilot.job.model import ApiGeneration
from pilot.job.report import FieldValue
from pilot.job.states import JobState, may_move
from pilot.ports import PandaServer, ServerRefused, ServerUnreachable, UpdateAnswer
from pilot.runtime.clock import monotonic_s
from pilot.runtime.progress import board
from pilot.runtime.stop import Stop, StopReason

logger = logging.getLogger("pilot.heartbeat")

JITTER = 0.1  # a tenth of the interval, so that a thousand pilots do not beat together
PROMPT_PAUSE_S = 0.5  # before answering a server that asks for something with every answer


class Heartbeat:
    """One helper loop a job. ``fields(state)`` gives an update's fields; ``obey`` gets each answer's commands.

    ``interval_s`` is asked before each wait. When ``obey`` is True the server wants to be answered at once.
    ``lost`` is called once, when the server has taken no update for ``silence_s``: by then it may have given the job to
    another pilot (server rule: two hours).
    """

    def __init__(
        self,
        server: PandaServer,
        api: ApiGeneration,
        fields: Callable[[JobState], Mapping[str, FieldValue]],
        obey: Callable[[UpdateAnswer], bool],
        interval_s: Callable[[], float],
        silence_s: float,
        lost: Callable[[float], None],
    ) -> None:
        self._server = server
        self._api = api
        self._fields = fields
        self._obey = obey
        self._interval_s = interval_s
        self._silence_s = silence_s
        self._lost = lost
        self._state = JobState.STARTING
        self._wake = threading.Event()
        self._last_heard_s = monotonic_s()

    def announce(self, state: JobState) -> None:
        """The job's state is now ``state``; it goes out at once, without blocking the caller."""
        if may_move(self._state, state):
            self._state = state
            self._wake.set()

    def answer_soon(self) -> None:
        """The server asked for something: the next update goes out without waiting for its time."""
        self._wake.set()

    @property
    def silent_for_s(self) -> float:
        """Seconds since the server last took an update."""
        return monotonic_s() - self._last_heard_s

    def heard(self) -> None:
        """The server has just taken an update of this job, sent here or by another part."""
        self._last_heard_s = board.heard_s = monotonic_s()

    def beat(self, stop: Stop) -> None:
        """The loop: returns when ``stop`` is requested. A beat that fails is logged; the next one comes in its time."""
        stop.follow(self._on_stop)
        board.heard_s = self._last_heard_s
        asked_in_a_row = 0
        while not stop.is_set():
            self._wake.wait(self._pause_s(asked_in_a_row))
            self._wake.clear()
            if not stop.is_set():
                asked_in_a_row = asked_in_a_row + 1 if self._send(stop) else 0

    def _pause_s(self, asked_in_a_row: int) -> float:
        if asked_in_a_row:
            return 0.0 if asked_in_a_row == 1 else PROMPT_PAUSE_S
        return self._interval_s() * (1 + random.uniform(-JITTER, JITTER))

    def _on_stop(self, _reason: StopReason) -> None:
        self._wake.set()

    def _send(self, stop: Stop) -> bool:
        """Send one update; True when its answer wants to be answered."""
        try:
            answer = self._server.update(self._fields(self._state), self._api, stop)
        except (ServerUnreachable, ServerRefused) as trouble:
            logger.warning("heartbeat not delivered (last one %.0f s ago): %s", self.silent_for_s, trouble)
            if self.silent_for_s > self._silence_s:
                self._lost(self.silent_for_s)
            return False
        self.heard()
        return self._obey(answer)
