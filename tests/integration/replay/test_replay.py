"""``pilot-replay`` as a person uses it: the same verdict as was reported, from an address, a bundle or a PandaID."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import tarfile
import termios
import time
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest

from tests.integration.pilot.pilotrun import PATH, public
from tests.integration.replay.conftest import IMAGE_URL, INPUT, PROGRAM, SECRET, Jobs, Replays

# name -> state, pilot code, what the command's own exit code was
REPORTED = {
    "fails": ("failed", 1305, 3),
    "crashes": ("failed", 1328, 139),
    "makes nothing": ("failed", 1165, 0),
    "misses its input": ("failed", 1331, None),
    "takes too long": ("failed", 1213, 143),
    "is contained": ("failed", 1305, 9),
}


def fetched(jobs: Jobs, name: str, file: str, into: Path) -> Path:
    answer = public(jobs.world, jobs.url(name, file))
    assert answer.status_code == 200
    into.write_bytes(answer.content)
    return into


def keys_of(jobs: Jobs) -> tuple[object, ...]:
    """What it takes to read the jobs' inputs."""
    return ("--s3-endpoint", jobs.world.s3_url, "--s3-key-file", jobs.world.state_dir / "s3-key")


# --- the same verdict -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTED)
def test_a_job_comes_to_the_verdict_that_was_reported(jobs: Jobs, replay: Replays, name: str) -> None:
    state, code, own_code = REPORTED[name]
    told = jobs.told(name)
    assert (told["state"], told["pilot_error_code"], told["trans_exit_code"]) == REPORTED[name], jobs.end.stderr
    again = replay(jobs.url(name), *keys_of(jobs))
    assert again.same, again.stdout + again.stderr
    assert again.line("replayed").startswith(f"{state} {code}: ")
    if name not in ("takes too long", "misses its input"):  # they tell figures and places of this run
        assert again.line("replayed") == again.line("reported")
    assert again.exit_code == (own_code or 65)


def test_one_that_succeeds_does_so_again_with_the_inputs_it_had(jobs: Jobs, replay: Replays, tmp_path: Path) -> None:
    again = replay(jobs.url("works", "payload.stdout"), *keys_of(jobs), "--into", tmp_path / "mine")
    assert (again.exit_code, again.same) == (0, True), again.stdout + again.stderr
    work = next((tmp_path / "mine" / "jobs").iterdir()) / "work"
    assert (work / "out.txt").read_bytes() == INPUT.upper()
    assert again.line("folder") == str(work.parent)


def test_inputs_may_come_from_a_folder_and_are_verified(jobs: Jobs, replay: Replays, tmp_path: Path) -> None:
    without = replay(jobs.url("works"))
    assert "in.txt at its recorded address 1" in without.line("replayed") and without.exit_code == 65
    mine = tmp_path / "inputs"
    mine.mkdir()
    (mine / "in.txt").write_bytes(INPUT)
    assert replay(jobs.url("works"), "--inputs", mine).exit_code == 0
    (mine / "in.txt").write_bytes(INPUT.upper())
    assert "1171" in replay(jobs.url("works"), "--inputs", mine).line("replayed")


# --- where a job is found ---------------------------------------------------------------------------------------------


def test_a_folder_a_bundle_and_a_panda_id_lead_to_the_same_job(jobs: Jobs, replay: Replays, tmp_path: Path) -> None:
    folder = jobs.url("fails").rpartition("/")[0]
    bundle = fetched(jobs, "fails", "log.tgz", tmp_path / "log.tgz")
    as_operator = ("--config", jobs.world.state_dir / "pilot.yaml", "--queue", "DOMA_LSST_DEV")
    for target, *arguments in ((folder,), (f"{folder}/",), (bundle,), (jobs.ids["fails"], *as_operator)):
        again = replay(target, *arguments)
        assert (again.exit_code, again.same) == (3, True), again.stdout + again.stderr
    assert (tmp_path / "replay-{}-3".format(jobs.ids["fails"]) / "reported" / "pilotlog.txt").exists()


@pytest.mark.parametrize(
    ("target", "arguments", "code", "words"),
    [
        ("nowhere.tgz", (), 67, "nowhere.tgz does not exist"),
        ("http://host/PandaJob_1/pilotlog.txt", (), 2, "is no address of logs"),
        ("EMPTY", (), 67, "there is neither replay.json nor log.tgz in https://"),
        ("https://127.0.0.1:1/logs/Q/PandaJob_1/pilotlog.txt", (), 67, "the logs cannot be read: https://127.0.0.1:1"),
        ("MALFORMED", (), 67, "there is neither replay.json nor log.tgz"),
        ("4711", (), 2, "no queue: give --queue NAME"),
        ("UNKNOWN", (), 67, "knows no job 999"),
        ("4711", ("--queue", "DOMA_LSST_DEV"), 68, "no credentials"),
        ("FAILS", ("--env", "A B"), 2, "--env 'A B' is no name of a variable"),
        ("FAILS", ("--env", "NOT_SET"), 2, "--env NOT_SET: there is no such variable in your environment"),
        ("FAILS", ("--bind", "relative:/x"), 2, "--bind: 'relative:/x' is no bind"),
        ("FAILS", ("--into", "/etc"), 2, "--into /etc: it is there already"),
        ("FAILS", ("--require-isolation", "A"), 65, "isolation A is required"),
        ("FAILS", ("--image", "/nowhere.sif"), 65, "1360"),
        ("TELLS", (), 2, "jobPars of the job held a secret"),
        ("NODE", (), 2, "a file of its node, and no path that a log names is used here: give the image with --image"),
    ],
)
def test_what_a_person_can_do_wrong_is_one_sentence_and_a_code(
    jobs: Jobs, replay: Replays, target: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    names = {"FAILS": "fails", "TELLS": "tells its secret", "NODE": "is of its node", "MALFORMED": "is malformed"}
    if target in names:
        target = jobs.url(names[target])
    elif target == "EMPTY":
        target = jobs.url("fails").replace("PandaJob_", "PandaJob_1")
    elif target == "UNKNOWN":
        target, arguments = "999", ("--config", str(jobs.world.state_dir / "pilot.yaml"), "--queue", "DOMA_LSST_DEV")
    again = replay(target, *arguments)
    assert again.exit_code == code, again.stdout + again.stderr
    assert words in " ".join((again.stdout + again.stderr).split())
    complaints = [line for line in again.stderr.splitlines() if line.startswith("pilot-replay: ")]
    assert len(complaints) == (0 if "--image" in arguments else 1), again.stderr


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_named_and_asked_for_and_shown_nowhere(jobs: Jobs, replay: Replays, tmp_path: Path) -> None:
    url = jobs.url("needs a secret")
    assert jobs.told("needs a secret")["state"] == "finished"
    document = public(jobs.world, jobs.url("needs a secret", "replay.json")).text
    assert SECRET not in document and json.loads(document)["hidden"] == ["PGPASSWORD"]
    without = replay(url)
    assert (without.exit_code, without.same) == (1, False)
    assert without.notes == [
        "left out, because it is secret: PGPASSWORD; --env NAME takes one from your environment, --env NAME=VALUE sets it"
    ]
    for arguments, env in ((("--env", "PGPASSWORD"), {"PGPASSWORD": SECRET}), (("--env", f"PGPASSWORD={SECRET}"), {})):
        again = replay(url, *arguments, env=env)
        assert (again.exit_code, again.same, again.line("given")) == (0, True, "PGPASSWORD"), again.stdout
        assert SECRET not in again.stdout + again.stderr
    not_asked = replay(url, env={"PGPASSWORD": SECRET})
    assert not_asked.exit_code == 1  # what lies about in the environment is nobody's but the person's


def test_what_a_persons_own_settings_say_of_the_queue_is_given(jobs: Jobs, replay: Replays, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("queues: {DOMA_LSST_DEV: {payload_env: [PGPASSWORD]}}\n")
    again = replay(jobs.url("needs a secret"), "--config", mine, env={"PGPASSWORD": SECRET})
    assert (again.exit_code, again.notes) == (0, [])


# --- containers -------------------------------------------------------------------------------------------------------


def test_a_container_is_the_one_that_was_recorded_or_the_persons_own(
    jobs: Jobs, replay: Replays, busybox: Path
) -> None:
    again = replay(jobs.url("is contained"))
    assert (again.line("image"), again.line("isolation")) == (IMAGE_URL, "A:apptainer")
    assert not any("checksum" in note for note in again.notes)  # it was recorded, and is still the same
    mine = replay(jobs.url("is of its node"), "--image", busybox)
    assert (mine.exit_code, mine.same, mine.line("isolation")) == (8, True, "A:apptainer")


def test_an_image_that_was_replaced_is_not_taken_for_the_one_that_ran(
    jobs: Jobs, replay: Replays, tmp_path: Path
) -> None:
    document = json.loads(public(jobs.world, jobs.url("is contained", "replay.json")).text)
    document["image_checksum"] = "crc32c:00000000"
    again = replay(bundle_of(tmp_path, document))
    assert "1309" in again.line("replayed") and "crc32c:00000000 was expected" in again.line("replayed")


def test_an_ordinary_user_can_do_it_too(jobs: Jobs, replay: Replays) -> None:
    ordinary = changed(replay, wrap=("unshare", "--user", "--map-user=1000", "--map-group=1000"))
    for name, rung in (("is contained", "A:apptainer"), ("fails", "C:landlock")):
        again = ordinary(jobs.url(name))
        assert (again.same, again.line("isolation")) == (True, rung), again.stdout + again.stderr


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("is contained", 9), ("fails", 3), ("needs a secret", 0)])
def test_what_is_laid_out_can_be_run_by_hand(jobs: Jobs, replay: Replays, name: str, code: int) -> None:
    secret = {"PGPASSWORD": SECRET} if name == "needs a secret" else {}
    laid = replay(jobs.url(name), "--dry-run", *(("--env", "PGPASSWORD") if secret else ()), env=secret)
    assert laid.exit_code == 0, laid.stderr
    script = Path(laid.line("to run it").split()[-1])
    assert script.read_text() in laid.stdout
    assert SECRET not in laid.stdout
    done = subprocess.run(["sh", script], env={"PATH": PATH, **secret}, timeout=30)
    assert done.returncode == code


@pytest.mark.parametrize("name", ["is contained", "fails"])
def test_a_shell_opens_where_the_job_ran(jobs: Jobs, replay: Replays, name: str) -> None:
    code = 9 if name == "is contained" else 3
    lines = (
        f'echo "in $PWD, job $PANDAID"; sh $TMPDIR/job.sh >/dev/null; echo "it said $?"; touch made; exit {code + 1}\n'
    )
    shell = replay(jobs.url(name), "--shell", given=lines.encode())
    assert shell.exit_code == code + 1, shell.stdout + shell.stderr
    assert f"job {jobs.ids[name]}" in shell.stdout and f"it said {code}" in shell.stdout
    assert ("in /srv," in shell.stdout) == (name == "is contained")
    assert list(replay.cwd.glob("replay-*/jobs/*/work/made"))


def test_a_shell_leaves_no_process_behind(jobs: Jobs, replay: Replays) -> None:
    shell = replay(jobs.url("fails"), "--shell", given=b"setsid sleep 600 >/dev/null 2>&1 & sleep 600 & exit 0\n")
    assert shell.exit_code == 0  # the fixture looks for what is left


def test_a_shell_on_a_terminal_has_one_of_its_own(jobs: Jobs, replay: Replays) -> None:
    """Its terminal is another than ours, of the same size, and is under job control; ours is as before afterwards."""
    argv = [str(PROGRAM), jobs.url("fails"), "--storage-ca", str(jobs.world.ca_path), "--shell"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 117, 0, 0))
    before, name = termios.tcgetattr(theirs), os.ttyname(theirs)
    child = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=replay.cwd, env={"PATH": PATH, "HOME": str(replay.cwd)}
    )
    try:
        typed = b"stty size; tty; sh -c 'echo first $((1+1)); exec sleep 600'\n"
        seen = talk(ours, rb"[#$] ", typed, until=rb"first 2")
        seen += talk(ours, rb"", b"\x03", until=rb"[#$] ")  # ends the sleep, and nothing else
        seen += talk(ours, rb"", b"exit 5\n", until=rb"exit")
        assert child.wait(20) == 5
        assert re.search(rb"41 117", seen)
        assert re.search(rb"/dev/pts/\d+", seen) and name.encode() + b"\r" not in seen
        assert termios.tcgetattr(theirs) == before
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(theirs)


def talk(terminal: int, prompt: bytes, typed: bytes, until: bytes) -> bytes:
    """Wait for the prompt, type, and read until the pattern has been printed."""
    seen, end_s = b"", time.monotonic() + 20
    wanted = [re.compile(prompt), re.compile(until)]
    while wanted:
        if wanted[0].search(seen):
            if len(wanted) == 2:
                os.write(terminal, typed)
                seen = b""
            wanted.pop(0)
            continue
        assert time.monotonic() < end_s, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
    return seen


# --- hostile logs -----------------------------------------------------------------------------------------------------


def bundle_of(folder: Path, document: dict[str, Any]) -> Path:
    """A log.tgz that somebody else made."""
    (folder / "replay.json").write_text(json.dumps(document))
    path = folder / "hostile.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / "replay.json", "PandaJob_1/replay.json")
        link = tarfile.TarInfo("PandaJob_1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "/", "isolation": "A:apptainer"},
        {"binds": ["/:/host"], "own_containers": False},
        {"environment": {"LD_PRELOAD": "/nonexistent/evil.so", "BASH_ENV": "/nonexistent", "PATH": "/nonexistent"}},
        {"own_containers": True},
        {"hidden": ["MY_TOKEN"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_hostile_log_reads_nothing_of_this_machine(
    jobs: Jobs, replay: Replays, tmp_path: Path, changes: dict[str, Any]
) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("a key of the person's")
    document = json.loads(public(jobs.world, jobs.url("fails", "replay.json")).text)
    command = f'cat {treasure} /host{treasure}; echo "token: $MY_TOKEN"; exit 3'
    document["definition"] |= {"transformation": "bash-c", "jobPars": command}
    again = replay(bundle_of(tmp_path, {**document, **changes}), env={"MY_TOKEN": "my-own-token"})
    outputs = [path.read_text() for path in tmp_path.glob("replay-*/jobs/*/logs/payload.std*")]
    shown = "".join([again.stdout, again.stderr, *outputs])
    assert "a key of the person's" not in shown and "my-own-token" not in shown
    assert again.exit_code != 0
    if changes.get("own_containers"):
        assert again.exit_code == 65 and "isolation C is required" in again.stderr
    if "image" in changes:
        assert again.exit_code == 2 and "no path that a log names is used here" in again.stderr


def test_an_input_of_a_hostile_log_is_no_file_of_this_machine(jobs: Jobs, replay: Replays, tmp_path: Path) -> None:
    treasure = tmp_path / "in.txt"
    treasure.write_bytes(INPUT)
    document = json.loads(public(jobs.world, jobs.url("works", "replay.json")).text)
    for url in (str(treasure), f"file://{treasure}"):
        again = replay(bundle_of(tmp_path, {**document, "sources": {"in.txt": [url]}}))
        assert "no address of it was recorded" in again.line("replayed")
