"""Payloads in Apptainer: isolated, ended for certain, and never confused with the container's own failures."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.job.errors import PayloadError
from pilot.job.outcome import container_error
from pilot.payload import procfs
from pilot.payload.apptainer import Bind
from pilot.payload.image import ImageCache, squashfs_offset
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import Stores
from tests.integration.payload.conftest import QUEUE, Payloads, a_pilot_that_dies, living, said

Eventually = Callable[..., None]


@pytest.fixture(params=["SIF", "folder"])
def image(request: pytest.FixtureRequest, busybox: tuple[Path, Path]) -> Path:
    return busybox[0] if request.param == "SIF" else busybox[1]


def says(word: str) -> Callable[[JobFolder], bool]:
    return lambda folder: said(folder, word)


def fuse_helpers() -> list[int]:
    return [p.pid for p in procfs.all_processes().values() if p.comm == "squashfuse_ll" and p.ppid == os.getpid()]


def test_a_payload_runs_in_its_image_and_its_code_is_told(payloads: Payloads, image: Path) -> None:
    payloads.set(image=str(image))
    ran = payloads.run("pwd; echo $HOME $TMPDIR; echo out >result; exit 3")
    assert (ran.end.exit_code, ran.end.isolation, ran.end.container_message) == (3, "A:apptainer", None)
    assert ran.stdout.split() == ["/srv", "/tmp/home", "/tmp"]
    assert (ran.folder.work / "result").read_text() == "out\n"
    assert not (ran.folder.work / ".pilot").exists()


def test_it_sees_neither_the_pilots_environment_nor_its_files_nor_its_processes(
    payloads: Payloads, busybox: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINERENV_PLANTED", "x")
    monkeypatch.setenv("PLANTED", "x")
    payloads.set(image=str(busybox[1]))
    ran = payloads.run(f"env; ls {tmp_path} 2>&1; kill -0 {os.getpid()} && echo reached; ls -d /proc/[0-9]* | wc -l")
    assert "PLANTED" not in ran.stdout
    assert "No such file" in ran.stdout
    assert "reached" not in ran.stdout
    assert int(ran.stdout.split()[-1]) < 10


def test_values_of_variables_arrive_verbatim(payloads: Payloads, busybox: tuple[Path, Path]) -> None:
    value = "a,b $(id) `id` 'x' \"y\"\nzwei"
    payloads.set(image=str(busybox[1]), credentials={"PGPASSWORD": Secret(value)})
    assert payloads.run('printf %s "$PGPASSWORD"').stdout == value


def test_declared_binds_are_seen_and_read_only_ones_are(
    payloads: Payloads, busybox: tuple[Path, Path], tmp_path: Path
) -> None:
    odd = tmp_path / "odd:na,me"
    odd.mkdir()
    (odd / "file").write_text("content\n")
    payloads.set(image=str(busybox[1]), binds=(Bind(str(odd), "/inputs", read_only=True),))
    ran = payloads.run("cat /inputs/file; touch /inputs/new")
    assert ran.stdout == "content\n"
    assert ran.end.exit_code == 1
    assert not (odd / "new").exists()


def test_a_payload_that_dies_of_a_signal_is_no_container_failure(payloads: Payloads, image: Path) -> None:
    payloads.set(image=str(image))
    ran = payloads.run("kill -SEGV $$")
    assert (ran.end.exit_code, ran.end.container_message) == (128 + signal.SIGSEGV, None)


@pytest.mark.parametrize("exit_code", [1, 255])
def test_the_runtimes_own_exit_codes_are_the_payloads_when_it_ran(
    payloads: Payloads, busybox: tuple[Path, Path], exit_code: int
) -> None:
    payloads.set(image=str(busybox[1]))
    ran = payloads.run(f"rm -rf /tmp/.pilot; echo 'FATAL: just joking' >&2; exit {exit_code}")
    assert (ran.end.exit_code, ran.end.container_message) == (exit_code, None)
    assert ran.end.first_error == "FATAL: just joking"


def test_a_container_that_does_not_start_is_told_in_its_own_words(
    payloads: Payloads, busybox: tuple[Path, Path]
) -> None:
    payloads.set(image=str(busybox[1]), binds=(Bind("/nowhere/at/all", "/x"),))
    ran = payloads.run("true")
    assert (ran.end.exit_code, ran.end.signal) == (None, None)
    assert ran.end.container_message is not None
    assert "/nowhere/at/all" in ran.end.container_message
    assert container_error(ran.end.container_message).code == 1308


def test_a_payload_that_calls_itself_by_a_name_of_the_runtimes_is_a_payload(payloads: Payloads, image: Path) -> None:
    payloads.set(image=str(image), queue=replace(QUEUE, max_rss_bytes=25 << 20))
    ran = payloads.run("printf starter >/proc/$$/comm; x=$(head -c 150000000 /dev/zero | tr '\\0' x); sleep 60")
    assert ran.end.breach is not None
    assert ran.end.breach.code == 1235


def test_stopping_ends_everything_and_leaves_no_helper(payloads: Payloads, image: Path, eventually: Eventually) -> None:
    payloads.set(image=str(image), grace_s=0.3)
    text = "trap '' TERM; setsid sleep 600 & echo ready; while :; do sleep 0.02; done"
    ran = payloads.run_and_stop(text, says("ready"), eventually)
    assert ran.end.stopped_by is not None
    assert ran.end.signal == signal.SIGKILL
    assert not fuse_helpers()


def test_a_stopped_container_lets_its_processes_finish(
    payloads: Payloads, busybox: tuple[Path, Path], eventually: Eventually
) -> None:
    payloads.set(image=str(busybox[1]))
    child = "trap 'sleep 0.3; echo clean; exit' TERM; echo ready; while :; do sleep 0.02; done"
    ran = payloads.run_and_stop(f'sh -c "{child}"', says("ready"), eventually)
    assert ran.stdout.split() == ["ready", "clean"]


def test_background_processes_end_with_their_container(payloads: Payloads, image: Path) -> None:
    payloads.set(image=str(image))
    assert payloads.run("setsid sleep 600 & sleep 600 & exit 0").end.exit_code == 0
    assert not fuse_helpers()


def test_a_pilot_that_is_killed_takes_its_container_along(
    payloads: Payloads, image: Path, eventually: Eventually
) -> None:
    payloads.set(image=str(image))
    with a_pilot_that_dies(payloads, "echo ready; setsid sleep 600 & sleep 600"):
        folder = JobFolder(payloads.volume.jobs / "1.1")
        eventually(lambda: said(folder, "ready"), timeout_s=20)
        assert living(payloads.volume.root)
    eventually(lambda: not living(payloads.volume.root))


def test_the_jobs_image_is_used_when_the_operator_names_none(payloads: Payloads, busybox: tuple[Path, Path]) -> None:
    end = payloads.run("true", container_name=str(busybox[1])).end
    assert (end.isolation, end.image) == ("A:apptainer", str(busybox[1]))
    payloads.set(image=str(busybox[1]))
    assert payloads.run("test -e /bin/busybox", container_name="docker://x/y").end.exit_code == 0


@pytest.mark.parametrize(
    ("name", "code"), [("docker://docker.io/library/almalinux:9", 1360), ("/nowhere.sif", 1360), ("/etc/passwd", 1309)]
)
def test_images_that_cannot_be_used_are_refused_with_their_code(payloads: Payloads, name: str, code: int) -> None:
    with pytest.raises(PayloadError) as caught:
        payloads.run("true", container_name=name)
    assert caught.value.diagnosis.code == code


def test_a_truncated_image_is_told_as_one(payloads: Payloads, busybox: tuple[Path, Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.sif"
    torn.write_bytes(busybox[0].read_bytes()[:60_000])
    payloads.set(image=str(torn))
    with pytest.raises(PayloadError) as caught:
        payloads.run("true")
    assert caught.value.diagnosis.code == 1309


def test_a_sif_is_unpacked_once_for_nodes_that_cannot_mount_it(
    payloads: Payloads, busybox: tuple[Path, Path], tmp_path: Path
) -> None:
    cache = ImageCache(tmp_path / "cache", Stores({}))
    assert squashfs_offset(busybox[0]) > 0
    image = cache.unpacked(cache.get(str(busybox[0]), Stop()), Stop())
    again = cache.unpacked(cache.get(str(busybox[0]), Stop()), Stop())
    assert image.path == again.path
    image.release()
    again.release()
    payloads.set(image=str(image.path))
    assert payloads.run("exit 5").end.exit_code == 5
