"""Where a job's ``replay.json`` is: at the address of its logs, in a ``log.tgz``; of a PandaID: where its queue keeps them."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pilot.cric.client import CricClient
from pilot.job.endpoint import log_object, public_base, public_url
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import Attempt
from pilot.job.queue import Transfer, storages_for
from pilot.job.replay import MAX_DOCUMENT_BYTES, REPLAY_NAME, Replay, read_replay
from pilot.panda.auth import Credentials
from pilot.panda.client import PandaClient
from pilot.ports import ServerRefused, ServerUnreachable
from pilot.replay.bundle import read_document
from pilot.runtime.loops import run_stage
from pilot.runtime.stop import Stop
from pilot.settings import Settings
from pilot.storage.download import fetch
from pilot.storage.store import AccessRefused, NotFound, StoreError, Stores

SHORTEST_CERTIFICATE_S = 10.0
REMOTE_SCHEMES = ("https", "gs", "s3")
BUNDLE_NAME = "log.tgz"
MAX_BUNDLE_BYTES = 256 << 20
_FOLDER = re.compile(r"(?P<folder>[a-z0-9]+://.+/(?P<queue>[A-Za-z0-9_.-]{1,100})/PandaJob_[0-9]{1,19})(?:/.*)?")


@dataclass(frozen=True, slots=True)
class Found:
    """A job that can be run again, and where it was found. ``bundle``: the log.tgz of this machine that it came from."""

    replay: Replay
    where: str
    bundle: Path | None = None


def queue_in(target: str) -> str | None:
    """The queue that the address of a job's logs names; None when it names none."""
    found = _FOLDER.fullmatch(target)
    return found["queue"] if found else None


def is_remote(target: str) -> bool:
    return "://" in target


def find(target: str, settings: Settings, stores: Stores, stop: Stop) -> Found:
    """The job of ``target``: the address of its logs' folder or of an object in it, a log.tgz, or a PandaID.

    Raises PilotCannotWork, Stopped.
    """
    if is_remote(target):
        return _at(folder_of(target), stores, stop)
    if target.isascii() and target.isdigit() and len(target) < 20:
        return _at(folder_of(public_logs(int(target), settings, stop)), stores, stop)
    bundle = Path(target).expanduser()
    return Found(_read(read_document(bundle), str(bundle)), str(bundle), bundle)


def folder_of(url: str) -> str:
    """The folder of a job's logs, given the folder's own address or that of an object in it. Raises PilotCannotWork."""
    parts = urlsplit(url)
    if parts.scheme not in REMOTE_SCHEMES or not parts.netloc or parts.username or parts.password:
        raise PilotCannotWork(
            ExitCode.USAGE,
            f"{url[:200]!r} is no address of logs: give the https:// (or gs://, s3://) address of a job's folder or of a file in "
            "it, a log.tgz, or a PandaID",
        )
    plain = url.partition("?")[0].partition("#")[0]
    found = _FOLDER.fullmatch(plain)
    if found:
        return found["folder"]
    return plain.rstrip("/") if plain.endswith("/") or "." not in plain.rpartition("/")[2] else plain.rpartition("/")[0]


def _at(folder: str, stores: Stores, stop: Stop) -> Found:
    """The document in a folder of logs, or in the bundle there."""
    with tempfile.TemporaryDirectory(prefix="pilot-replay-") as scratch:
        document, bundle = Path(scratch, REPLAY_NAME), Path(scratch, BUNDLE_NAME)
        if _fetched(f"{folder}/{REPLAY_NAME}", document, MAX_DOCUMENT_BYTES, stores, stop):
            return Found(_read(document.read_bytes(), f"{folder}/{REPLAY_NAME}"), folder)
        if _fetched(f"{folder}/{BUNDLE_NAME}", bundle, MAX_BUNDLE_BYTES, stores, stop):
            return Found(_read(read_document(bundle), f"{folder}/{BUNDLE_NAME}"), folder)
    raise PilotCannotWork(
        ExitCode.MISSING_FILE,
        f"there is neither {REPLAY_NAME} nor {BUNDLE_NAME} in {folder}: is the address right, and was the job run by a pilot "
        "that leaves one? A job that could not be read at all leaves none",
    )


def _fetched(url: str, target: Path, max_bytes: int, stores: Stores, stop: Stop) -> bool:
    """False when there is no such object (a bucket that may not be listed says 403 of it)."""
    try:
        run_stage("fetch", lambda: fetch(stores, url, target, stop, max_bytes=max_bytes), stop)
    except (NotFound, AccessRefused):
        return False
    except StoreError as error:
        raise PilotCannotWork(ExitCode.MISSING_FILE, f"the logs cannot be read: {error}") from None
    return True


def _read(text: bytes, where: str) -> Replay:
    try:
        found = read_replay(json.loads(text))
    except (ValueError, RecursionError) as error:
        found = f"it is no JSON ({str(error)[:100]})"
    if isinstance(found, str):
        raise PilotCannotWork(ExitCode.MISSING_FILE, f"{where} cannot be used: {found}")
    return found


# --- a PandaID --------------------------------------------------------------------------------------------------------


def public_logs(panda_id: int, settings: Settings, stop: Stop) -> str:
    """Where the queue's jobs have their public logs, for a job that the server knows. Raises PilotCannotWork, Stopped."""
    run_stage("server", lambda: _require_known(panda_id, settings, stop), stop)
    ca = str(settings.ca) if settings.ca else None
    cric = CricClient(settings.cric, settings.server, settings.workdir / "cric", ca=ca, bucket_url=settings.cric_bucket)
    queue = run_stage("cric", lambda: cric.queue(settings.queue, stop), stop)
    names = storages_for(queue, Transfer.LOG)
    if not names:
        raise PilotCannotWork(ExitCode.BAD_QUEUEDATA, f"queue {queue.name} has no storage for logs in CRIC (astorages)")
    endpoint = run_stage("cric", lambda: cric.endpoint(names[0], stop), stop)
    return public_url(public_base(endpoint, settings.log_url_base), log_object(queue.name, panda_id, REPLAY_NAME))


def _require_known(panda_id: int, settings: Settings, stop: Stop) -> None:
    credentials = _credentials(settings)
    client = PandaClient(settings.server, settings.api, credentials, ca=str(settings.ca) if settings.ca else None)  # type: ignore[arg-type]
    try:
        status = client.job_status(Attempt(panda_id, 0), client.generation(stop), stop).status
    except (ServerUnreachable, ServerRefused) as trouble:
        raise PilotCannotWork(ExitCode.SERVER_COMMUNICATION, str(trouble)) from None
    finally:
        client.close()
    if status is None:
        raise PilotCannotWork(
            ExitCode.MISSING_FILE,
            f"the PanDA server {', '.join(settings.server)} knows no job {panda_id}: it may be older than its archive, so give "
            "the address of its logs instead",
        )


def _credentials(settings: Settings) -> Credentials:
    credentials = Credentials.given(
        settings.x509_proxy, settings.cert, settings.key, settings.token_file, settings.origin
    )
    credentials.check(SHORTEST_CERTIFICATE_S)
    return credentials
