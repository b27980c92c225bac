"""Whether payloads may run here as is required. It is known before any job is asked for, and without what runs a payload:
a pilot that gets no job never imports that.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pilot.job.errors import PayloadError, PilotError
from pilot.payload import programs, rungs
from pilot.payload.rungs import Level, Plain

logger = logging.getLogger("pilot.payload")


@dataclass(frozen=True, slots=True)
class Demands:
    """What the settings ask of the node.

    ``required``: the lowest rung a payload may run on (rungs.py); ``user``: whose it is on rung B; ``private``: the pilot's
    credential files; ``own_containers``: payloads start containers of their own; ``image_named``: theirs run in one.
    """

    required: Level = Level.D
    user: str | None = None
    private: tuple[Path, ...] = ()
    own_containers: bool = False
    image_named: bool = False


class Readiness:
    """What the node permits; what was found out is remembered."""

    def __init__(self, demands: Demands) -> None:
        self._demands = demands
        self._plain: Plain | None = None

    def plain(self, volume: Path) -> Plain:
        """The rung of payloads without a container, with their folders on this volume. Raises PayloadError."""
        if self._plain is None:
            demands = self._demands
            try:
                account = rungs.payload_account(demands.user)
            except ValueError as error:
                raise PayloadError(PilotError.SETUP_FAILURE, f"payload_user: {error}") from error
            self._plain = rungs.plain_rung(
                rungs.Node.of_this_process(), account, volume, demands.private, own_containers=demands.own_containers
            )
            logger.info("payloads without a container run on rung %s", self._plain)
            for level, reason in self._plain.lacks.items():
                if reason:
                    logger.info("rung %s is not to be had: %s", level.name, reason)
        return self._plain

    def refusal(self, volume: Path) -> str:
        """Why no payload may run here as it is required; empty: they may. Raises PayloadError for a user that is none."""
        missing = programs.lacking()
        if self._demands.image_named and not missing:
            return ""
        # without an image of its own the queue's jobs may still bring one, but those that do not would all fail
        named = "" if self._demands.image_named else "no image is named (--image, or image in the queue's settings)"
        why_no_container = "; ".join(word for word in (named, missing) if word)
        return rungs.refusal(self._demands.required, self.plain(volume), why_no_container)
