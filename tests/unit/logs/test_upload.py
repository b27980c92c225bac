"""The logs of an ended job at their public address: texts, bundle and page, and what is told when the store is away."""

from __future__ import annotations

import os
import tarfile
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import FileSpec, MalformedJob
from pilot.job.outcome import failed
from pilot.logs.collect import bundle_members
from pilot.logs.segments import Segments
from pilot.logs.upload import PublicLogs
from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import JobFolder
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import ObjectHeaders, Source, StoredObject, Stores, Unavailable
from tests.unit.logs.jobs import ATTEMPT, account, job
from tests.unit.storage.scripted import Keeping, Scripted

TEXTS = ["payload-log.json", "payload.stderr", "payload.stdout", "pilotlog.txt"]


def logs_at(root: Path, retry_s: float = 10.0, stores: Stores | None = None) -> PublicLogs:
    root.mkdir(exist_ok=True)
    opened = stores or open_stores(StorageOptions(local_roots=(root,)))
    return PublicLogs(opened, "Q", f"file://{root}/logs", "https://public.example/bucket/logs", retry_s)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "logs" / "Q" / "PandaJob_4711"


@pytest.fixture
def logs(tmp_path: Path) -> PublicLogs:
    return logs_at(tmp_path / "disk")


def test_the_url_is_known_from_the_start(logs: PublicLogs) -> None:
    assert logs.url(4711) == "https://public.example/bucket/logs/Q/PandaJob_4711/pilotlog.txt"


def test_every_log_the_bundle_and_the_page_lie_below_the_jobs_folder(
    folder: JobFolder, logs: PublicLogs, place: Path
) -> None:
    stored = logs.store(account(job()), folder, Stop())
    assert sorted(os.listdir(place)) == ["job.html", "log.tgz", *TEXTS]
    assert (place / "payload.stdout").read_text() == "this is payload.stdout\n"
    assert stored.complete and stored.problem == "" and stored.bundle is not None
    data = (place / "log.tgz").read_bytes()
    assert (stored.bundle.guid, stored.bundle.size_bytes) == ("guid-of-the-log", len(data))
    assert stored.bundle.adler32 == f"{zlib.adler32(data):08x}"
    assert stored.bundle.surl == f"file://{place}/log.tgz"


def test_a_stored_bundle_leaves_nothing_on_the_disk(folder: JobFolder, logs: PublicLogs) -> None:
    before = sorted(os.listdir(folder.logs))
    logs.store(account(job()), folder, Stop())
    assert sorted(os.listdir(folder.logs)) == before


def test_the_page_is_in_the_bundle_and_links_to_what_lies_beside_it(
    folder: JobFolder, logs: PublicLogs, place: Path
) -> None:
    logs.store(account(job()), folder, Stop())
    page = (place / "job.html").read_text()
    assert all(f'href="./{name}"' in page for name in [*TEXTS, "log.tgz"]) and "this is payload.stdout" in page
    with tarfile.open(place / "log.tgz") as archive:
        packed = archive.extractfile("PandaJob_4711/job.html")
        assert packed is not None and packed.read().decode() == page


def test_a_bundle_without_a_guid_gets_one(folder: JobFolder, logs: PublicLogs) -> None:
    stored = logs.store(account(job(FileSpec("log.tgz"))), folder, Stop())
    assert stored.bundle is not None and len(stored.bundle.guid) == 36


def test_a_job_that_declares_no_log_has_its_texts_and_no_bundle(
    folder: JobFolder, logs: PublicLogs, place: Path
) -> None:
    stored = logs.store(account(job(log=None)), folder, Stop())
    assert (stored.bundle, stored.problem) == (None, "")
    assert sorted(os.listdir(place)) == ["job.html", *TEXTS]


def test_a_malformed_job_has_the_pilots_log_and_a_page_to_read(
    folder: JobFolder, logs: PublicLogs, place: Path
) -> None:
    wrong = Diagnosis(PilotError.SETUP_FAILURE, "it names no command")
    assert logs.store(account(MalformedJob(ATTEMPT, wrong), failed(wrong)), folder, Stop()).bundle is None
    assert (place / "pilotlog.txt").exists() and "it names no command" in (place / "job.html").read_text()


def test_segments_of_a_log_that_is_stored_whole_are_removed(folder: JobFolder, logs: PublicLogs, place: Path) -> None:
    folder.stdout.write_bytes(b"a line\n" * 400_000)
    stop = Stop()
    stopping = threading.Thread(target=logs.follow, args=(ATTEMPT, folder, stop))
    stopping.start()
    try:
        while not (place / "pilotlog.txt").exists():
            assert stopping.is_alive()
    finally:
        stop.request(StopReason(StopKind.PAYLOAD_DONE))
        stopping.join()
    assert (place / "payload.stdout.0001").exists()
    logs.store(account(job()), folder, Stop())
    assert sorted(os.listdir(place)) == ["job.html", "log.tgz", *TEXTS]
    assert (place / "payload.stdout").stat().st_size == 7 * 400_000
    assert Segments(folder).count == 0


def test_the_page_names_the_segments_of_a_very_large_log(folder: JobFolder, logs: PublicLogs, place: Path) -> None:
    with folder.stdout.open("wb") as file:
        file.truncate(40 << 20)
    logs.store(account(job()), folder, Stop())
    assert (place / "payload.stdout.0001").stat().st_size == 40 << 20
    assert 'href="./payload.stdout.0001"' in (place / "job.html").read_text()


# --- when the store is away -------------------------------------------------------------------------------------------


@dataclass
class Away(Scripted):
    """A store that is never there."""

    tries: int = 0

    def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
        self.tries += 1
        raise Unavailable("the store is down")

    def write_in_parts(self, url: str, headers: ObjectHeaders, stop: Stop) -> Keeping:
        self.tries += 1
        raise Unavailable("the store is down")


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_store_that_is_down_is_tried_for_the_time_given_to_all_together(folder: JobFolder, tmp_path: Path) -> None:
    away = Away()
    (folder.work / "memory_monitor_summary.json").write_text("{}")
    (folder.work / "memory_monitor_output.txt").write_text("x")
    logs = logs_at(tmp_path / "disk", retry_s=0.5, stores=Stores({"file": lambda: away}))
    stored = logs.store(account(job()), folder, Stop())
    assert stored.bundle is not None and stored.bundle.surl is None and not stored.complete
    assert stored.bundle.size_bytes == (folder.logs / "log.tgz").stat().st_size
    assert all(f"{name}: " in stored.problem for name in ("log.tgz", "pilotlog.txt", "job.html"))
    assert away.tries >= 8


def test_a_bundle_that_could_not_be_stored_lies_on_the_disk_whole(folder: JobFolder, tmp_path: Path) -> None:
    folder.stdout.write_bytes(os.urandom(12 << 20))  # more than one part of a stream
    logs = logs_at(tmp_path / "disk", retry_s=0.2, stores=Stores({"file": Away}))
    stored = logs.store(account(job()), folder, Stop())
    data = (folder.logs / "log.tgz").read_bytes()
    assert stored.bundle is not None and stored.bundle.adler32 == f"{zlib.adler32(data):08x}"
    with tarfile.open(folder.logs / "log.tgz") as archive:
        assert {f"PandaJob_4711/{name}" for name in TEXTS} <= set(archive.getnames())


def test_a_stop_ends_the_uploads_and_the_bundle_is_told_all_the_same(folder: JobFolder, tmp_path: Path) -> None:
    stop = Stop()
    asking = threading.Timer(0.2, stop.request, (StopReason(StopKind.SIGTERM),))
    asking.start()
    logs = logs_at(tmp_path / "disk", retry_s=600, stores=Stores({"file": Away}))
    stored = logs.store(account(job()), folder, stop)
    asking.join()
    assert stored.bundle is not None and not stored.complete


def test_a_bundle_that_can_be_neither_stored_nor_kept_costs_the_bundle_and_the_page_says_so(
    folder: JobFolder, tmp_path: Path
) -> None:
    @dataclass
    class NoBundles(Scripted):
        texts: dict[str, bytes] = field(default_factory=dict)

        def write(self, url: str, source: Source, headers: ObjectHeaders, stop: Stop) -> StoredObject:
            if url.endswith(".tgz"):
                raise Unavailable("the store is down")
            return super().write(url, source, headers, stop)

    store = NoBundles()
    (folder.logs / "log.tgz").mkdir()
    logs = logs_at(tmp_path / "disk", retry_s=0.2, stores=Stores({"file": lambda: store}))
    stored = logs.store(account(job()), folder, Stop())
    assert stored.bundle is None and "log.tgz: the store is down" in stored.problem
    pages = [content.decode() for url, content in store.objects.items() if url.endswith("/job.html")]
    assert "Log file creation failed" in pages[0] or str(PilotError.LOG_CREATION_FAILURE.code) in pages[0]
    assert any(url.endswith("/pilotlog.txt") for url in store.objects)


# --- secrets ----------------------------------------------------------------------------------------------------------

WORD = "open-sesame-42"
STARS = b"*" * len(WORD)


def test_secrets_are_in_no_stored_log_and_size_and_checksum_are_of_what_is_stored(
    folder: JobFolder, logs: PublicLogs, place: Path
) -> None:
    folder.stdout.write_text(f"password={WORD}\n" * 10_000)
    (folder.work / "notes.txt").write_text(f"in the work folder: {WORD}")
    (folder.work / f"{WORD}.txt").write_text("x")
    with redactor.knowing([Secret(WORD)]):
        stored = logs.store(account(job()), folder, Stop())
    assert (place / "payload.stdout").read_bytes() == (b"password=" + STARS + b"\n") * 10_000
    assert WORD not in (place / "job.html").read_text()
    assert stored.bundle is not None
    packed = (place / "log.tgz").read_bytes()
    assert (stored.bundle.size_bytes, stored.bundle.adler32) == (len(packed), f"{zlib.adler32(packed):08x}")
    with tarfile.open(place / "log.tgz") as archive:
        texts = {name: archive.extractfile(name) for name in archive.getnames()}
        contents = {name: file.read() for name, file in texts.items() if file is not None}
    assert not [name for name, content in contents.items() if WORD.encode() in content or WORD in name]
    assert contents["PandaJob_4711/work/notes.txt"] == b"in the work folder: " + STARS
    assert len(list(bundle_members(folder, frozenset()))) > 5
