"""The final report arrives exactly once in effect: through faults of the server, and across the pilot's own death."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, Pilots, log_url, public, submit, updates

FINAL = '"job_status": "finished"'


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("reset-before", {}),
        ("reset-after-commit", {}),
        ("hang", {"delay_s": 0.5}),
        ("hang", {"delay_s": 0.5, "commit": True}),
        ("status", {"status": 503, "count": 2}),
        ("html", {"status": 502}),
        ("empty", {"commit": True}),
        ("garbage", {"commit": True}),
        ("truncated", {}),
        ("database", {}),
    ],
    ids=lambda value: str(value),
)
def test_a_fault_at_the_final_report_costs_nothing(
    world: World, pilots: Pilots, kind: str, options: dict[str, Any]
) -> None:
    panda_id = submit(world, "true")
    world.sandbox.fault(kind, path="/update_job", contains=FINAL, **options)
    end = pilots.run(*HASTY)
    assert end.exit_code == 0, end.stderr
    assert end.jobs[panda_id]["state"] == "finished"
    world.sandbox.wait_for(panda_id, {"finished"}, 5)
    finals = [body for body in updates(world, panda_id) if body["job_status"] == "finished"]
    assert all(body == finals[0] for body in finals)
    assert world.sandbox.faults() == []


@pytest.mark.parametrize("committed", [False, True], ids=["before the server has it", "after"])
def test_the_report_of_a_pilot_that_died_is_delivered_by_the_next(
    world: World, pilots: Pilots, committed: bool
) -> None:
    panda_id = submit(world, "echo done")
    world.sandbox.fault("hang", path="/update_job", contains=FINAL, commit=committed)
    pilot = pilots.start()
    pilot.wait_until(
        lambda: any(body["job_status"] == "finished" for body in updates(world, panda_id)), "the report is sent"
    )
    pilot.signal(signal.SIGKILL)
    pilot.end()
    world.sandbox.clear_faults()
    end = pilots.run(*HASTY, workdir=pilot.workdir)
    assert end.exit_code == 0, end.stderr
    job = world.sandbox.wait_for(panda_id, {"finished"}, 5)
    assert [file["status"] for file in job["files"]] == ["ready"]
    finals = [body for body in updates(world, panda_id) if body["job_status"] in ("finished", "failed")]
    assert all(body == finals[0] for body in finals)
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "done\n"
    assert list((end.workdir / "jobs").iterdir()) == []


def test_a_server_that_stays_away_leaves_the_report_in_the_outbox_for_a_successor(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    world.sandbox.fault("status", status=503, path="/update_job", contains=FINAL, count=1000)
    world.sandbox.fault("status", status=503, path="/get_job", count=1000)
    end = pilots.run("--final-retry-s", "1")
    assert end.exit_code == 79
    assert len(end.complaints) == 1
    assert "not delivered" in end.complaints[0]
    assert len(list((end.workdir / "jobs").iterdir())) == 1
    world.sandbox.clear_faults()
    assert pilots.run(*HASTY, workdir=end.workdir).exit_code == 0
    world.sandbox.wait_for(panda_id, {"finished"}, 5)
