"""Container jobs with a tiny image: as a SIF, as an unpacked folder, fetched by the queue's settings; and when it cannot be."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import requests

from pilot.sandbox.cric_server import TRANSFORM_BUCKET
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, QUEUE, Pilots, log_url, processes_of, public, submit, wait_until

ABOUT = "pwd; id -u; ls /; ps | grep -c pilot-star[t]; env | sort"


@pytest.mark.parametrize("kind", ["SIF", "folder"])
def test_a_job_runs_in_the_image_it_is_given(
    world: World, pilots: Pilots, busybox: tuple[Path, Path], kind: str
) -> None:
    image = busybox[0] if kind == "SIF" else busybox[1]
    well, ill = submit(world, ABOUT), submit(world, "echo 'inside it failed' >&2; exit 7")
    end = pilots.run(*HASTY, "--image", str(image), env={"MY_TOKEN": "pilots-own"})
    assert (end.jobs[well]["state"], end.jobs[well]["isolation"]) == ("finished", "A:apptainer"), end.stderr
    assert "isolation=A:apptainer" in world.sandbox.job(well)["fields"]["jobmetrics"]
    lines = public(world, log_url(world, well, "payload.stdout")).text.splitlines()
    assert lines[0] == "/srv"
    assert "srv" in lines
    assert "0" in lines  # no process of the pilot's to be seen
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert seen["PANDAID"] == str(well)
    assert (seen["HOME"], seen["TMPDIR"]) == ("/tmp/home", "/tmp")
    assert "MY_TOKEN" not in seen
    assert str(end.workdir) not in "".join(seen.values())
    assert (end.jobs[ill]["state"], end.jobs[ill]["trans_exit_code"]) == ("failed", 7)
    assert end.jobs[ill]["pilot_error_code"] == 1305
    assert "inside it failed" in end.jobs[ill]["pilot_error_diag"]


def test_the_queues_image_is_fetched_once_for_all_jobs(
    world: World, pilots: Pilots, busybox: tuple[Path, Path]
) -> None:
    url = f"{world.gcs_url}/upload/storage/v1/b/{TRANSFORM_BUCKET}/o?uploadType=media&name=busybox.sif"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(url, data=busybox[0].read_bytes(), verify=str(world.ca_path), timeout=10)
    assert answer.status_code == 200
    ids = [submit(world, "test -x /bin/busybox && echo inside") for _ in range(2)]
    config = pilots.settings(queues={QUEUE: {"image": f"gs://{TRANSFORM_BUCKET}/busybox.sif"}})
    end = pilots.run(*HASTY, config=config)
    for panda_id in ids:
        assert (end.jobs[panda_id]["state"], end.jobs[panda_id]["isolation"]) == ("finished", "A:apptainer"), end.stderr
    assert end.stderr.count("fetching image") == 1
    assert len(list((end.workdir / "images").glob("*.sif"))) == 1


def test_runtime_plain_runs_without_the_image(world: World, pilots: Pilots, busybox: tuple[Path, Path]) -> None:
    panda_id = submit(world, "echo $BASH_VERSION")
    end = pilots.run(*HASTY, "--image", str(busybox[0]), "--runtime", "plain")
    assert (end.jobs[panda_id]["state"], end.jobs[panda_id]["isolation"]) == ("finished", "C:landlock")
    assert public(world, log_url(world, panda_id, "payload.stdout")).text.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_nothing_of_a_container_outlives_its_pilot(
    world: World, pilots: Pilots, busybox: tuple[Path, Path], number: signal.Signals
) -> None:
    stubborn = "setsid sh -c 'trap \"\" TERM; echo up > started; while :; do sleep 0.2; done' & wait"
    panda_id = submit(world, stubborn)
    pilot = pilots.start("--image", str(busybox[0]), "--payload-grace-s", "0.3")
    pilot.wait_until(lambda: (pilot.workdir / f"jobs/{panda_id}.0/work/started").exists(), "the payload is up")
    pilot.signal(number)
    end = pilot.end(15)
    wait_until(lambda: not processes_of(pilot.workdir), "the container is gone")
    if number is signal.SIGTERM:
        assert end.exit_code == 143
        assert world.sandbox.job(panda_id)["fields"]["piloterrorcode"] == 1201
