"""Rung B at work: a pilot with three capabilities serves a payload that is another user."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.sandbox.world import World
from tests.escape.suite import CAPABILITIES, open_folder
from tests.integration.pilot.pilotrun import HASTY, Pilots, log_url, output_keys, public, submit, wait_until

THREE = ("setpriv", f"--bounding-set={CAPABILITIES['B']}", "--inh-caps=-all", "--no-new-privs", "--")
UID = 65532
PRIVATE = """umask 077
[ "$(cat /proc/self/oom_score_adj)" = 500 ] || exit 9  # the kernel's victim rather than the pilot
python3 -c 'import os, tempfile; n = tempfile.mkstemp(dir="."); os.write(n[0], b"out"); os.rename(n[1], "out.txt")'
mkdir closed; echo x >closed/file; chmod 000 closed; echo mine >copy.txt; chmod 400 copy.txt
python3 -c 'x = bytearray(60 << 20); import time; time.sleep(0.7)'; echo last words >&2
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_folder() as folder, World(folder / "state", adder_delay_s=0.0) as world:
        yield world


@pytest.fixture
def pilots(world: World) -> Iterator[Pilots]:
    with open_folder() as folder:
        pilots = Pilots(world, folder)
        try:
            yield pilots
        finally:
            pilots.stop_all()


def processes_of_the_user(uid: int = UID) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"Uid:\t{uid}\t" in (entry / "status").read_text():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_what_the_payload_keeps_to_itself_is_measured_stored_and_removed(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, PRIVATE, **output_keys("out.txt", "copy.txt"))
    end = pilots.run(*HASTY, wrap=THREE)
    told = end.jobs[panda_id]
    assert (told["state"], told["isolation"]) == ("finished", "B:uid+landlock"), end.stderr
    assert told["max_pss_bytes"] > 60 << 20
    assert (
        "pssIsRss" not in world.sandbox.job(panda_id)["fields"]["jobmetrics"]
    )  # the pilot may see what the payload may
    assert "last words" in public(world, log_url(world, panda_id, "payload.stderr")).text
    assert not list((end.workdir / "jobs").iterdir())
    assert processes_of_the_user() == []


def test_a_pilot_that_is_killed_takes_the_other_users_processes_along(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "env -i setsid sleep 600 & echo up >started; trap '' TERM; while :; do sleep 0.1; done")
    pilot = pilots.start("--max-empty", "1", wrap=THREE)
    started = pilot.workdir / f"jobs/{panda_id}.0/work/started"
    pilot.wait_until(started.exists, "the payload is up")
    assert processes_of_the_user()
    pilot.signal(signal.SIGKILL)
    pilot.process.wait(5)
    wait_until(lambda: not processes_of_the_user(), "the payload is gone", 10)
    end = pilots.run(*HASTY, wrap=THREE, workdir=pilot.workdir)
    assert end.jobs[panda_id]["state"] == "failed"
    assert not list((end.workdir / "jobs").iterdir())
