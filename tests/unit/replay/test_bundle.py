"""log.tgz from anywhere: what a pilot packed comes out, and nothing that somebody else put in leads anywhere."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot.job.errors import PilotCannotWork
from pilot.logs.bundle import BundlePlan, write_bundle
from pilot.replay import bundle as bundling
from pilot.replay.bundle import BadBundle, read_document, unpack
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder

TOP = "PandaJob_1"


def entry(
    name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, **of_header: object
) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    for field, value in of_header.items():
        setattr(header, field, value)
    return header, content


def packed(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for header, content in entries:
            archive.addfile(header, io.BytesIO(content))
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_pilot_packed_comes_out(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    for path in (folder.work / "sub", folder.logs):
        path.mkdir(parents=True)
    (folder.logs / "payload.stdout").write_text("hello\n")
    (folder.logs / "replay.json").write_text('{"format": 1}')
    (folder.work / "sub" / "a file").write_bytes(b"\0" * 300_000)
    made = tmp_path / "log.tgz"
    with made.open("wb") as sink:
        write_bundle(BundlePlan(folder, TOP), sink, Stop().check)
    assert unpack(made, tmp_path / "out") == 3
    assert files_below(tmp_path / "out") == {
        "payload.stdout": b"hello\n",
        "replay.json": b'{"format": 1}',
        "work/sub/a file": b"\0" * 300_000,
    }
    assert read_document(made) == b'{"format": 1}'


@pytest.mark.parametrize(
    "bad",
    [
        entry("/etc/evil"),
        entry("../evil"),
        entry(f"{TOP}/../../evil"),
        entry(f"{TOP}/a/../../../evil"),
        entry(f"{TOP}/."),
        entry(f"{TOP}//evil"),
        entry("evil"),
        entry(f"{TOP}/link", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry(f"{TOP}/link", kind=tarfile.LNKTYPE, linkname="/etc/passwd"),
        entry(f"{TOP}/pipe", kind=tarfile.FIFOTYPE),
        entry(f"{TOP}/device", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry(f"{TOP}/\x1b[2J"),
        entry(f"{TOP}/a\nb"),
        entry(f"{TOP}/" + "/".join(["d"] * 100)),
        entry(f"{TOP}/" + "n" * 300),
    ],
    ids=lambda pair: repr(pair[0].name)[:30],
)
def test_what_leads_elsewhere_is_passed_over(tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes]) -> None:
    path = packed(tmp_path / "log.tgz", bad, entry(f"{TOP}/good", b"good"))
    (tmp_path / "a").mkdir()
    assert unpack(path, tmp_path / "a" / "out") == 1
    assert files_below(tmp_path / "a" / "out") == {"good": b"good"}
    assert sorted(os.listdir(tmp_path)) == ["a", "log.tgz"]


def test_a_link_that_is_followed_by_a_file_below_it_writes_nothing_elsewhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    entries = [
        entry(f"{TOP}/sub", kind=tarfile.SYMTYPE, linkname=str(outside)),
        entry(f"{TOP}/sub/evil"),
        entry(f"{TOP}/file"),
        entry(f"{TOP}/file/below"),
        entry(f"{TOP}/file", b"again"),
    ]
    assert unpack(packed(tmp_path / "log.tgz", *entries), tmp_path / "out") == 2
    assert files_below(tmp_path / "out") == {"sub/evil": b"x", "file": b"x"}
    assert list(outside.iterdir()) == []


def test_what_comes_out_belongs_to_whoever_unpacks_and_can_run_nothing(tmp_path: Path) -> None:
    unpack(packed(tmp_path / "log.tgz", entry(f"{TOP}/a", mode=0o6777, uid=12345)), tmp_path / "out")
    status = (tmp_path / "out" / "a").stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o600, os.getuid())


def bomb(path: Path) -> Path:
    """More than is ever unpacked, in a few kilobytes."""
    header = tarfile.TarInfo(f"{TOP}/zeros")
    header.size = 5 << 30
    far = gzip.compress(header.tobuf(tarfile.GNU_FORMAT))
    path.write_bytes(far + gzip.compress(b"\0" * 1024))
    return path


def huge_header(path: Path) -> Path:
    """A name that is announced with 200 MB."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 200 << 20
    path.write_bytes(gzip.compress(header.tobuf() + b"n" * (1 << 20)))
    return path


def far_away(path: Path) -> Path:
    """A member that would end beyond everything."""
    header = tarfile.TarInfo(f"{TOP}/far")
    header.size = 1 << 60
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024))
    return path


def many(path: Path) -> Path:
    return packed(path, *(entry(f"{TOP}/{number}", b"") for number in range(bundling.MAX_MEMBERS + 1)))


def nothing(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def torn(path: Path) -> Path:
    whole = packed(path, entry(f"{TOP}/a", os.urandom(100_000))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def plain(path: Path) -> Path:
    path.write_text("no archive")
    return path


@pytest.mark.parametrize("make", [bomb, huge_header, far_away, many, nothing, torn, plain])
def test_what_is_no_log_bundle_is_one_sentence(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "log.tgz")
    with pytest.raises(
        BadBundle, match=r"log\.tgz (is no log bundle|has more|unpacks to|announces)|holds no"
    ) as caught:
        read_document(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadBundle):
        unpack(path, tmp_path / "out")


def test_no_more_is_written_than_a_log_bundle_holds(tmp_path: Path) -> None:
    path = packed(tmp_path / "log.tgz", *(entry(f"{TOP}/{number}", b"\0" * 1000) for number in range(20)))
    with pytest.raises(BadBundle, match="unpacks to more"):
        unpack(path, tmp_path / "out", most_bytes=10_000)
    assert sum(len(content) for content in files_below(tmp_path / "out").values()) <= 10_000


def test_a_very_large_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log.tgz"
    header = tarfile.TarInfo(f"{TOP}/stdout")
    header.size = bundling.MAX_FILE_BYTES + 1024
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        for _ in range(bundling.MAX_FILE_BYTES >> 20):
            file.write(b"\0" * (1 << 20))
        file.write(b"\0" * 1024)
        good, content = entry(f"{TOP}/good", b"good")
        file.write(good.tobuf() + content.ljust(512, b"\0") + b"\0" * 1024)
    assert unpack(path, tmp_path / "out") == 1
    assert files_below(tmp_path / "out") == {"good": b"good"}


def test_a_bundle_without_the_document_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"holds no replay\.json"):
        read_document(packed(tmp_path / "log.tgz", entry(f"{TOP}/a"), entry(f"{TOP}/sub/replay.json")))


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "link"])
def test_a_path_that_is_no_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log.tgz"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    with pytest.raises(PilotCannotWork, match=r"log\.tgz"):
        read_document(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000))
def test_any_bytes_in_it_are_an_archive_or_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log.tgz"
    path.write_bytes(gzip.compress(data))
    with pytest.raises(BadBundle):
        read_document(path)
