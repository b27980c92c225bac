"""Binds, options, messages and the argv of a container, without starting one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.payload.apptainer import (
    Bind,
    Markers,
    Mode,
    accepted_options,
    container_launch,
    container_message,
    message_in,
    parse_bind,
)
from pilot.payload.command import Command
from pilot.payload.environment import PayloadEnvironment
from pilot.payload.folder import PayloadPlaces
from pilot.runtime.secret import Secret
from pilot.runtime.workdir import JobFolder


@pytest.fixture
def places(tmp_path: Path) -> PayloadPlaces:
    places = PayloadPlaces(JobFolder(tmp_path / "1.1"))
    places.create()
    return places


def test_binds_are_written_as_the_runtime_reads_them() -> None:
    assert Bind("/a", "/b").options() == ("--bind", "/a:/b")
    assert Bind("/a", "/b", read_only=True).options() == ("--bind", "/a:/b:ro")


def test_odd_names_are_bound_without_being_split() -> None:
    assert Bind('/a:b,"c', "/d", read_only=True).options() == (
        "--mount",
        'type=bind,"source=/a:b,""c","destination=/d",ro',
    )


def test_binds_are_read_from_text() -> None:
    assert parse_bind("/a") == Bind("/a", "/a")
    assert parse_bind("/a:/b:ro") == Bind("/a", "/b", read_only=True)
    assert parse_bind("/a:/b:rw") == Bind("/a", "/b")


@pytest.mark.parametrize("text", ["", "a:/b", "/a:b", "/a:/b:/c", "/a:/b:no"])
def test_what_is_no_bind_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no bind"):
        parse_bind(text)


def test_the_queues_options_may_bind_and_use_gpus_and_nothing_else() -> None:
    binds, flags, refused = accepted_options("-B /cvmfs:/cvmfs:ro,/data --nv --bind=/x:/y --fakeroot --add-caps ALL -B")
    assert binds == (Bind("/cvmfs", "/cvmfs", True), Bind("/data", "/data"), Bind("/x", "/y"))
    assert flags == ("--nv",)
    assert refused == ("--fakeroot", "--add-caps", "ALL", "-B ")
    assert accepted_options("--net --network none --network=bridge")[1:] == (
        ("--net", "--network", "none"),
        ("--network",),
    )
    assert accepted_options("'unclosed") == ((), (), ("'unclosed",))


def test_a_container_is_isolated_and_no_secret_stands_in_its_argv(places: PayloadPlaces) -> None:
    environment = PayloadEnvironment({"PGPASSWORD": Secret("geheim"), "HOME": "/h", "A": "x,y $(id)"})
    launch = container_launch(
        Path("/usr/bin/apptainer"),
        Mode(),
        Path("/i.sif"),
        Command("echo geheim-text"),
        environment,
        places,
        (Bind("/in", "/inputs", True),),
        ("--nv",),
        "1.1.x",
    )
    argv = launch.argv[launch.argv.index("/usr/bin/apptainer") :]
    assert argv[:7] == ("/usr/bin/apptainer", "--quiet", "exec", "--userns", "--containall", "--no-privs", "--no-home")
    assert "--no-eval" in argv
    assert argv[-3:] == ("/i.sif", "/bin/sh", "/tmp/.pilot/start.sh")
    assert argv[argv.index(f"{places.work}:/srv") - 1] == "--bind"
    assert "/in:/inputs:ro" in argv
    assert not any("geheim" in word for word in launch.argv)
    assert launch.environment["APPTAINERENV_PGPASSWORD"] == "geheim"
    assert launch.environment["APPTAINERENV_A"] == "x,y $(id)"
    assert {name for name in launch.environment if not name.startswith("APPTAINERENV_")} == {
        "PATH",
        "HOME",
        "APPTAINER_CONFIGDIR",
        "PILOT_PAYLOAD_ID",
    }


def test_singularity_is_spoken_to_by_its_own_name(places: PayloadPlaces) -> None:
    launch = container_launch(
        Path("/usr/bin/singularity"),
        Mode(own_proc=False),
        Path("/i"),
        Command("true"),
        PayloadEnvironment({"A": "b"}),
        places,
        (),
        (),
        "t",
    )
    assert launch.environment["SINGULARITYENV_A"] == "b"
    assert " ".join(launch.argv).count("--no-mount proc --bind /proc") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"INFO: x\nFATAL:   could not open image /x: no such file\nmore\n", "could not open image /x: no such file"),
        (b"ERROR  : Failed to create user namespace\n", "Failed to create user namespace"),
        (b"something\nlast words\x1b[0m\n\n", "last words"),
        (b"", None),
    ],
)
def test_the_runtimes_last_complaint_is_its_message(text: bytes, message: str | None) -> None:
    assert message_in(text) == message


def test_a_missing_file_of_messages_is_none(tmp_path: Path) -> None:
    assert container_message(tmp_path / "none") is None


def test_markers_are_read_even_when_the_payload_removed_them(places: PayloadPlaces) -> None:
    markers = Markers(places)
    try:
        assert not markers.started()
        assert markers.exit_code() is None
        started, exit_code = places.tmp / ".pilot" / "started", places.tmp / ".pilot" / "exitcode"
        started.write_text("started\n")
        exit_code.write_text("7\n")
        started.unlink()
        exit_code.unlink()
        assert markers.started()
        assert markers.exit_code() == 7
    finally:
        markers.close()


def test_a_marker_with_nonsense_is_no_exit_code(places: PayloadPlaces) -> None:
    markers = Markers(places)
    try:
        (places.tmp / ".pilot" / "exitcode").write_text("900000000000000000000000")
        assert markers.exit_code() is None
    finally:
        markers.close()


def test_a_container_started_by_root_cannot_set_the_kernel() -> None:
    options = Mode().options()
    assert ("/proc/sys:/proc/sys:ro" in options) == (os.geteuid() == 0)
    assert ("sys" in options) == (os.geteuid() == 0)
