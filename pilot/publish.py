"""``pilot-publish``: put a payload image where pilots fetch it from, with its SHA-256 beside it. For operators; no pilot runs it.

The checksum goes first. A pilot that comes in between finds no image and says so; the other way round it would use one that
nothing vouches for. A published name stays what it is: retries of a job must run in the image of its first attempt.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilot.job.errors import ExitCode, PayloadError, PilotCannotWork
from pilot.options import BY_NAME
from pilot.payload.image import require_sif
from pilot.runtime.events import start_logging
from pilot.runtime.retry import TRANSFER, retry_call
from pilot.runtime.signals import stop_on_signals
from pilot.runtime.stop import Stop, StopKind, Stopped
from pilot.settings import close_back_doors, read_options
from pilot.storage.checksum import Checksums
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import AccessRefused, BadUrl, NotFound, ObjectHeaders, StoredObject, StoreError, Stores
from pilot.storage.transfer import open_regular
from pilot.storage.upload import send
from pilot.storage.urls import shown

STORAGE = ("gcs_endpoint", "google_application_credentials", "s3_endpoint", "s3_key_file", "storage_ca", "metadata_url")
BLOCK_BYTES = 1 << 20
UNCACHED = "no-cache"  # Google's caches would hand out what was there before for an hour


def build_parser() -> argparse.ArgumentParser:
    """The file, its place, and the pilot's own options of the stores; those work in the environment and settings file too."""
    parser = argparse.ArgumentParser(
        prog="pilot-publish",
        description="Put a payload image (SIF) into a bucket, with its SHA-256 beside it.",
        allow_abbrev=False,
    )
    parser.add_argument("image", type=Path, metavar="IMAGE.sif")
    parser.add_argument("url", metavar="URL", help="gs://bucket/name.sif or s3://bucket/name.sif")
    parser.add_argument("--replace", action="store_true", help="put it there although the name holds another image")
    for name in (*STORAGE, "config"):
        option = BY_NAME[name]
        parser.add_argument(option.flag, dest=name, metavar=option.metavar, help=option.help)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code. Prints the URL and the checksum, as ``sha256sum`` does."""
    given = build_parser().parse_args(arguments)
    flags = vars(given)
    try:
        chosen = read_options((*STORAGE, "config"), flags)
        close_back_doors()
        start_logging("WARNING")
        digest = _publish(given.image, given.url, given.replace, chosen)
    except PilotCannotWork as trouble:
        print(f"pilot-publish: {trouble}", file=sys.stderr)
        return int(trouble.exit_code)
    print(f"{digest}  {given.url}")
    return int(ExitCode.OK)


def _publish(image: Path, url: str, replace: bool, chosen: dict[str, Any]) -> str:
    """The image's SHA-256, once both objects are stored and verified. Raises PilotCannotWork with the sentence for people."""
    stop, stores = Stop(), open_stores(_storage_options(chosen))
    try:
        with stop_on_signals(stop):
            return publish(stores, image, url, stop, replace=replace)
    except Stopped as stopped:
        code = ExitCode.SIGINT if stopped.reason.kind is StopKind.SIGINT else ExitCode.SIGTERM
        raise PilotCannotWork(code, f"not published: {stopped}") from None
    except PayloadError as error:
        raise PilotCannotWork(ExitCode.MISSING_FILE, error.diagnosis.detail) from None
    except AccessRefused as error:
        raise PilotCannotWork(
            ExitCode.CREDENTIALS,
            f"{error}; --google-application-credentials or --s3-key-file name the key, which must be allowed to write there",
        ) from None
    except BadUrl as error:
        raise PilotCannotWork(ExitCode.USAGE, str(error)) from None
    except StoreError as error:
        raise PilotCannotWork(ExitCode.GENERAL, f"not published: {error}") from None
    finally:
        stores.close()


def _storage_options(chosen: dict[str, Any]) -> StorageOptions:
    ca = chosen["storage_ca"]
    return StorageOptions(
        ca_path=None if ca is None else str(ca),
        s3_endpoint=chosen["s3_endpoint"],
        s3_key_file=chosen["s3_key_file"],
        gcs_endpoint=chosen["gcs_endpoint"],
        gcs_key_file=chosen["google_application_credentials"],
        metadata_url=chosen["metadata_url"],
    )


def publish(stores: Stores, image: Path, url: str, stop: Stop, *, replace: bool = False) -> str:
    """Store ``<url>.sha256``, then the image; its SHA-256. Raises PayloadError, StoreError, PilotCannotWork, Stopped."""
    require_sif(image)
    content = _checksums(image, stop)
    digest = str(content.get("sha256")).partition(":")[2]
    there = _stored(stores, url, stop)
    same = there is not None and _is(there, content, image.stat().st_size)
    if there is not None and not same and not replace:
        known = (
            "is another image already" if there.checksums else "is there already, and its store tells no checksum of it"
        )
        raise PilotCannotWork(
            ExitCode.GENERAL,
            f"{shown(url)} {known}: choose a new name, so that retries of jobs find the image of their first attempt, or say "
            "--replace",
        )
    line = io.BytesIO(f"{digest}  {url.rpartition('/')[2]}\n".encode())
    send(stores, line, f"{url}.sha256", stop, headers=ObjectHeaders("text/plain; charset=utf-8", UNCACHED))
    if not same:
        send(stores, image, url, stop, headers=ObjectHeaders(cache_control=UNCACHED))
    return digest


def _checksums(path: Path, stop: Stop) -> Checksums:
    """SHA-256, and what the stores know of their objects."""
    content = Checksums(("sha256", "crc32c", "md5"))
    with open_regular(path) as file:
        while block := file.read(BLOCK_BYTES):
            stop.check()
            content.update(block)
    return content


def _stored(stores: Stores, url: str, stop: Stop) -> StoredObject | None:
    try:
        return retry_call(lambda: stores.for_url(url).stat(url, stop), TRANSFER, stop)
    except NotFound:
        return None


def _is(there: StoredObject, content: Checksums, size_bytes: int) -> bool:
    """Whether the stored object has this content, as far as its store tells; one that tells no checksum is taken for another."""
    agreeing = [content.mismatch(checksum) is None for checksum in there.checksums]
    return there.size_bytes == size_bytes and bool(agreeing) and all(agreeing)
