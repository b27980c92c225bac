"""The rung payloads run on: reported, and required before any job is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, QUEUE, Pilots, acquires, last_seq, submit


@pytest.mark.parametrize(
    ("args", "queue", "words"),
    [
        (("--require-isolation", "A"), {}, ("isolation A is required", "no image is named")),
        (("--require-isolation", "B"), {}, ("isolation B is required", "is closed to uid 65532", "C:landlock")),
        ((), {"own_containers": True}, ("isolation C is required", "own_containers is set", "is closed to uid")),
        (("--payload-user", "root"), {}, ("payload_user", "must not be root")),
    ],
)
def test_a_pilot_whose_payloads_would_run_too_low_says_what_is_missing_and_takes_no_job(
    world: World, pilots: Pilots, args: tuple[str, ...], queue: dict[str, Any], words: tuple[str, ...]
) -> None:
    submit(world, "true")
    before = last_seq(world)
    end = pilots.run(*HASTY, *args, config=pilots.settings(queues={QUEUE: queue}))
    assert end.exit_code == (2 if "payload_user" in words else 65), end.stderr
    assert len(end.complaints) == 1
    assert all(word in end.complaints[0] for word in words), end.complaints
    assert acquires(world, before) == []


def test_the_rung_is_in_summary_metrics_and_log(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    end = pilots.run(*HASTY)
    assert end.jobs[panda_id]["isolation"] == "C:landlock"
    assert "isolation=C:landlock" in world.sandbox.job(panda_id)["fields"]["jobmetrics"]
    assert "payloads without a container run on rung C:landlock" in end.stderr
    assert "rung B is not to be had: " in end.stderr


def test_nothing_may_be_required(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    config = pilots.settings(queues={QUEUE: {"own_containers": True}})
    end = pilots.run(*HASTY, "--require-isolation", "none", config=config)
    assert (end.jobs[panda_id]["state"], end.jobs[panda_id]["isolation"]) == ("finished", "D:none")


def test_a_payload_behind_landlock_works_as_payloads_do(world: World, pilots: Pilots) -> None:
    shared = pilots.folder / "shared"
    shared.mkdir()
    text = f"""set -e
python3 -c 'import multiprocessing as m; m.Lock(); m.Queue().put(1)'
echo x >/dev/null; echo y >/dev/stderr; echo z >$TMPDIR/a; mkdir -p d/e; mv d/e f; ln f/../a.txt b.txt 2>/dev/null || :
echo shared >{shared}/from-the-payload; ! touch /tmp/elsewhere; ! cat {pilots.folder}/summary0.json
"""
    panda_id = submit(world, text)
    end = pilots.run(*HASTY, config=pilots.settings(queues={QUEUE: {"binds": [f"{shared}:{shared}"]}}))
    assert end.jobs[panda_id]["state"] == "finished", end.stderr
    assert (shared / "from-the-payload").read_text() == "shared\n"
