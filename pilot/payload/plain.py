"""A payload without a container of the pilot's: bash in the work folder. Rubin's own commands start theirs themselves."""

from __future__ import annotations

import shutil

from pilot.job.errors import PayloadError, PilotError
from pilot.payload.command import Command
from pilot.payload.environment import DEFAULT_PATH, PayloadEnvironment
from pilot.payload.folder import PayloadPlaces
from pilot.payload.process import Launch, guarded

SCRIPT_NAME = "payload.sh"


def plain_launch(command: Command, environment: PayloadEnvironment, places: PayloadPlaces, tracking_id: str) -> Launch:
    """What to start. The command is in a file and not in argv: anybody may read an argv, and its length is bounded."""
    bash = shutil.which("bash", path=DEFAULT_PATH)
    if bash is None:
        raise PayloadError(PilotError.SETUP_FAILURE, "bash is missing here, and Rubin's payload commands need it")
    script = places.control / SCRIPT_NAME
    script.write_text(command.text + "\n", encoding="utf-8", errors="surrogateescape")
    return Launch(
        argv=guarded((bash, str(script))),
        environment=environment.revealed(),
        folder=places.work,
        stdout=places.stdout,
        stderr=places.stderr,
        tracking_id=tracking_id,
    )
