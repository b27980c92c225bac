"""The health check of a living pilot: it fails when the conductor is stuck, wherever that is, and at nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot.runtime import health, pulse
from pilot.sandbox.world import World
from tests.integration.pilot import freezing
from tests.integration.pilot.pilotrun import (
    PROGRAM,
    QUEUE,
    Pilots,
    RunningPilot,
    acquires,
    last_seq,
    processes_of,
    submit,
    wait_until,
)

EVERY_S, STALE_AFTER_S = 0.1, 0.6
ROUNDS = 4  # a helper that is frozen for so many times STALE_AFTER_S has proven its point
Start = Callable[..., RunningPilot]

CONDUCTOR = [
    "ACQUIRE_ASKING",
    "STARTING_ASKING",
    "PREPARED",
    "PAYLOAD_RUNNING",
    "PAYLOAD_EXITED",
    "FINAL_PREPARED",
    "CLEANING",
]
HELPERS = [*freezing.LOOPS, "FINAL_SENDING", "LOG_BUNDLED"]


@pytest.fixture
def start(world: World, pilots: Pilots) -> Iterator[Start]:
    """``start(at, *args, env=...)``: a pilot with a quick pulse that freezes at that place ('' never)."""
    started: list[RunningPilot] = []

    def start(at: str, *args: str, env: dict[str, str] | None = None) -> RunningPilot:
        plan = {"at": at, "every_s": EVERY_S, "stale_after_s": STALE_AFTER_S, "mark": str(pilots.folder / "frozen")}
        (pilots.folder / "plan.json").write_text(json.dumps(plan))
        workdir = pilots.folder / "work"
        argv = [sys.executable, freezing.__file__, str(pilots.folder / "plan.json"), "--queue", QUEUE]
        argv += ["--config", str(world.state_dir / "pilot.yaml"), "--workdir", str(workdir), *args]
        path = {"PYTHONPATH": str(Path(freezing.__file__).parents[3])}
        pilot = RunningPilot(argv, pilots.environment() | path | (env or {}), workdir, pilots.folder / "summary.json")
        started.append(pilot)
        return pilot

    yield start
    for pilot in started:
        pilot.stop_all()
        wait_until(lambda: not processes_of(pilots.folder), "nothing of it is left")


def check(pilot: RunningPilot) -> tuple[int, str]:
    """The health check as a kubelet runs it: exit code and the sentence."""
    argv = [str(PROGRAM), "--healthcheck", "--workdir", str(pilot.workdir)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}, cwd="/")
    said = done.stdout + done.stderr
    assert said.count("\n") == 1 and "Traceback" not in said
    return done.returncode, said.strip()


def signed_at_s(pilot: RunningPilot) -> float:
    try:
        return float(json.loads((pilot.workdir / "alive").read_text())["at_s"])
    except (OSError, ValueError):
        return 0.0


def lives_on(pilot: RunningPilot, since_s: float) -> None:
    """The conductor beats long after ``since_s``, and the health check says so."""
    end_s = since_s + ROUNDS * STALE_AFTER_S
    pilot.wait_until(lambda: signed_at_s(pilot) > end_s, "the heart beats on", 30)
    exit_code, said = check(pilot)
    assert exit_code == 0, said


def frozen(pilot: RunningPilot, pilots: Pilots) -> str:
    """Wait until it is frozen; the name of the frozen thread."""
    mark = pilots.folder / "frozen"
    pilot.wait_until(mark.exists, "it is frozen", 30)
    return mark.read_text()


@pytest.mark.parametrize("at", CONDUCTOR)
def test_a_conductor_that_is_stuck_fails_the_check(world: World, pilots: Pilots, start: Start, at: str) -> None:
    submit(world, "true")
    pilot = start(at, "--heartbeat", "0.1", "--max-jobs", "1")
    assert frozen(pilot, pilots) == "MainThread"
    wait_until(lambda: check(pilot)[0] == 1, "the check fails")
    assert "has not come back" in check(pilot)[1]


@pytest.mark.parametrize("at", HELPERS)
def test_a_helper_or_a_stage_that_is_stuck_does_not(world: World, pilots: Pilots, start: Start, at: str) -> None:
    submit(world, "true" if at not in ("heartbeat", "log-pump", "monitor") else "sleep 60")
    ids = {"HARVESTER_ID": "h", "workerID": "1"} if at == "worker-status" else {}
    pilot = start(at, "--heartbeat", "0.1", "--max-jobs", "2", "--max-empty", "1000", "--empty-wait-s", "5", env=ids)
    assert frozen(pilot, pilots) != "MainThread"
    lives_on(pilot, time.monotonic())


def test_an_outage_of_the_server_fails_no_check(world: World, pilots: Pilots, start: Start) -> None:
    """While the pilot waits for a job, and while it has one that it cannot report."""
    panda_id, before = submit(world, "while [ ! -e go ]; do sleep 0.05; done"), last_seq(world)
    pilot = start("", "--heartbeat", "0.1", "--max-empty", "1000", "--empty-wait-s", "5")
    pilot.wait_until(lambda: world.sandbox.job(panda_id)["status"] == "running", "the job runs")
    try:
        world.sandbox.down("panda")
        lives_on(pilot, time.monotonic())
        (pilot.workdir / f"jobs/{panda_id}.0/work/go").touch()
        pilot.wait_until(lambda: "final report not delivered yet" in pilot.log, "it cannot report")
        lives_on(pilot, time.monotonic())
    finally:
        world.sandbox.up("panda")
    pilot.wait_until(lambda: len(acquires(world, before)) > 1, "it asks for the next job", 60)
    world.sandbox.fault("hang", path="acquire_jobs", count=100, delay_s=60.0)
    lives_on(pilot, time.monotonic())


def test_a_suspended_pilot_is_not_killed_for_it_and_neither_is_one_that_goes_on(start: Start) -> None:
    pilot = start("", "--max-empty", "1000", "--empty-wait-s", "60")
    pilot.wait_until(lambda: signed_at_s(pilot) > 0, "it lives")
    pilot.signal(signal.SIGSTOP)
    wait_until(lambda: check(pilot) == (0, f"the pilot (pid {pilot.process.pid}) is suspended"), "it is suspended")
    pilot.signal(signal.SIGCONT)
    assert check(pilot)[0] == 0, "it has had no time to sign yet"
    lives_on(pilot, time.monotonic())


def test_a_startup_probe_fails_until_there_is_a_pilot_and_again_when_it_has_left(world: World, start: Start) -> None:
    world.sandbox.fault("slow", path="/api/atlas", delay_s=1.0)
    pilot = start("", "--max-empty", "1000", "--empty-wait-s", "60")
    pilot.wait_until(lambda: check(pilot)[0] == 0, "it works")
    pilot.signal(signal.SIGTERM)
    assert pilot.end(15).exit_code == 143
    assert check(pilot) == (1, f"pilot-start: no pilot works in {pilot.workdir} (there is no {pilot.workdir}/alive)")


def test_a_pilot_that_was_killed_is_gone_and_the_next_one_signs_anew(start: Start) -> None:
    waiting = ("--max-empty", "1000", "--empty-wait-s", "60")
    first = start("", *waiting)
    first.wait_until(lambda: check(first)[0] == 0, "it works")
    first.signal(signal.SIGKILL)
    first.end(10)
    assert "is gone" in check(first)[1]
    second = start("", *waiting)
    second.wait_until(lambda: check(second)[0] == 0, "its successor works")


def test_a_stuck_conductor_lets_the_worker_log_grow_old_although_helpers_write_it(
    world: World, pilots: Pilots, start: Start
) -> None:
    tmp = pilots.folder / "tmp"
    tmp.mkdir()
    submit(world, "sleep 60")
    env = {"TMPDIR": str(tmp), "HARVESTER_ID": "h", "workerID": "2"}
    pilot = start("PAYLOAD_RUNNING", "--heartbeat", "0.1", env=env)
    frozen(pilot, pilots)
    log = tmp / "wrapper-wid.log"
    before = log.stat()
    try:
        world.sandbox.down("panda")
        wait_until(lambda: log.stat().st_size > before.st_size, "the heartbeat complains in the log", 40)
    finally:
        world.sandbox.up("panda")
    assert log.stat().st_mtime_ns == before.st_mtime_ns


def test_the_figures_of_production_keep_the_promise_of_a_minute() -> None:
    assert health.STALE_AFTER_S + health.PATIENCE_S < 60
    assert pulse.BEAT_S * 4 < health.STALE_AFTER_S, "a busy machine may miss some"


def test_a_pilot_that_cannot_sign_works_all_the_same(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    (pilots.folder / "work").mkdir()
    (pilots.folder / "work" / "alive").symlink_to("elsewhere")
    end = pilots.run("--max-jobs", "1", workdir=pilots.folder / "work")
    assert end.exit_code == 0 and end.jobs[panda_id]["state"] == "finished"
    assert "health checks will fail" in end.stderr and not (pilots.folder / "work" / "elsewhere").exists()
