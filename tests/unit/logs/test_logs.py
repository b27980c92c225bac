"""The logs of a job: what goes into log.tgz, what is shown while it grows, what is told when the store is away."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, FileSpec, Job, MalformedJob, Resources
from pilot.logs.bundle import make_bundle
from pilot.logs.collect import BUNDLED_FILE_MAX_BYTES, LogFile, bundle_members, log_files
from pilot.logs.pump import TAIL_BYTES, follow
from pilot.logs.upload import PublicLogs
from pilot.runtime.events import redactor
from pilot.runtime.loops import Helpers
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.runtime.workdir import JobFolder, WorkVolume
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import LocalFileError, ObjectHeaders, Source, StoredObject, Stores, Unavailable
from tests.unit.storage.scripted import Scripted

ATTEMPT = Attempt(4711, 2)
LOG = FileSpec("log.tgz", guid="guid-of-the-log")


def job(log: FileSpec | None = LOG, outputs: tuple[FileSpec, ...] = (FileSpec("out.root"),)) -> Job:
    return Job(ATTEMPT, 9, "isr", "trf", "", "managed", Resources(), (FileSpec("in.fits"),), outputs, log)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job that has run."""
    volume = WorkVolume(tmp_path / "volume")
    volume.jobs.mkdir(parents=True)
    folder = volume.open_job(ATTEMPT)
    for path in (folder.pilot_log, folder.stdout, folder.stderr):
        path.write_text(f"this is {path.name}\n")
    (folder.work / "payload-log.json").write_text("{}")
    for name in ("in.fits", "out.root"):
        (folder.work / name).write_text("data")
    return folder


def names(folder: JobFolder) -> list[str]:
    found = []
    for name, file in bundle_members(folder, frozenset({"in.fits", "out.root"})):
        file.close()
        found.append(name)
    return found


# --- what belongs into it ---------------------------------------------------------------------------------------------


def test_the_logs_that_go_out_are_the_existing_ones_the_pilots_own_last(folder: JobFolder) -> None:
    assert [file.name for file in log_files(folder)] == [
        "payload-log.json",
        "payload.stderr",
        "payload.stdout",
        "pilotlog.txt",
    ]


def test_the_bundle_holds_logs_and_small_files_and_no_inputs_and_outputs(folder: JobFolder) -> None:
    (folder.work / "sub").mkdir()
    (folder.work / "sub" / "a.log").write_text("a")
    (folder.work / "jobReport.json").write_text("{}")
    (folder.home / "secret").write_text("x")
    assert sorted(names(folder)) == [
        "payload-log.json",
        "payload.stderr",
        "payload.stdout",
        "pilotlog.txt",
        "work/jobReport.json",
        "work/sub/a.log",
    ]


def test_what_a_payload_lays_out_as_a_trap_is_passed_over(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "token").write_text("sesame")
    (folder.work / "link").symlink_to(tmp_path / "outside" / "token")
    (folder.work / "folder").symlink_to(tmp_path / "outside")
    (folder.work / "payload-log.json").unlink()
    (folder.work / "payload-log.json").symlink_to(tmp_path / "outside" / "token")
    os.mkfifo(folder.work / "pipe")
    (folder.work / ".hidden").write_text("x")
    (folder.work / "core").write_bytes(b"")
    os.truncate(folder.work / "core", BUNDLED_FILE_MAX_BYTES + 1)
    assert [name for name in names(folder) if "work" in name or "json" in name] == []


def test_a_payload_that_removed_its_own_folder_still_has_its_logs(folder: JobFolder) -> None:
    import shutil

    shutil.rmtree(folder.work)
    assert names(folder) == ["payload.stderr", "payload.stdout", "pilotlog.txt"]


def test_a_log_that_is_a_link_is_not_opened(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    (folder.work / "x").symlink_to(tmp_path / "token")
    with pytest.raises(LocalFileError):
        LogFile("x", folder.work).open()
    assert LogFile("absent", folder.work).size_bytes() is None


# --- log.tgz ----------------------------------------------------------------------------------------------------------


def test_the_bundle_is_whole_and_measured_as_it_is_written(folder: JobFolder) -> None:
    (folder.work / "ünïcode \udcff.txt").write_text("x")
    bundle = make_bundle(folder, "log.tgz", "PandaJob_4711", frozenset({"in.fits", "out.root"}), Stop())
    data = bundle.path.read_bytes()
    assert (bundle.size_bytes, bundle.adler32) == (len(data), f"{zlib.adler32(data):08x}")
    with tarfile.open(bundle.path) as archive:
        members = archive.getnames()
        text = archive.extractfile("PandaJob_4711/pilotlog.txt")
        assert text is not None and text.read() == b"this is pilotlog.txt\n"
    assert "PandaJob_4711/payload.stdout" in members and len(members) == 5
    assert all(name.startswith("PandaJob_4711/") for name in members)


def test_a_file_that_grows_meanwhile_does_not_spoil_the_bundle(folder: JobFolder) -> None:
    stopping = threading.Event()

    def write() -> None:
        with folder.stdout.open("a") as file:
            while not stopping.wait(0.0005):
                file.write("more\n" * 100)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            bundle = make_bundle(folder, "log.tgz", "top", frozenset(), Stop())
            with tarfile.open(bundle.path) as archive:
                assert "top/pilotlog.txt" in archive.getnames()
    finally:
        stopping.set()
        writer.join()


def test_a_stop_ends_the_bundling(folder: JobFolder) -> None:
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    with pytest.raises(Stopped):
        make_bundle(folder, "log.tgz", "top", frozenset(), stop)


def test_a_bundle_that_cannot_be_written_is_an_error(folder: JobFolder) -> None:
    (folder.logs / "log.tgz").mkdir()
    with pytest.raises(OSError):
        make_bundle(folder, "log.tgz", "top", frozenset(), Stop())


# --- the pump ---------------------------------------------------------------------------------------------------------


def test_growing_logs_are_shown_and_their_end_at_most(folder: JobFolder, eventually: Callable[..., None]) -> None:
    folder.stdout.write_bytes(b"a" * TAIL_BYTES + b"the end")
    shown: dict[str, bytes] = {}

    def show(file: LogFile, tail: io.BytesIO) -> None:
        shown[file.name] = tail.read()

    with Helpers(Stop()) as helpers:
        helpers.start("log-pump", lambda stop: follow(folder, show, stop))
        eventually(lambda: "pilotlog.txt" in shown)
    assert shown["pilotlog.txt"] == b"this is pilotlog.txt\n"
    assert len(shown["payload.stdout"]) == TAIL_BYTES and shown["payload.stdout"].endswith(b"the end")


def test_a_store_that_is_away_does_not_end_the_pump(folder: JobFolder, caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []
    stop = Stop()

    def show(file: LogFile, tail: io.BytesIO) -> None:
        tried.append(file.name)
        if len(tried) == 4:
            stop.request(StopReason(StopKind.PAYLOAD_DONE))
        raise Unavailable("down")

    follow(folder, show, stop)
    assert len(tried) == 4
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


# --- at their public address ------------------------------------------------------------------------------------------


def logs_at(root: Path, retry_s: float = 10.0, stores: Stores | None = None) -> PublicLogs:
    root.mkdir(exist_ok=True)
    opened = stores or open_stores(StorageOptions(local_roots=(root,)))
    return PublicLogs(opened, "Q", f"file://{root}/logs", "https://public.example/bucket/logs", retry_s)


def test_the_url_is_known_from_the_start(tmp_path: Path) -> None:
    assert logs_at(tmp_path).url(4711) == "https://public.example/bucket/logs/Q/PandaJob_4711/pilotlog.txt"


def test_every_log_and_the_bundle_lie_below_the_jobs_folder(folder: JobFolder, tmp_path: Path) -> None:
    stored = logs_at(tmp_path / "disk").store(job(), folder, Stop())
    place = tmp_path / "disk" / "logs" / "Q" / "PandaJob_4711"
    assert sorted(os.listdir(place)) == [
        "log.tgz",
        "payload-log.json",
        "payload.stderr",
        "payload.stdout",
        "pilotlog.txt",
    ]
    assert (place / "payload.stdout").read_text() == "this is payload.stdout\n"
    assert stored.complete and stored.problem == "" and stored.bundle is not None
    data = (place / "log.tgz").read_bytes()
    assert (stored.bundle.guid, stored.bundle.size_bytes) == ("guid-of-the-log", len(data))
    assert stored.bundle.adler32 == f"{zlib.adler32(data):08x}"
    assert stored.bundle.surl == f"file://{place}/log.tgz"


def test_a_bundle_without_a_guid_gets_one(folder: JobFolder, tmp_path: Path) -> None:
    stored = logs_at(tmp_path / "disk").store(job(FileSpec("log.tgz")), folder, Stop())
    assert stored.bundle is not None and len(stored.bundle.guid) == 36


def test_a_job_that_declares_no_log_has_its_texts_and_no_bundle(folder: JobFolder, tmp_path: Path) -> None:
    stored = logs_at(tmp_path / "disk").store(job(log=None), folder, Stop())
    assert (stored.bundle, stored.problem) == (None, "")
    assert (tmp_path / "disk" / "logs" / "Q" / "PandaJob_4711" / "pilotlog.txt").exists()


def test_a_malformed_job_has_the_pilots_log_to_read(folder: JobFolder, tmp_path: Path) -> None:
    malformed = MalformedJob(ATTEMPT, Diagnosis(PilotError.SETUP_FAILURE))
    assert logs_at(tmp_path / "disk").store(malformed, folder, Stop()).bundle is None
    assert (tmp_path / "disk" / "logs" / "Q" / "PandaJob_4711" / "pilotlog.txt").exists()


class Away(Scripted):
    """A store that is never there."""

    tries = 0

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
        self.tries += 1
        raise Unavailable("the store is down")


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_store_that_is_down_is_tried_for_the_time_given_to_all_together(folder: JobFolder, tmp_path: Path) -> None:
    away = Away()
    for number in range(4):
        (folder.work / f"memory_monitor_{number}.txt").write_text("x")
    (folder.work / "memory_monitor_summary.json").write_text("{}")
    (folder.work / "memory_monitor_output.txt").write_text("x")
    logs = logs_at(tmp_path / "disk", retry_s=0.5, stores=Stores({"file": lambda: away}))
    stored = logs.store(job(), folder, Stop())
    assert stored.bundle is not None and stored.bundle.surl is None and not stored.complete
    assert stored.bundle.size_bytes == (folder.logs / "log.tgz").stat().st_size
    assert "log.tgz: " in stored.problem and "pilotlog.txt: " in stored.problem
    assert away.tries >= 7


def test_a_stop_ends_the_uploads_and_the_bundle_is_told_all_the_same(folder: JobFolder, tmp_path: Path) -> None:
    stop = Stop()
    asking = threading.Timer(0.2, stop.request, (StopReason(StopKind.SIGTERM),))
    asking.start()
    stored = logs_at(tmp_path / "disk", retry_s=600, stores=Stores({"file": Away})).store(job(), folder, stop)
    asking.join()
    assert stored.bundle is not None and not stored.complete


def test_a_bundle_that_cannot_be_made_costs_the_bundle_only(folder: JobFolder, tmp_path: Path) -> None:
    (folder.logs / "log.tgz").mkdir()
    stored = logs_at(tmp_path / "disk").store(job(), folder, Stop())
    assert stored.bundle is None
    assert (tmp_path / "disk" / "logs" / "Q" / "PandaJob_4711" / "pilotlog.txt").exists()


# --- secrets ----------------------------------------------------------------------------------------------------------

WORD = "open-sesame-42"
STARS = b"*" * len(WORD)


def test_secrets_are_in_no_stored_log_and_size_and_checksum_are_of_what_is_stored(
    folder: JobFolder, tmp_path: Path
) -> None:
    folder.stdout.write_text(f"password={WORD}\n" * 10_000)
    (folder.work / "notes.txt").write_text(f"in the work folder: {WORD}")
    (folder.work / f"{WORD}.txt").write_text("x")
    with redactor.knowing([Secret(WORD)]):
        stored = logs_at(tmp_path / "disk").store(job(), folder, Stop())
    place = tmp_path / "disk" / "logs" / "Q" / "PandaJob_4711"
    assert (place / "payload.stdout").read_bytes() == b"password=" + STARS + b"\n" + (
        b"password=" + STARS + b"\n"
    ) * 9999
    assert stored.bundle is not None
    packed = (place / "log.tgz").read_bytes()
    assert (stored.bundle.size_bytes, stored.bundle.adler32) == (len(packed), f"{zlib.adler32(packed):08x}")
    with tarfile.open(place / "log.tgz") as archive:
        texts = {name: archive.extractfile(name) for name in archive.getnames()}
        contents = {name: file.read() for name, file in texts.items() if file is not None}
    assert not [name for name, content in contents.items() if WORD.encode() in content or WORD in name]
    assert contents["PandaJob_4711/work/notes.txt"] == b"in the work folder: " + STARS


@pytest.mark.parametrize("written", range(len(WORD) + 1))
def test_the_live_end_of_a_log_shows_no_part_of_a_secret_that_its_edges_cut(folder: JobFolder, written: int) -> None:
    shown: dict[str, bytes] = {}
    stop = Stop()

    def show(file: LogFile, tail: io.BytesIO) -> None:
        shown[file.name] = tail.read()
        stop.request(StopReason(StopKind.PAYLOAD_DONE))

    for name in ("payload-log.json",):
        (folder.work / name).unlink()
    folder.stderr.unlink()
    middle = b"-" * (TAIL_BYTES - written - written // 2)
    folder.stdout.write_bytes(WORD.encode() + middle + WORD.encode()[: written // 2])
    with redactor.knowing([Secret(WORD)]):
        follow(folder, show, stop)
    tail = shown["payload.stdout"]
    assert len(tail) == min(TAIL_BYTES, len(WORD) + len(middle) + written // 2)
    assert tail.startswith(b"*" * written + b"-")
    assert written // 2 < 6 or tail.endswith(b"*" * (written // 2))
