"""The same job through each API generation, with each kind of credentials, pulled and pushed, and within a pilot's limits."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    HASTY,
    PROGRAM,
    QUEUE,
    PilotEnd,
    Pilots,
    acquires,
    last_seq,
    log_url,
    paths,
    public,
    submit,
)


def finished(world: World, end: PilotEnd, panda_id: int) -> dict[str, Any]:
    """Asserts that the job is finished on the server and told so; the job."""
    assert end.exit_code == 0, end.stderr
    assert end.jobs[panda_id]["state"] == "finished", end.stderr
    return world.sandbox.wait_for(panda_id, {"finished"}, 5)


@pytest.mark.parametrize(
    ("offered", "chosen", "spoken"),
    [
        ("legacy", "auto", "/server/panda/"),
        ("v1", "auto", "/api/v1/"),
        ("both", "auto", "/api/v1/"),
        ("both", "legacy", "/server/panda/"),
        ("both", "v1", "/api/v1/"),
    ],
)
def test_a_job_is_run_in_the_api_generation_there_is(
    world: World, pilots: Pilots, offered: str, chosen: str, spoken: str
) -> None:
    world.sandbox.set_apis(offered)
    panda_id, before = submit(world, "echo hello"), last_seq(world)
    end = pilots.run(*HASTY, "--api", chosen)
    job = finished(world, end, panda_id)
    assert job["fields"]["pilotid"].startswith(log_url(world, panda_id))
    assert [file["status"] for file in job["files"]] == ["ready"]
    of_the_job = [path for path in paths(world, before) if path.endswith(("/update_job", "/updateJob"))]
    assert len(of_the_job) >= 2
    assert all(path.startswith(spoken) for path in of_the_job)
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "hello\n"


def test_a_proxy_is_enough(world: World, pilots: Pilots) -> None:
    panda_id, before = submit(world, "true"), last_seq(world)
    config = pilots.settings(without=("cert", "key"))
    proxy = str(world.state_dir / "proxy.pem")
    finished(world, pilots.run(*HASTY, config=config, env={"X509_USER_PROXY": proxy}), panda_id)
    callers = {entry["caller"] for entry in world.sandbox.ledger(before) if "/pilot/" in entry["path"]}
    assert len(callers) == 1
    assert "Robot PanDA Pilot" in callers.pop()


def test_a_token_and_its_origin_are_enough(world: World, pilots: Pilots) -> None:
    panda_id, before = submit(world, "true"), last_seq(world)
    config = pilots.settings(without=("cert", "key"))
    token = str(world.state_dir / "token")
    end = pilots.run(*HASTY, "--token-file", token, "--origin", "Rubin.production", config=config)
    finished(world, end, panda_id)
    callers = {entry["caller"] for entry in world.sandbox.ledger(before) if "/pilot/" in entry["path"]}
    assert callers == {"bearer token"}
    assert Path(token).read_text() not in end.stderr


def test_a_job_given_url_encoded_is_run_alone_and_none_is_asked_for(world: World, pilots: Pilots) -> None:
    panda_id, waiting = submit(world, "echo pushed"), submit(world, "true")
    file = pilots.folder / "pandaJobData.out"
    file.write_text(_acquired(world, "/server/panda/getJob", {"siteName": QUEUE, "prodSourceLabel": "managed"}).text)
    assert f"PandaID={panda_id}" in file.read_text()
    before = last_seq(world)
    end = pilots.run("--job", str(file), "--api", "legacy")
    finished(world, end, panda_id)
    assert list(end.jobs) == [panda_id]
    assert acquires(world, before) == []
    assert world.sandbox.job(waiting)["status"] == "activated"


@pytest.mark.parametrize("offered", ["both", "legacy"])
def test_a_job_given_as_json_is_run_alone_and_none_is_asked_for(world: World, pilots: Pilots, offered: str) -> None:
    panda_id, waiting = submit(world, "echo pushed"), submit(world, "true")
    answer = _acquired(world, "/api/v1/pilot/acquire_jobs", {"site_name": QUEUE, "prod_source_label": "managed"}).json()
    file = pilots.folder / "job.json"
    file.write_text(json.dumps(answer["data"]["jobs"][0]))
    world.sandbox.set_apis(offered)
    before = last_seq(world)
    end = pilots.run(env={"submit_mode": "PUSH", "PILOT_JOB": str(file)})
    finished(world, end, panda_id)
    assert list(end.jobs) == [panda_id]
    assert acquires(world, before) == []
    assert world.sandbox.job(waiting)["status"] == "activated"


def test_max_jobs_ends_the_pilot_while_there_are_more(world: World, pilots: Pilots) -> None:
    ids = [submit(world, "true") for _ in range(3)]
    before = last_seq(world)
    end = pilots.run("--max-jobs", "2")
    assert (end.exit_code, list(end.jobs)) == (0, ids[:2])
    assert len(acquires(world, before)) == 2
    assert world.sandbox.job(ids[2])["status"] == "activated"


def test_max_empty_is_the_number_of_empty_answers_in_a_row(world: World, pilots: Pilots) -> None:
    before = last_seq(world)
    end = pilots.run("--max-empty", "3", "--empty-wait-s", "0")
    assert (end.exit_code, end.jobs) == (0, {})
    assert len(acquires(world, before)) == 3
    assert end.complaints == []


def test_harvesters_variables_reach_the_server(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    harvester = {
        "HARVESTER_ID": "harvester-of-tests",
        "workerID": "4711",
        "PANDA_JSID": "harvester-of-tests",
        "K8S_JOB_ID": "grid-job-42",
        "PANDA_HOSTNAME": "node-1.example",
        "resourceType": "SCORE",
        "computingSite": QUEUE,
        "jobType": "$jobType",
    }
    fields = finished(world, pilots.run(*HASTY, env=harvester, queue=None), panda_id)["fields"]
    assert fields["batchid"] == "grid-job-42"
    assert fields["schedulerid"] == "harvester-of-tests"
    assert fields["modificationhost"] == "node-1.example"
    (worker,) = world.sandbox.workers()
    assert (worker["harvester_id"], worker["worker_id"]) == ("harvester-of-tests", 4711)
    assert (worker["pilotstatus"], worker["nodeid"]) == ("finished", "node-1.example")


def test_one_command_is_a_world_and_a_pilot(tmp_path: Path) -> None:
    command = [str(PROGRAM), "--sandbox", "--max-empty", "1", "--empty-wait-s", "0", "--queue", QUEUE]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "the server had no job" in done.stderr
    assert "server:" in done.stdout
    assert (tmp_path / ".local/state/pilot-sandbox/panda.sqlite").exists()
    shutil.rmtree(tmp_path / ".local")


def _acquired(world: World, path: str, request: dict[str, str]) -> requests.Response:
    """A job request as Harvester makes it for a worker that it pushes a job to."""
    certificate = (str(world.state_dir / "client.crt"), str(world.state_dir / "client.key"))
    given: dict[str, Any] = {"json": request} if path.startswith("/api/") else {"data": request}
    with requests.Session() as session:
        session.trust_env = False
        url = world.server_url + path
        return session.post(url, **given, cert=certificate, verify=str(world.ca_path), timeout=10)
