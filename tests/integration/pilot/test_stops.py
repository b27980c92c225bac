"""Being stopped: by the server, by signals, at the end of the lifetime, and by SIGKILL. Nothing of a payload survives."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    Pilots,
    RunningPilot,
    acquires,
    last_seq,
    log_url,
    processes_of,
    public,
    submit,
    updates,
    wait_until,
)

# A child in a session of its own, deaf to SIGTERM, and a parent that waits for it.
STUBBORN = "setsid sh -c 'trap \"\" TERM; echo up > started; while :; do sleep 0.2; done' & echo begun; wait"


def started(world: World, pilots: Pilots, *args: str, env: dict[str, str] | None = None) -> tuple[RunningPilot, int]:
    """A pilot whose payload is running on the node and for the server; and the PandaID."""
    panda_id = submit(world, STUBBORN, maxWalltime=None)
    pilot = pilots.start("--max-jobs", "2", *args, env=env)
    pilot.wait_until(lambda: (pilot.workdir / f"jobs/{panda_id}.0/work/started").exists(), "the payload is up")
    pilot.wait_until(lambda: world.sandbox.job(panda_id)["status"] == "running", "the server knows it")
    return pilot, panda_id


def stopped_payload(workdir: Path) -> bool:
    return not processes_of(workdir)


def test_a_job_killed_on_the_server_is_stopped_and_its_logs_are_kept(world: World, pilots: Pilots) -> None:
    pilot, panda_id = started(world, pilots, "--heartbeat", "0.2", "--payload-grace-s", "0.3", "--max-jobs", "1")
    world.sandbox.kill(panda_id)
    end = pilot.end()
    assert end.exit_code == 0
    assert world.sandbox.job(panda_id)["status"] == "cancelled"
    final = updates(world, panda_id)[-1]
    assert (final["job_status"], final["pilot_error_code"]) == ("failed", 1144)
    assert end.jobs[panda_id]["pilot_error_code"] == 1144
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "begun\n"
    assert stopped_payload(end.workdir)


@pytest.mark.parametrize(
    ("number", "environment", "code", "exit_code"),
    [
        (signal.SIGTERM, {}, 1201, 143),
        (signal.SIGTERM, {"K8S_JOB_ID": "grid-job-1"}, 1379, 143),
        (signal.SIGINT, {}, 1208, 130),
    ],
    ids=["SIGTERM", "SIGTERM in a pod", "SIGINT"],
)
@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_signal_ends_the_payload_and_the_job_is_reported(
    world: World, pilots: Pilots, number: signal.Signals, environment: dict[str, str], code: int, exit_code: int
) -> None:
    pilot, panda_id = started(world, pilots, "--payload-grace-s", "0.3", env=environment)
    pilot.signal(number)
    end = pilot.end(15)
    assert end.exit_code == exit_code
    job = world.sandbox.job(panda_id)
    assert (job["status"], job["fields"]["piloterrorcode"]) == ("failed", code)
    assert [body["job_status"] for body in updates(world, panda_id)].count("failed") == 1
    assert end.jobs[panda_id]["pilot_error_code"] == code
    assert end.summary is not None
    assert end.summary["pilot"]["exit_code"] == exit_code
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "begun\n"
    assert f"{code}" in public(world, log_url(world, panda_id)).text
    assert stopped_payload(end.workdir)
    assert "Traceback" not in end.stderr


def test_a_second_signal_changes_nothing(world: World, pilots: Pilots) -> None:
    pilot, panda_id = started(world, pilots, "--payload-grace-s", "0.5")
    pilot.signal(signal.SIGTERM)
    pilot.wait_until(lambda: "stopping the payload" in pilot.log, "the first is obeyed")
    pilot.signal(signal.SIGTERM)
    pilot.signal(signal.SIGINT)
    end = pilot.end(15)
    assert end.exit_code == 143
    assert world.sandbox.job(panda_id)["fields"]["piloterrorcode"] == 1201


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_an_idle_pilot_leaves_at_once_when_told_to(world: World, pilots: Pilots) -> None:
    before = last_seq(world)
    pilot = pilots.start("--max-empty", "1000", "--empty-wait-s", "60")
    pilot.wait_until(lambda: acquires(world, before), "it has asked for a job")
    pilot.signal(signal.SIGTERM)
    end = pilot.end(10)
    assert (end.exit_code, end.jobs) == (143, {})


def test_a_pilot_told_to_leave_in_its_first_moments_takes_no_job(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "sleep 60")
    world.sandbox.fault("slow", path="/api/atlas", delay_s=1.0)
    pilot = pilots.start()
    pilot.wait_until(lambda: "for queue" in pilot.log, "it has begun")
    pilot.signal(signal.SIGTERM)
    end = pilot.end(10)
    assert end.exit_code == 143
    assert "Traceback" not in end.stderr
    assert world.sandbox.job(panda_id)["status"] == "activated"


def test_at_the_end_of_its_lifetime_the_pilot_stops_and_reports_its_job(world: World, pilots: Pilots) -> None:
    pilot, panda_id = started(world, pilots, "--lifetime", "2.5", "--payload-grace-s", "0.3")
    end = pilot.end(15)
    assert end.exit_code == 0
    job = world.sandbox.job(panda_id)
    assert (job["status"], job["fields"]["piloterrorcode"]) == ("failed", 1213)
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "begun\n"


def test_a_pilot_that_is_killed_leaves_no_payload_behind_and_its_job_to_the_next(world: World, pilots: Pilots) -> None:
    pilot, panda_id = started(world, pilots)
    pilot.signal(signal.SIGKILL)
    assert pilot.end().exit_code == -signal.SIGKILL
    wait_until(lambda: stopped_payload(pilot.workdir), "the payload is gone")
    end = pilots.run("--max-empty", "1", "--empty-wait-s", "0", workdir=pilot.workdir)
    assert end.exit_code == 0, end.stderr
    job = world.sandbox.job(panda_id)
    assert job["status"] == "failed"
    assert job["fields"]["piloterrorcode"] > 0
    assert job["fields"]["piloterrordiag"]
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "begun\n"
    assert list((end.workdir / "jobs").iterdir()) == []
