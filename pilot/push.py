"""The job that was given and not asked for (PUSH mode): the one definition in a file.

Harvester writes the dispatcher's answer as url-encoded pairs (facts of its Kubernetes plugin: ``pandaJobData.out`` in a
ConfigMap, mounted read-only); other messengers write JSON. Both are hostile input: bounded, and refused where they could be
read in two ways.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.parse import parse_job

MAX_BYTES = 16 << 20  # a ConfigMap holds one MiB
MAX_PAIRS = 10_000


class _Unfit(Exception):
    """The text is no definition of one job; the last part of a sentence."""


def read_given_job(path: Path) -> Mapping[str, Any]:
    """The job definition in ``path``. Raises PilotCannotWork (67): not to be read, no definition, or not exactly one."""
    try:
        return _definition(_read(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise PilotCannotWork(
            ExitCode.MISSING_FILE, f"cannot read the job definition {path}: {reason}; check --job"
        ) from None
    except _Unfit as unfit:
        raise PilotCannotWork(ExitCode.MISSING_FILE, f"{path} holds no job definition: {unfit}; check --job") from None


def _read(path: Path) -> str:
    """The text, without a byte order mark and the blanks (carriage returns among them) around it."""
    # not waiting at a pipe that somebody named as the file
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _Unfit(f"it has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise _Unfit("it is not UTF-8") from None


def _definition(text: str) -> Mapping[str, Any]:
    definition = _of_json(text) if text.startswith(("{", "[")) else _of_pairs(text)
    if "PandaID" not in definition:
        raise _Unfit("expected key=value&... or a JSON object, with a PandaID")
    parsed = parse_job(definition)
    if parsed.attempt is None:  # whoever gave it will not learn it any other way
        raise _Unfit("its PandaID is not a positive number")
    return definition


def _of_pairs(text: str) -> Mapping[str, Any]:
    try:
        return _once(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PAIRS))
    except ValueError:
        raise _Unfit(f"it has more than {MAX_PAIRS} pairs") from None


def _of_json(text: str) -> Mapping[str, Any]:
    """An object; or a list of one, an object of one keyed by its PandaID, or an answer of the dispatcher with one job."""
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _Unfit("it begins like JSON and is none") from None
    if isinstance(document, dict) and isinstance(document.get("data"), dict):
        document = document["data"]
    if isinstance(document, dict) and isinstance(document.get("jobs"), list):
        document = document["jobs"]
    if isinstance(document, dict) and "PandaID" not in document and all(isinstance(v, dict) for v in document.values()):
        document = list(document.values())
    if isinstance(document, list):
        if len(document) != 1:
            raise _Unfit(f"it holds {len(document)} jobs, and PUSH is exactly one")
        document = document[0]
    return document if isinstance(document, dict) else {}


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a mapping. A key that stands there twice must say the same: who knows which of two jobs was meant."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise _Unfit(f"{name[:60]!r} stands there twice, with different values")
        found[name] = value
    return found
