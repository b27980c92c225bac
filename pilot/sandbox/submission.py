"""From a submitted file to job rows: defaults as in a recorded Rubin job, placeholders, file rows. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

DEFAULT_QUEUE = "DOMA_LSST_DEV"

# The keys of a recorded job in the order the server writes them, with the values a Rubin job has. PandaID, attemptNr,
# nSent and what names the job itself are filled per job.
_DEFAULTS: dict[str, Any] = {
    "prodSourceLabel": "managed",
    "swRelease": "NULL",
    "homepackage": "NULL",
    "transformation": "",
    "jobName": "",
    "jobDefinitionID": 0,
    "cloud": "US",
    "inFiles": "",
    "dispatchDblock": "",
    "dispatchDBlockToken": "",
    "dispatchDBlockTokenForOut": "NULL",
    "outFiles": "log.tgz",
    "destinationDblock": "",
    "destinationDBlockToken": "local",
    "prodDBlocks": "",
    "prodDBlockToken": "",
    "realDatasets": "",
    "realDatasetsIn": "",
    "fileDestinationSE": "local",
    "logFile": "log.tgz",
    "logGUID": "",
    "jobPars": "",
    "attemptNr": 0,
    "GUID": "",
    "checksum": "",
    "fsize": "",
    "scopeIn": "",
    "scopeOut": "",
    "scopeLog": "NULL",
    "ddmEndPointIn": "",
    "ddmEndPointOut": "GKE-LSST_LOGS",
    "destinationSE": "local",
    "prodUserID": "Jane Doe",
    "maxCpuCount": 90000,
    # The recorded job asked for 2000, which a pilot on DOMA_LSST_DEV (maxrss 1800) would never be given.
    "minRamCount": 1024,
    "maxDiskCount": 500,
    "cmtConfig": "",
    "processingType": "Rubin",
    "transferType": "NULL",
    "sourceSite": "NULL",
    "currentPriority": 900,
    "taskID": 1001,
    "coreCount": 1,
    "jobsetID": "NULL",
    "reqID": 501,
    "nucleus": "NULL",
    "maxWalltime": 90000,
    "resource_type": "SCORE",
    "ioIntensity": None,
    "ioIntensityUnit": None,
}
# What a submission may say but the dispatcher never sends.
_NOT_SENT = ("StatusCode", "PandaID", "computingSite", "vo", "workingGroup", "nSent")


class BadSubmission(ValueError):
    """A submitted list of jobs that cannot be accepted; the message says which entry and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One checked entry of a submitted file; `parents` are positions in the same file."""

    label: str
    parents: tuple[int, ...]
    pseudo_input: str | None
    job: dict[str, Any]


def read_submission(text: str, name: str) -> list[Entry]:
    """Check the text of a jobs file: a JSON list of `{label, parents, pseudo_input?, job}`."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise BadSubmission(f"{name} is not JSON: {error}. A jobs file is a JSON list of objects.") from None
    return check_submission(entries, name)


def check_submission(entries: object, name: str = "the submission") -> list[Entry]:
    """Check a decoded jobs list and resolve its parents, which name earlier or later entries by PandaID or label."""
    if not isinstance(entries, list) or not entries:
        raise BadSubmission(f"{name} must hold a JSON list with at least one job.")
    positions: dict[object, int] = {}
    for position, entry in enumerate(entries):
        job = _job_of(entry, position, name)
        for key in (job.get("PandaID"), entry.get("label")):
            if key is not None:
                positions.setdefault(key, position)
    checked = [_checked(entry, position, positions, name) for position, entry in enumerate(entries)]
    _refuse_cycles(checked, name)
    return checked


def _job_of(entry: object, position: int, name: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("job"), dict):
        raise BadSubmission(f"Entry {position} of {name} must be an object with a key 'job' that is an object.")
    job: dict[str, Any] = entry["job"]
    if not isinstance(job.get("transformation"), str) or not job["transformation"]:
        raise BadSubmission(f"The job of entry {position} of {name} needs a 'transformation' (text).")
    return job


def _checked(entry: dict[str, Any], position: int, positions: dict[object, int], name: str) -> Entry:
    parents = entry.get("parents", [])
    if not isinstance(parents, list):
        raise BadSubmission(f"'parents' of entry {position} of {name} must be a list.")
    unknown = [parent for parent in parents if not isinstance(parent, str | int) or parent not in positions]
    if unknown:
        raise BadSubmission(f"Entry {position} of {name} names the parent {unknown[0]!r}, which is not in the file.")
    return Entry(
        str(entry.get("label") or f"job{position}"),
        tuple(dict.fromkeys(positions[parent] for parent in parents)),
        entry.get("pseudo_input"),
        entry["job"],
    )


def _refuse_cycles(entries: list[Entry], name: str) -> None:
    done: set[int] = set()
    while len(done) < len(entries):
        ready = {i for i, entry in enumerate(entries) if i not in done and set(entry.parents) <= done}
        if not ready:
            stuck = min(set(range(len(entries))) - done)
            raise BadSubmission(f"Entry {stuck} of {name} waits for itself through its parents.")
        done |= ready


def filled_definition(job: dict[str, Any], panda_id: int) -> dict[str, Any]:
    """The dispatcher's dictionary for a submitted job: recorded defaults for what is absent, fresh ids for old ones."""
    own = {
        "jobName": f"sandbox_{panda_id}",
        "jobDefinitionID": panda_id % 1_000_000,
        "destinationDblock": f"PandaJob_{panda_id}/",
        "realDatasets": f"PandaJob_{panda_id}/",
        "logGUID": str(uuid.uuid4()),
    }
    given = {key: value for key, value in job.items() if key not in _NOT_SENT}
    definition = {**_DEFAULTS, **own, **given}
    for key in ("destinationDblock", "realDatasets"):
        if definition[key] in ("PandaJob_<id>", "PandaJob_<id>/", f"PandaJob_{job.get('PandaID')}/"):
            definition[key] = own[key]
    return definition


def job_columns(definition: dict[str, Any], site: str) -> dict[str, Any]:
    """The columns a job request filters on; values that are no numbers filter nothing."""
    return {
        "site": site,
        "attempt_nr": _whole(definition["attemptNr"]),
        "prod_source_label": str(definition["prodSourceLabel"]),
        "processing_type": str(definition["processingType"]),
        "prod_user_id": str(definition["prodUserID"]),
        "resource_type": str(definition["resource_type"]),
        "priority": _whole(definition["currentPriority"]),
        "min_ram_mb": _whole(definition["minRamCount"]),
        "max_disk_mb": _whole(definition["maxDiskCount"]),
        "max_walltime_s": None if definition["maxWalltime"] is None else _whole(definition["maxWalltime"]),
        "task_id": _whole(definition["taskID"]),
        "definition": definition,
    }


def file_rows(definition: dict[str, Any], panda_id: int) -> Iterator[dict[str, Any]]:
    """The file rows of a definition: inputs, then outputs, the log among them."""
    inputs, outputs = _items(definition["inFiles"]), _items(definition["outFiles"])
    at = _column_reader(definition)
    for i, lfn in enumerate(inputs):
        size = at("fsize", i)
        yield {
            "panda_id": panda_id,
            "position": i,
            "lfn": lfn,
            "type": "input",
            "status": "ready",
            "guid": at("GUID", i),
            "fsize": int(size) if size and size.isdigit() else 0,
            "checksum": at("checksum", i),
            "dataset": at("realDatasetsIn", i),
        }
    log = definition["logFile"]
    for i, lfn in enumerate(outputs):
        yield {
            "panda_id": panda_id,
            "position": len(inputs) + i,
            "lfn": lfn,
            "type": "log" if lfn == log else "output",
            "status": "unknown",
            "guid": definition["logGUID"] if lfn == log else str(uuid.uuid4()),
            "fsize": 0,
            "dataset": at("destinationDblock", i),
            "destinationse": at("fileDestinationSE", i),
        }


def _column_reader(definition: dict[str, Any]) -> Callable[[str, int], str | None]:
    def at(key: str, position: int) -> str | None:
        values = _items(definition[key])
        return values[position] if position < len(values) else None

    return at


def _items(value: object) -> list[str]:
    text = str(value or "")
    return [] if text in ("", "NULL") else text.split(",")


def _whole(value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return 0
