"""A payload without a container of the pilot's: bash in the work folder. Rubin's own commands start theirs themselves."""

from __future__ import annotations

import os
import shutil

from pilot.job.errors import PayloadError, PilotError
from pilot.payload.command import Command
from pilot.payload.environment import PayloadEnvironment
from pilot.payload.folder import PayloadPlaces
from pilot.payload.landlock import Closed
from pilot.payload.programs import DEFAULT_PATH
from pilot.payload.rungs import DEVICES, Account, Plain
from pilot.payload.start import Launch, guarded

SCRIPT_NAME = "payload.sh"


def plain_launch(
    command: Command,
    environment: PayloadEnvironment,
    places: PayloadPlaces,
    tracking_id: str,
    rung: Plain,
    readable: list[str],
    writable: list[str],
    max_processes: int = 0,
) -> Launch:
    """What to start. The command is in a file and not in argv: anybody may read an argv, and its length is bounded.

    ``readable`` and ``writable``: places a payload on rung C sees beside its own folders. ``max_processes``: rung B's own
    count, which is the kernel's per user; 0: no limit.
    """
    bash = shutil.which("bash", path=DEFAULT_PATH)
    if bash is None:
        raise PayloadError(PilotError.SETUP_FAILURE, "bash is missing here, and Rubin's payload commands need it")
    script = places.control / SCRIPT_NAME
    script.unlink(missing_ok=True)
    script.write_text(command.text + "\n", encoding="utf-8", errors="surrogateescape")
    script.chmod(0o600)
    read = ("/",) if rung.account else (*readable, str(script))
    write = (str(places.work), str(places.scratch), *DEVICES, *writable)
    closed = Closed(read, write, keep_capabilities=rung.account is not None) if rung.landlock else None
    try:
        if rung.account is not None:
            _open_to(rung.account, places)
        argv = guarded((bash, str(script)), rung.account, max_processes)
    except OSError as error:
        raise PayloadError(PilotError.SETUP_FAILURE, f"{error.filename}: {error.strerror}") from error
    return Launch(
        argv=argv,
        environment=environment.revealed(),
        folder=places.work,
        stdout=places.stdout,
        stderr=places.stderr,
        tracking_id=tracking_id,
        umask=rung.umask,
        account=rung.account,
        closed=closed,
    )


def _open_to(account: Account, places: PayloadPlaces) -> None:
    """The other user's way through our folders: it may pass, not look; its own folders are its group's. Raises OSError."""
    account.hand_over(places.work, places.scratch, places.tmp, places.home)
    jobs = places.folder.root.parent
    for folder in (jobs.parent, jobs, places.folder.root, places.control):
        folder.chmod(0o711)
    for secret in jobs.parent.iterdir():
        if secret.is_dir() and not secret.is_symlink() and secret.name not in (jobs.name, "images"):
            secret.chmod(0o700)
    script = places.control / SCRIPT_NAME
    os.chown(script, -1, account.gid)
    script.chmod(0o640)
