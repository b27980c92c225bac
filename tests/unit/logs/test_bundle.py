"""log.tgz: whole, as it is written piece by piece, whatever happens to the files meanwhile."""

from __future__ import annotations

import io
import os
import tarfile
import threading

import pytest

from pilot.logs import bundle
from pilot.logs.bundle import LEFT_OUT_NAME, BundlePlan, write_bundle
from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import Unavailable
from tests.unit.logs.jobs import MOVED


def written(plan: BundlePlan) -> dict[str, bytes]:
    """The members of the bundle and what they hold."""
    packed = io.BytesIO()
    write_bundle(plan, packed, Stop().check)
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:gz") as archive:
        files = {name: archive.extractfile(name) for name in archive.getnames()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_everything_lies_below_the_jobs_name(folder: JobFolder) -> None:
    (folder.work / "ünïcode \udcff.txt").write_text("x")
    members = written(BundlePlan(folder, "PandaJob_4711", MOVED))
    assert members["PandaJob_4711/pilotlog.txt"] == b"this is pilotlog.txt\n"
    assert "PandaJob_4711/payload.stdout" in members and len(members) == 5
    assert all(name.startswith("PandaJob_4711/") for name in members)


def test_what_was_made_goes_in_when_the_files_are_in(folder: JobFolder) -> None:
    members = written(BundlePlan(folder, "top", MOVED, lambda: {"job.html": b"<html>"}))
    assert members["top/job.html"] == b"<html>" and list(members)[-1] == "top/job.html"


def test_what_is_left_out_is_listed(folder: JobFolder) -> None:
    (folder.work / "link").symlink_to("elsewhere")
    members = written(BundlePlan(folder, "top", MOVED))
    assert b"'work/link': link cannot be read" in members[f"top/{LEFT_OUT_NAME}"]
    assert f"top/{LEFT_OUT_NAME}" not in written(BundlePlan(folder, "top", MOVED | {"link"}))


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
            assert "top/pilotlog.txt" in written(BundlePlan(folder, "top"))
    finally:
        stopping.set()
        writer.join()


def test_a_file_that_shrinks_meanwhile_is_filled_up(folder: JobFolder) -> None:
    folder.stdout.write_bytes(b"a" * (1 << 20))
    looked_at = 0

    def check() -> None:
        nonlocal looked_at
        looked_at += 1
        os.truncate(folder.stdout, 100)

    packed = io.BytesIO()
    write_bundle(BundlePlan(folder, "top"), packed, check)
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:gz") as archive:
        file = archive.extractfile("top/payload.stdout")
        assert file is not None and file.read().rstrip(b"\0") == b"a" * 100
    assert looked_at > 1


def test_of_a_very_large_log_both_ends_are_in_the_bundle(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "FILE_MAX_BYTES", 1000)
    folder.stdout.write_bytes(b"first" + b"-" * 5000 + b"last!")
    content = written(BundlePlan(folder, "top"))["top/payload.stdout"]
    assert content.startswith(b"first") and content.endswith(b"last!")
    assert b"\n[... 4010 bytes are left out here ...]\n" in content and len(content) < 1100


def test_secrets_are_masked_also_in_names_and_where_a_large_log_is_cut(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "FILE_MAX_BYTES", 1000)
    word = "open-sesame-42"
    folder.stdout.write_bytes(b"-" * 495 + word.encode() + b"-" * 2000 + word.encode() + b"-" * 495)
    (folder.work / f"{word}.txt").write_text(f"it is {word}")
    (folder.work / f"{word}.link").symlink_to("x")
    with redactor.knowing([Secret(word)]):
        members = written(BundlePlan(folder, "top", MOVED))
    together = b"".join([*members.values(), *(name.encode() for name in members)])
    assert not [piece for start in range(len(word) - 5) if (piece := word[start : start + 6].encode()) in together]


def test_a_stop_ends_the_bundling(folder: JobFolder) -> None:
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    with pytest.raises(Stopped):
        write_bundle(BundlePlan(folder, "top"), io.BytesIO(), stop.check)


def test_a_sink_that_fails_is_written_to_no_more(folder: JobFolder) -> None:
    folder.stdout.write_bytes(os.urandom(4 << 20))

    class Failing:
        calls = 0

        def write(self, piece: bytes) -> int:
            self.calls += 1
            if self.calls == 3:
                raise Unavailable("the store is down")
            return len(piece)

    sink = Failing()
    with pytest.raises(Unavailable):
        write_bundle(BundlePlan(folder, "top"), sink, Stop().check)
    assert sink.calls == 3
