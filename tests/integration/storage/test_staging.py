"""A job's files between a work folder and real stores, through RSEs as CRIC describes them."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from pilot.job.endpoint import Door, Endpoint, deterministic_path
from pilot.job.errors import PilotError, StageInError, StageOutError
from pilot.job.model import Attempt, Checksum, FileSpec, Job, Resources
from pilot.job.queue import Queue, QueueStatus
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.staging import JobStager
from pilot.storage.store import Stores
from pilot.storage.upload import send

QUICK = RetryPolicy("quick", tries=3, first_s=0.001, cap_s=0.001, total_s=5)
CONTENT = os.urandom(100_000)
ADLER32 = f"{zlib.adler32(CONTENT):08x}"


def rse(scheme: str, bucket: str, path: str = "/rse") -> Endpoint:
    door = Door(1, scheme.upper(), f"{scheme}://{bucket}", path)
    return Endpoint("RSE", True, doors={"pr": (door,), "pw": (door,)})


def stager(stores: Stores, endpoint: Endpoint) -> JobStager:
    queue = Queue("Q", "Q", "SITE", True, QueueStatus.ONLINE, storages={"pr": ("RSE",), "pw": ("RSE",)})
    return JobStager(queue, lambda name, stop: endpoint, stores, QUICK)


def job(inputs: tuple[FileSpec, ...] = (), outputs: tuple[FileSpec, ...] = ()) -> Job:
    return Job(Attempt(1, 1), 1, "job", "trf", "", "managed", Resources(), inputs, outputs)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_inputs_come_in_and_outputs_go_out(scheme: str, stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    files = tuple(FileSpec(f"raw {n}#.fits", "u.x", None, len(CONTENT), Checksum("adler32", ADLER32)) for n in range(6))
    for file in files:
        path = deterministic_path(file.scope, file.lfn)
        send(stores, tmp_path / "source", f"{scheme}://inputs/rse/{path}", Stop())
    work = tmp_path / "work"
    work.mkdir()
    moves = stager(stores, rse(scheme, "inputs"))
    assert moves.stage_in(job(files), work, Stop()) == tuple(work / file.lfn for file in files)
    assert all((work / file.lfn).read_bytes() == CONTENT for file in files)

    reports = stager(stores, rse(scheme, "outputs")).stage_out(job((), files), work, Stop())
    assert [(report.size_bytes, report.adler32) for report in reports] == [(len(CONTENT), ADLER32)] * 6
    assert reports[0].surl == f"{scheme}://outputs/rse/{deterministic_path('u.x', 'raw 0#.fits')}"


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_what_the_store_does_not_have_is_missing(scheme: str, stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(StageInError, match="absent at RSE: ") as failed:
        stager(stores, rse(scheme, "inputs")).stage_in(job((FileSpec("absent", "s"),)), tmp_path, Stop())
    assert failed.value.diagnosis.error is PilotError.MISSING_INPUT_FILE


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_is_not_there_takes_no_outputs(scheme: str, stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    with pytest.raises(StageOutError, match=r"a at RSE: .*404") as failed:
        stager(stores, rse(scheme, "nowhere")).stage_out(job((), (FileSpec("a", "s"),)), tmp_path, Stop())
    assert failed.value.diagnosis.error is PilotError.STAGE_OUT_FAILED
