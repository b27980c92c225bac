"""A job's files between folders: which door, which code, which name."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.job.endpoint import Door, Endpoint, deterministic_path
from pilot.job.errors import ExitCode, PilotCannotWork, PilotError, StageError, StageInError, StageOutError
from pilot.job.model import Attempt, Checksum, ChecksumAlgorithm, FileSpec, Job, Resources
from pilot.job.queue import Queue, QueueStatus
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.staging import JobStager

CONTENT = b"pixels " * 1000
ADLER32 = Checksum("adler32", f"{zlib.adler32(CONTENT):08x}")


QUICK = RetryPolicy("quick", tries=3, first_s=0.001, cap_s=0.001, total_s=5)


class World:
    """One RSE that is a folder, a queue that uses it, a job folder."""

    def __init__(self, root: Path) -> None:
        self.disk, self.work = root / "disk", root / "work"
        self.disk.mkdir()
        self.work.mkdir()
        door = Door(1, "file", f"file://{self.disk}", "/rse")
        self.endpoint = Endpoint("LOCAL_DISK", True, doors={"read_lan": (door,), "write_lan": (door,)})
        self.queue = Queue(
            "Q",
            "Q",
            "SITE",
            True,
            QueueStatus.ONLINE,
            storages={"read_lan": ("LOCAL_DISK",), "write_lan": ("LOCAL_DISK",)},
        )

    def endpoint_of(self, name: str, stop: Stop) -> Endpoint:
        if name != self.endpoint.name:
            raise PilotCannotWork(ExitCode.BAD_QUEUEDATA, f"CRIC knows no storage {name}")
        return self.endpoint

    def stager(self) -> JobStager:
        return JobStager(self.queue, self.endpoint_of, open_stores(StorageOptions()), QUICK)

    def put(self, scope: str, lfn: str, content: bytes = CONTENT) -> Path:
        path = self.disk / "rse" / deterministic_path(scope, lfn)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def job(
    *, inputs: tuple[FileSpec, ...] = (), outputs: tuple[FileSpec, ...] = (), optional: tuple[str, ...] = ()
) -> Job:
    return Job(
        Attempt(4711, 1),
        1,
        "job",
        "trf",
        "",
        "managed",
        Resources(),
        inputs,
        outputs,
        allow_no_output=frozenset(optional),
    )


def code_of(error: pytest.ExceptionInfo[StageError]) -> PilotError:
    return error.value.diagnosis.error


def test_a_job_without_files_touches_nothing(tmp_path: Path) -> None:
    def no_cric(name: str, stop: Stop) -> Endpoint:
        raise AssertionError(name)

    queue = Queue("Q", "Q", "SITE", True, QueueStatus.ONLINE)
    stager = JobStager(queue, no_cric, open_stores(StorageOptions()))
    assert stager.stage_in(job(), tmp_path, Stop()) == ()
    assert stager.stage_out(job(), tmp_path, Stop()) == ()


def test_inputs_come_from_their_deterministic_path(world: World) -> None:
    world.put("user.jane", "raw.fits")
    file = FileSpec("raw.fits", "user.jane", size_bytes=len(CONTENT), checksum=ADLER32)
    (staged,) = world.stager().stage_in(job(inputs=(file,)), world.work, Stop())
    assert (staged.lfn, staged.size_bytes) == ("raw.fits", len(CONTENT)) and staged.took_s > 0
    assert (world.work / "raw.fits").read_bytes() == CONTENT


def test_many_inputs_come_in_their_order(world: World) -> None:
    files = tuple(FileSpec(f"f{number}", "s") for number in range(13))
    for file in files:
        world.put("s", file.lfn, file.lfn.encode())
    staged = world.stager().stage_in(job(inputs=files), world.work, Stop())
    assert [file.lfn for file in staged] == [file.lfn for file in files]
    assert all((world.work / file.lfn).read_text() == file.lfn for file in files)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lfn": "absent"}, PilotError.MISSING_INPUT_FILE),
        ({"size_bytes": 1}, PilotError.STAGE_IN_FAILED),
        ({"checksum": Checksum("adler32", "00000001")}, PilotError.GET_AD_MISMATCH),
        ({"checksum": Checksum("md5", "0" * 32)}, PilotError.GET_MD5_MISMATCH),
        ({"rse": "UNKNOWN"}, PilotError.NO_STORAGE),
        ({"lfn": "x" * 256}, PilotError.LFN_TOO_LONG),
        ({"lfn": "../raw.fits"}, PilotError.STAGE_IN_FAILED),
        ({"lfn": "/etc/passwd"}, PilotError.STAGE_IN_FAILED),
        ({"lfn": "file:///etc/passwd"}, PilotError.STAGE_IN_FAILED),
        ({"lfn": ".."}, PilotError.STAGE_IN_FAILED),
        ({"lfn": ""}, PilotError.STAGE_IN_FAILED),
        ({"lfn": "a\0b"}, PilotError.STAGE_IN_FAILED),
        ({"lfn": "-rf"}, PilotError.STAGE_IN_FAILED),
        ({"lfn": "bad\ud800"}, PilotError.STAGE_IN_FAILED),
        ({"scope": "../../.."}, PilotError.STAGE_IN_FAILED),
        ({"scope": "a/b"}, PilotError.STAGE_IN_FAILED),
        ({"size_bytes": 10**18}, PilotError.NO_LOCAL_SPACE),
    ],
)
def test_an_input_that_cannot_be_had_has_its_code(world: World, changes: dict[str, object], code: PilotError) -> None:
    world.put("s", "raw.fits")
    file = replace(FileSpec("raw.fits", "s"), **changes)  # type: ignore[arg-type]
    with pytest.raises(StageInError) as failed:
        world.stager().stage_in(job(inputs=(file,)), world.work, Stop())
    assert code_of(failed) is code
    assert list(world.work.iterdir()) == []


def test_the_sum_of_inputs_is_held_against_the_queue(world: World) -> None:
    world.queue = replace(world.queue, max_input_bytes=2 * len(CONTENT) - 1)
    files = tuple(FileSpec(name, "s", size_bytes=len(CONTENT)) for name in "ab")
    with pytest.raises(StageInError, match="maxinputsize") as failed:
        world.stager().stage_in(job(inputs=files), world.work, Stop())
    assert code_of(failed) is PilotError.SIZE_TOO_LARGE


def test_an_input_of_unknown_size_is_held_against_the_queue_too(world: World) -> None:
    world.put("s", "a")
    world.queue = replace(world.queue, max_input_bytes=len(CONTENT) - 1)
    with pytest.raises(StageInError) as failed:
        world.stager().stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert code_of(failed) is PilotError.SIZE_TOO_LARGE


def test_an_input_named_twice_is_refused(world: World) -> None:
    with pytest.raises(StageInError, match="twice"):
        world.stager().stage_in(job(inputs=(FileSpec("a", "s"), FileSpec("a", "t"))), world.work, Stop())


@pytest.mark.parametrize(
    ("endpoint", "queue", "code"),
    [
        ({"deterministic": False}, {}, PilotError.NON_DETERMINISTIC_DDM),
        ({"active": False}, {}, PilotError.NO_STORAGE),
        ({"doors": {}}, {}, PilotError.NO_STORAGE_PROTOCOL),
        ({}, {"storages": {}}, PilotError.NO_STORAGE),
    ],
)
def test_a_storage_that_cannot_be_used_has_its_code(
    world: World, endpoint: dict[str, object], queue: dict[str, object], code: PilotError
) -> None:
    world.endpoint = replace(world.endpoint, **endpoint)  # type: ignore[arg-type]
    world.queue = replace(world.queue, **queue)  # type: ignore[arg-type]
    (world.work / "a").write_bytes(CONTENT)
    with pytest.raises(StageInError, match=r"a: ") as failed:
        world.stager().stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert code_of(failed) is code
    with pytest.raises(StageOutError) as failed_out:
        world.stager().stage_out(job(outputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert code_of(failed_out) is code


def test_a_second_door_is_tried_when_the_first_does_not_open(world: World) -> None:
    world.put("s", "a")
    shut = Door(2, "S3", "s3://bucket", "/rse")  # there is no key for it
    world.endpoint = replace(world.endpoint, doors={"read_lan": (shut, *world.endpoint.doors["read_lan"])})
    assert len(world.stager().stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, Stop())) == 1


def test_another_door_is_not_asked_for_what_the_storage_does_not_have(world: World) -> None:
    shut = Door(2, "S3", "s3://bucket", "/rse")
    world.endpoint = replace(world.endpoint, doors={"read_lan": (*world.endpoint.doors["read_lan"], shut)})
    with pytest.raises(StageInError) as failed:
        world.stager().stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert code_of(failed) is PilotError.MISSING_INPUT_FILE


@pytest.mark.parametrize(("scheme", "kind"), [("s3", StageInError), ("s3", StageOutError), ("https", StageOutError)])
def test_a_door_without_a_key_or_that_only_reads_is_said(world: World, scheme: str, kind: type[StageError]) -> None:
    door = Door(2, scheme, f"{scheme}://bucket", "/rse")
    world.endpoint = replace(world.endpoint, doors={"read_lan": (door,), "write_lan": (door,)})
    (world.work / "a").write_bytes(CONTENT)
    stager = world.stager()
    with pytest.raises(kind) as failed:
        if kind is StageInError:
            stager.stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, Stop())
        else:
            stager.stage_out(job(outputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert code_of(failed) is (PilotError.MISSING_CREDENTIALS if scheme == "s3" else PilotError.NO_STORAGE_PROTOCOL)


def test_a_link_out_of_the_storage_is_not_followed(world: World, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("secret")
    path = world.put("s", "a")
    path.unlink()
    path.symlink_to(tmp_path / "key.json")
    with pytest.raises(StageInError, match="outside"):
        world.stager().stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, Stop())


def test_outputs_are_stored_and_reported(world: World) -> None:
    (world.work / "out.fits").write_bytes(CONTENT)
    given = FileSpec("out.fits", "s", guid="0F5E7A58-2A7D-4C11-8A44-3D0F2C3E4B5A", rse="LOCAL_DISK")
    (report,) = world.stager().stage_out(job(outputs=(given,)), world.work, Stop())
    stored = world.disk / "rse" / deterministic_path("s", "out.fits")
    assert stored.read_bytes() == CONTENT
    assert report.entry() == {
        "guid": given.guid,
        "fsize": len(CONTENT),
        "adler32": ADLER32.hexdigest,
        "surl": f"file://{stored}",
    }


def test_an_output_without_a_guid_gets_one(world: World) -> None:
    (world.work / "a").write_bytes(CONTENT)
    (report,) = world.stager().stage_out(job(outputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert len(report.guid) == 36


def test_an_output_that_may_be_missing_is_left_out(world: World) -> None:
    (world.work / "a").write_bytes(CONTENT)
    outputs = (FileSpec("a", "s"), FileSpec("b", "s"))
    reports = world.stager().stage_out(job(outputs=outputs, optional=("b",)), world.work, Stop())
    assert [report.lfn for report in reports] == ["a"]


def test_a_missing_output_costs_no_upload(world: World) -> None:
    (world.work / "a").write_bytes(CONTENT)
    with pytest.raises(StageOutError, match="the payload made no b") as failed:
        world.stager().stage_out(job(outputs=(FileSpec("a", "s"), FileSpec("b", "s"))), world.work, Stop())
    assert code_of(failed) is PilotError.MISSING_OUTPUT_FILE
    assert list(world.disk.iterdir()) == []


def test_only_a_regular_file_with_one_name_is_an_output(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "key.json"
    secret.write_text("secret")
    (world.work / "soft").symlink_to(secret)
    (world.work / "hard").hardlink_to(secret)
    os.mkfifo(world.work / "pipe")
    (world.work / "folder").mkdir()
    for name in ("soft", "hard", "pipe", "folder"):
        with pytest.raises(StageOutError, match=f"{name} is not a regular file") as failed:
            world.stager().stage_out(job(outputs=(FileSpec(name, "s"),)), world.work, Stop())
        assert code_of(failed) is PilotError.STAGE_OUT_FAILED


def test_an_empty_output_is_an_error(world: World) -> None:
    (world.work / "a").touch()
    with pytest.raises(StageOutError) as failed:
        world.stager().stage_out(job(outputs=(FileSpec("a", "s"),)), world.work, Stop())
    assert code_of(failed) is PilotError.EMPTY_OUTPUT_FILE


@pytest.mark.parametrize(
    ("lfn", "code"),
    [
        ("../a", PilotError.BAD_OUTPUT_FILE_NAME),
        ("a\nb", PilotError.BAD_OUTPUT_FILE_NAME),
        ("ü" * 128, PilotError.LFN_TOO_LONG),
    ],
)
def test_an_output_name_that_is_no_name_is_refused(world: World, lfn: str, code: PilotError) -> None:
    with pytest.raises(StageOutError) as failed:
        world.stager().stage_out(job(outputs=(FileSpec(lfn, "s"),)), world.work, Stop())
    assert code_of(failed) is code


def test_a_stop_ends_both_directions(world: World) -> None:
    world.put("s", "a")
    (world.work / "b").write_bytes(CONTENT)
    stop = Stop()
    stop.request(StopReason(StopKind.SERVER_KILL))
    for act in (
        lambda: world.stager().stage_in(job(inputs=(FileSpec("a", "s"),)), world.work, stop),
        lambda: world.stager().stage_out(job(outputs=(FileSpec("b", "s"),)), world.work, stop),
    ):
        with pytest.raises(Stopped):
            act()


@pytest.mark.parametrize("algorithm", ["adler32", "md5", "crc32c", "sha256"])
def test_every_checksum_of_a_job_is_checked(world: World, algorithm: ChecksumAlgorithm) -> None:
    world.put("s", "a")
    file = FileSpec("a", "s", checksum=Checksum(algorithm, "0"))
    with pytest.raises(StageInError, match=f"{algorithm}:"):
        world.stager().stage_in(job(inputs=(file,)), world.work, Stop())
