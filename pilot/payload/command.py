"""What a job runs: ``transformation`` and ``jobPars`` -> the text of a bash script, and the transform it may need.

Rubin's jobs name ``bash-c``, ``bash-c-enc`` or ``bash-c-enc-new`` (ctrl_bps_panda). Those three only hand their
parameters to a shell, so the pilot does it itself: nothing to download, and nothing that can fail to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pilot.job.errors import PayloadError, PilotError
from pilot.job.model import Job
from pilot.runtime.http import OversizedAnswer, Session, TlsError, call
from pilot.runtime.retry import SERVER_CALL, RetryableError, retry_call
from pilot.runtime.stop import Stop

if TYPE_CHECKING:
    from pilot.runtime.http import Answer

DEFAULT_TRANSFORM_BASES = (
    "https://storage.googleapis.com/drp-us-central1-containers",
    "https://pandaserver-doma.cern.ch/trf",
    "https://pandaserver.cern.ch/trf",
    "http://pandaserver.cern.ch:25080/trf",
)
MAX_TRANSFORM_BYTES = 10 << 20

_PLAIN_SHELLS = frozenset({"bash-c"})
_BASE64_SHELLS = frozenset({"bash-c-enc", "bash-c-enc-new"})
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")


@dataclass(frozen=True, slots=True)
class Command:
    """``text``: what bash is to run in the work folder. ``transform``: a file to put there first, under its own name."""

    text: str
    transform: Path | None = None
    transform_name: str = ""


@dataclass(frozen=True, slots=True)
class TransformSource:
    """Where transforms may come from: URL prefixes, the folder they are kept in, the CA bundle for TLS."""

    folder: Path
    bases: tuple[str, ...] = DEFAULT_TRANSFORM_BASES
    ca_path: str | None = None


def resolve(job: Job, source: TransformSource, stop: Stop) -> Command:
    """What this job runs. Raises PayloadError: 1110 when there is nothing sensible to run, 1149 when a download failed."""
    transformation = _given(job.transformation)
    name = transformation.split("?")[0].rstrip("/").rpartition("/")[2]
    if name in _BASE64_SHELLS:
        return Command(_checked(_from_base64(name, job.parameters)))
    if name in _PLAIN_SHELLS:
        return Command(_checked(_unescaped(_given(job.parameters))))
    if "://" in transformation:
        file = fetch_transform(transformation, name, source, stop)
        return Command(_checked(f"./{name} {_given(job.parameters)}".rstrip()), file, name)
    return Command(_checked(f"{transformation} {_given(job.parameters)}".strip()))


def _given(text: str) -> str:
    """The dispatcher writes NULL where it has nothing."""
    text = text.strip()
    return "" if text == "NULL" else text


def _checked(text: str) -> str:
    if not text.strip():
        raise PayloadError(PilotError.SETUP_FAILURE, "the job names no command: transformation and jobPars are empty")
    if "\0" in text:
        raise PayloadError(PilotError.SETUP_FAILURE, "the job's command holds a NUL byte, which no shell can take")
    return text


def _from_base64(name: str, parameters: str) -> str:
    """The shell text in the first word of jobPars, strictly decoded: half a command is worse than none."""
    words = _given(parameters).split()
    if not words:
        raise PayloadError(PilotError.SETUP_FAILURE, f"jobPars is empty, but {name} needs a base64 text")
    try:
        return base64.b64decode(words[0].strip("'\""), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise PayloadError(PilotError.SETUP_FAILURE, f"jobPars of {name} is not base64 of a text: {error}") from error


def _unescaped(parameters: str) -> str:
    """``bash-c`` parameters may come URL-encoded (encJobParams): then they hold escapes and not a single blank."""
    if _ESCAPE.search(parameters) and not any(character.isspace() for character in parameters):
        return unquote(parameters, errors="strict") if _decodes(parameters) else parameters
    return parameters


def _decodes(parameters: str) -> bool:
    try:
        unquote(parameters, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def allowed_transform(url: str, bases: tuple[str, ...]) -> bool:
    """True when ``url`` lies below one of ``bases``: same scheme and host, path prefix, no dots, no user, no query."""
    parts = urlsplit(url)
    if parts.username or parts.query or parts.fragment or ".." in unquote(parts.path).split("/"):
        return False
    for base in bases:
        known = urlsplit(base)
        same_place = (parts.scheme.lower(), parts.netloc.lower()) == (known.scheme.lower(), known.netloc.lower())
        if same_place and parts.path.startswith(known.path.rstrip("/") + "/"):
            return True
    return False


def fetch_transform(url: str, name: str, source: TransformSource, stop: Stop) -> Path:
    """The transform as an executable file, downloaded once per folder. Raises PayloadError 1149 with the cause."""
    if not url.startswith(("http://", "https://")) or not allowed_transform(url, source.bases):
        raise PayloadError(
            PilotError.TRF_DOWNLOAD_FAILURE, f"{url[:200]} is not below an allowed place (transform_bases)"
        )
    if not _FILE_NAME.fullmatch(name):
        raise PayloadError(PilotError.TRF_DOWNLOAD_FAILURE, f"{url[:200]} does not end in a usable file name")
    kept = source.folder / hashlib.sha256(url.encode()).hexdigest()
    if kept.is_file():
        return kept
    body = _download(url, source.ca_path, stop)
    source.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = kept.with_suffix(".part")
    part.write_bytes(body)
    part.chmod(0o755)
    part.rename(kept)
    return kept


def _download(url: str, ca_path: str | None, stop: Stop) -> bytes:
    def attempt() -> Answer:
        answer = call(session, "GET", url, max_bytes=MAX_TRANSFORM_BYTES, allow_redirects=True)
        if answer.retryable:
            raise RetryableError(f"{url} answered HTTP {answer.status}")
        return answer

    session = Session(ca_path)
    try:
        answer = retry_call(attempt, SERVER_CALL, stop)
    except (RetryableError, TlsError, OversizedAnswer) as error:
        stop.check()
        raise PayloadError(PilotError.TRF_DOWNLOAD_FAILURE, str(error)) from error
    finally:
        session.close()
    problem = _unfit(answer)
    if problem:
        raise PayloadError(PilotError.TRF_DOWNLOAD_FAILURE, f"{url} {problem}")
    return answer.body


def _unfit(answer: Answer) -> str | None:
    """Why an answer is no transform. A 404 page or a login page must never be run as one."""
    if answer.status != 200:
        return f"answered HTTP {answer.status}"
    if not answer.body.strip():
        return "is empty"
    start = answer.body[:512].lstrip().lower()
    html = answer.headers.get("content-type", "").lower().startswith("text/html")
    if html or start.startswith((b"<!doctype", b"<html")):
        return "is a web page, not a program"
    return None
