"""The inputs of a job that is run again: from where its pilot had them, or from a folder of the person's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from pilot.job.errors import PilotError, StageInError
from pilot.job.model import FileSpec
from pilot.job.queue import Queue
from pilot.runtime.stop import Stop
from pilot.storage.staging import JobStager, Place
from pilot.storage.store import Stores

REMOTE = ("gs://", "s3://", "https://")  # what a log names is read from stores alone, never from this machine


def input_stager(
    queue: Queue, stores: Stores, recorded: Mapping[str, tuple[str, ...]], folder: Path | None
) -> JobStager:
    """A stager that takes inputs from ``folder``, where they lie under their LFNs, or else from their recorded addresses."""
    places_of = _in_folder(folder, stores) if folder else _recorded(recorded, stores)
    return JobStager(queue, _no_endpoint, stores, places_of=places_of)


def _in_folder(folder: Path, stores: Stores) -> Callable[[FileSpec], tuple[Place, ...]]:
    return lambda file: (Place(str(folder), str(folder / file.lfn), stores),)


def _recorded(recorded: Mapping[str, tuple[str, ...]], stores: Stores) -> Callable[[FileSpec], tuple[Place, ...]]:
    def places_of(file: FileSpec) -> tuple[Place, ...]:
        urls = [url for url in recorded.get(file.lfn, ()) if url.startswith(REMOTE)]
        if not urls:
            detail = f"{file.lfn}: no address of it was recorded; --inputs DIR takes it from a folder of yours"
            raise StageInError(PilotError.MISSING_INPUT_FILE, detail)
        return tuple(Place(f"its recorded address {number}", url, stores) for number, url in enumerate(urls, 1))

    return places_of


def _no_endpoint(name: str, _stop: Stop) -> NoReturn:
    raise AssertionError(f"no storage is looked up, and {name} was")
