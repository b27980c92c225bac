"""Under Harvester: exactly its environment, both generations; the worker log and the worker's states reach the server."""

from __future__ import annotations

import gzip
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from pilot.sandbox.certs import make_proxy, write_private
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    HASTY,
    QUEUE,
    PilotEnd,
    Pilots,
    RunningPilot,
    acquires,
    last_seq,
    paths,
    public,
    submit,
    updates,
    wait_until,
)
from tests.unit.test_settings import harvester_2021, harvester_2026

UPLOADS = ("/api/v1/file_server/upload_cache_file", "/server/panda/putFile")


@pytest.fixture(autouse=True)
def _no_files(world: World) -> None:
    for file in (world.state_dir / "cache").iterdir():
        file.unlink()


def pod(world: World, pilots: Pilots, harvester: Mapping[str, str], **changes: str) -> dict[str, str]:
    """Harvester's environment in a pod of this machine: its addresses and folders, and nothing of the world's settings."""
    work = pilots.folder / "pilotdir"
    work.mkdir(exist_ok=True)
    here = {
        "proxySecretPath": str(world.state_dir / "proxy.pem"),
        "logs_frontend_w": f"{world.server_url}/server/panda",
        "logs_frontend_r": f"{world.server_url}/cache",
        "TMPDIR": str(work),
        "HOME": str(work),
    }
    if "GOOGLE_APPLICATION_CREDENTIALS" in harvester:
        here["GOOGLE_APPLICATION_CREDENTIALS"] = str(world.state_dir / "gcs-key.json")
    return {**harvester, **here, **changes}


def start_settings(pilots: Pilots) -> Path:
    """What an operator's settings file says of this world, without credentials for the PanDA server."""
    return pilots.settings(without=("cert", "key"))


def run(world: World, pilots: Pilots, env: Mapping[str, str], *args: str) -> PilotEnd:
    return pilots.run(*HASTY, *args, env=env, queue=None, config=start_settings(pilots))


def read(world: World, name: str) -> requests.Response:
    certificate = (str(world.state_dir / "client.crt"), str(world.state_dir / "client.key"))
    with requests.Session() as session:
        session.trust_env = False
        url = f"{world.server_url}/cache/{name}"
        return session.get(url, cert=certificate, verify=str(world.ca_path), timeout=10)


def monitors_links(pilot_id: str) -> dict[str, str]:
    """The links a job's page of BigPanDA has, by its own rule (facts on Harvester, section 6)."""
    log, *_rest = pilot_id.split("|")
    if not log.startswith("http") or "{" in log or not log.endswith("pilotlog.txt"):
        return {}
    return {
        name: log.removesuffix("pilotlog.txt") + name for name in ("pilotlog.txt", "payload.stdout", "payload.stderr")
    }


def check_pilot_id(world: World, fields: Mapping[str, str], middle: list[str]) -> None:
    """``<log URL>|<batch system>|<version tag>|<version>``: the links lead to the logs, the last word is the version."""
    assert len(fields["pilotid"]) <= 200
    assert fields["pilotid"].split("|")[1:] == [*middle, "0.1.0"]
    links = monitors_links(fields["pilotid"])
    assert public(world, links["payload.stdout"]).text == "hello\n"
    assert [public(world, url).status_code for url in links.values()] == [200, 200, 200]


# --- the two generations ----------------------------------------------------------------------------------------------


def test_a_pod_of_2026_needs_no_option_and_hands_its_log_in_as_announced(world: World, pilots: Pilots) -> None:
    panda_id, before = submit(world, "echo hello"), last_seq(world)
    env = pod(world, pilots, harvester_2026())
    end = run(world, pilots, env)
    assert end.exit_code == 0, end.stderr
    fields = world.sandbox.wait_for(panda_id, {"finished"}, 5)["fields"]
    assert (fields["batchid"], fields["schedulerid"]) == (env["K8S_JOB_ID"], env["PANDA_JSID"])
    assert fields["modificationhost"] == env["PANDA_HOSTNAME"]
    check_pilot_id(world, fields, ["Kubernetes", "RC"])
    (request,) = [json.loads(e["body"]) for e in world.sandbox.ledger(before) if e["path"].endswith("/acquire_jobs")][
        :1
    ]
    assert (request["harvester_id"], request["worker_id"]) == (env["HARVESTER_ID"], int(env["workerID"]))
    assert (request["scheduler_id"], request["job_type"]) == (env["PANDA_JSID"], "unified")
    assert (request["prod_source_label"], request["resource_type"]) == ("unified", "SCORE")
    assert (request["node"], request["site_name"]) == (env["PANDA_HOSTNAME"], QUEUE)
    name = f"{env['HARVESTER_ID']}_{env['workerID']}_gz.out"
    text = gzip.decompress(read(world, name).content).decode()
    assert "pilot 0.1.0 on gke-node-7" in text and "leaving:" in text and f"job {panda_id}" in text
    assert text.count("pilotUrlOpt, pythonOption, pilotVersion: options of the wrapper") == 1
    url = f"{env['logs_frontend_r']}/{name}"
    assert url in text and end.summary is not None and end.summary["pilot"]["worker_log_url"] == url
    told = [path for path in paths(world, before) if path.endswith("update_worker_status")]
    assert len(told) == 2
    assert [path for path in paths(world, before) if not path.startswith("/cache/")][-1] == UPLOADS[0], "last of all"


def test_a_pod_of_2021_hands_it_in_plain_under_its_older_name(world: World, pilots: Pilots) -> None:
    world.sandbox.set_apis("legacy")
    panda_id, before = submit(world, "echo hello"), last_seq(world)
    env = pod(world, pilots, harvester_2021())
    end = run(world, pilots, env)
    assert end.exit_code == 0, end.stderr
    fields = world.sandbox.wait_for(panda_id, {"finished"}, 5)["fields"]
    assert fields["schedulerid"] == env["PANDA_JSID"]
    check_pilot_id(world, fields, ["PR"])
    request = next(json.loads(e["body"]) for e in world.sandbox.ledger(before) if e["path"].endswith("/getJob"))
    assert (request["harvester_id"], request["worker_id"]) == (env["HARVESTER_ID"], int(env["workerID"]))
    text = read(world, f"{env['HARVESTER_ID']}_{env['workerID']}.out").text
    assert "leaving:" in text and f"job {panda_id}" in text
    (worker,) = [w for w in world.sandbox.workers() if w["worker_id"] == int(env["workerID"])]
    assert worker["pilotstatus"] == "finished"
    assert [path for path in paths(world, before) if path.startswith("/server/panda/")][-1] == UPLOADS[1]


def test_a_harvester_of_2021_at_a_server_of_both_gets_the_name_it_announced(world: World, pilots: Pilots) -> None:
    env = pod(world, pilots, harvester_2021(), stdout_name="announced.out")
    end = run(world, pilots, env)
    assert end.summary is not None
    assert end.summary["pilot"]["worker_log_url"] == f"{env['logs_frontend_r']}/announced.out"
    assert "leaving:" in read(world, "announced.out").text


@pytest.mark.parametrize(("api", "name"), [("v1", "{}_gz.out"), ("legacy", "{}.out")])
def test_the_generation_of_the_log_is_the_apis(world: World, pilots: Pilots, api: str, name: str) -> None:
    env = pod(world, pilots, harvester_2026())
    run(world, pilots, env, "--api", api)
    assert read(world, name.format(f"{env['HARVESTER_ID']}_{env['workerID']}")).status_code == 200


def test_a_token_hands_it_in_too(world: World, pilots: Pilots) -> None:
    (pilots.folder / "token").write_text((world.state_dir / "token").read_text())
    token = {"PANDA_AUTH_DIR": str(pilots.folder), "PANDA_AUTH_TOKEN": "token"}
    env = pod(world, pilots, harvester_2026(), proxySecretPath="", PILOT_ORIGIN="Rubin.production", **token)
    before = last_seq(world)
    assert run(world, pilots, env).exit_code == 0
    (entry,) = [entry for entry in world.sandbox.ledger(before) if entry["path"] in UPLOADS]
    assert (entry["caller"], json.loads(entry["answer"])["success"]) == ("bearer token", True)
    stored = b"".join(file.read_bytes() for file in (world.state_dir / "cache").iterdir())
    assert (world.state_dir / "token").read_bytes() not in gzip.decompress(stored)


# --- what must not be delayed or lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["status", "hang", "garbage"])
def test_a_log_that_cannot_be_handed_in_costs_nothing_but_itself(world: World, pilots: Pilots, fault: str) -> None:
    panda_id = submit(world, "true")
    world.sandbox.fault(fault, path="file_server", count=100, delay_s=0.5)
    world.sandbox.fault(fault, path="putFile", count=100, delay_s=0.5)
    env = pod(world, pilots, harvester_2026())
    end = run(world, pilots, env)
    assert end.exit_code == 0 and "the worker log is not uploaded" in end.stderr
    assert world.sandbox.wait_for(panda_id, {"finished"}, 5)
    assert "Traceback" not in end.stderr
    assert "leaving:" in Path(env["TMPDIR"], "wrapper-wid.log").read_text()


def test_a_refusal_with_http_200_is_seen_as_one(world: World, pilots: Pilots) -> None:
    env = pod(world, pilots, harvester_2026())
    (world.state_dir / "cache" / f"{env['HARVESTER_ID']}_{env['workerID']}_gz.out").write_text("an earlier pilot's")
    end = run(world, pilots, env)
    assert end.exit_code == 0
    assert "the worker log is not uploaded" in end.stderr and "cannot overwrite file" in end.stderr


def test_after_sigterm_the_report_goes_first_and_the_log_in_what_time_is_left(world: World, pilots: Pilots) -> None:
    panda_id, before = submit(world, "trap '' TERM; echo up > started; sleep 60"), last_seq(world)
    world.sandbox.fault("hang", path="file_server", count=100, delay_s=60.0)
    env = pod(world, pilots, harvester_2026())
    args = ("--payload-grace-s", "0.2", "--shutdown-s", "4")
    pilot = pilots.start(*HASTY, *args, env=env, queue=None, config=start_settings(pilots))
    pilot.wait_until(lambda: (pilot.workdir / f"jobs/{panda_id}.0/work/started").exists(), "the payload is up")
    pilot.signal(signal.SIGTERM)
    end = pilot.end(10)
    assert end.exit_code == 143
    assert updates(world, panda_id)[-1]["job_status"] == "failed"
    assert "the worker log is not uploaded" in end.stderr
    order = [path for path in paths(world, before) if path.endswith(("update_job", "upload_cache_file"))]
    assert order[-1] in UPLOADS and order.count(UPLOADS[0]) == 1


def test_after_sigterm_the_log_is_handed_in_when_there_is_time(world: World, pilots: Pilots) -> None:
    before = last_seq(world)
    env = pod(world, pilots, harvester_2026())
    waiting = ("--max-empty", "1000", "--empty-wait-s", "60")
    pilot = pilots.start(*waiting, env=env, queue=None, config=start_settings(pilots))
    pilot.wait_until(lambda: acquires(world, before), "it has asked for a job")
    pilot.signal(signal.SIGTERM)
    assert pilot.end(10).exit_code == 143
    text = gzip.decompress(read(world, f"{env['HARVESTER_ID']}_{env['workerID']}_gz.out").content).decode()
    assert "leaving: the pilot received SIGTERM" in text


@pytest.mark.parametrize(
    ("queue", "exit_code", "words"),
    [({"status": "offline"}, 83, "offline"), ({"state": "DISABLED"}, 78, "not active"), ({}, 71, "no queue")],
    ids=["offline", "not active", "unknown"],
)
def test_a_worker_that_leaves_early_has_started_and_finished_and_its_log_says_why(
    world: World, pilots: Pilots, queue: dict[str, str], exit_code: int, words: str
) -> None:
    name = f"EARLY_{exit_code}"
    if queue:
        world.sandbox.set_queue(name, **queue)
    before = last_seq(world)
    env = pod(world, pilots, harvester_2026(), pandaQueueName=name, workerID=str(exit_code))
    end = run(world, pilots, {**env, "HARVESTER_WORKER_ID": str(exit_code)})
    assert end.exit_code == exit_code
    states = [
        json.loads(entry["body"])["status"]
        for entry in world.sandbox.ledger(before)
        if entry["path"].endswith("update_worker_status")
    ]
    assert states == ["started", "finished"]
    text = gzip.decompress(read(world, f"{env['HARVESTER_ID']}_{exit_code}_gz.out").content).decode()
    assert f"leaving with exit code {exit_code}" in text and end.complaints[0].removeprefix("pilot-start: ") in text
    assert words in end.complaints[0].lower()


def test_a_worker_the_server_does_not_know_leaves_and_says_so(world: World, pilots: Pilots) -> None:
    world.sandbox.ban("Robot PanDA Pilot")
    env = pod(world, pilots, harvester_2026())
    try:
        end = run(world, pilots, env)
    finally:
        world.sandbox.unban("Robot PanDA Pilot")
    assert end.exit_code == 79 and "is banned" in end.complaints[0]
    log = Path(env["TMPDIR"], "wrapper-wid.log").read_text()
    for words in ("worker status started not delivered", "worker status finished not delivered", "log is not uploaded"):
        assert words in log
    assert "Traceback" not in log


def test_a_second_pilot_on_the_volume_hands_in_nothing_of_the_first_ones(world: World, pilots: Pilots) -> None:
    env = pod(world, pilots, harvester_2026())
    pilot, _id, work = running(world, pilots, env)
    before = last_seq(world)
    second = pilots.run(*HASTY, env=env, queue=None, config=start_settings(pilots), workdir=pilot.workdir)
    assert second.exit_code == 65
    assert [path for path in paths(world, before) if path in UPLOADS or "worker_status" in path] == []
    (work / "go").touch()
    assert pilot.end().exit_code == 0
    assert read(world, f"{env['HARVESTER_ID']}_{env['workerID']}_gz.out").status_code == 200


def test_without_credentials_the_log_stays_and_that_is_said(world: World, pilots: Pilots) -> None:
    env = pod(world, pilots, harvester_2026(), proxySecretPath=str(pilots.folder / "none"))
    end = run(world, pilots, env)
    assert end.exit_code == 68
    text = Path(env["TMPDIR"], "wrapper-wid.log").read_text()
    assert "leaving with exit code 68" in text and "the worker log is not uploaded" in text


def test_a_frontend_that_is_no_https_address_gets_no_credentials(world: World, pilots: Pilots) -> None:
    env = pod(world, pilots, harvester_2026(), logs_frontend_w=f"{world.plain_url}/server/panda")
    before = last_seq(world)
    end = run(world, pilots, env)
    assert end.exit_code == 0 and "plain http" in end.stderr
    assert not set(UPLOADS) & set(paths(world, before))


def test_without_harvester_there_is_no_worker_log_unless_it_is_asked_for(world: World, pilots: Pilots) -> None:
    tmp = pilots.folder / "tmp"
    tmp.mkdir()
    assert pilots.run(*HASTY, env={"TMPDIR": str(tmp)}).exit_code == 0
    assert list(tmp.iterdir()) == []
    assert pilots.run(*HASTY, "--worker-log", str(tmp / "mine.log"), env={"TMPDIR": str(tmp)}).exit_code == 0
    assert [file.name for file in tmp.iterdir()] == ["mine.log"]


# --- PUSH -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["url", "json"])
def test_a_pushed_job_runs_from_a_read_only_folder(world: World, pilots: Pilots, form: str) -> None:
    panda_id, waiting = submit(world, "echo 'a + b'"), submit(world, "true")
    file = pushed(world, pilots, form)
    before = last_seq(world)
    env = pod(world, pilots, harvester_2026(), submit_mode="PUSH", PILOT_JOB=str(file))
    end = pilots.run(env=env, queue=None, config=start_settings(pilots))
    assert end.exit_code == 0, end.stderr
    assert world.sandbox.wait_for(panda_id, {"finished"}, 5)
    assert acquires(world, before) == []
    assert world.sandbox.job(waiting)["status"] == "activated"


def test_a_pushed_job_that_was_brought_to_its_end_on_this_volume_is_not_run_again(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    env = pod(world, pilots, harvester_2026(), submit_mode="PUSH", PILOT_JOB=str(pushed(world, pilots, "url")))
    first = pilots.run(env=env, queue=None, config=start_settings(pilots))
    told = len(updates(world, panda_id))
    again = pilots.run(env=env, queue=None, config=start_settings(pilots), workdir=first.workdir)
    assert (again.exit_code, again.jobs, len(updates(world, panda_id))) == (0, {}, told)
    assert "was brought to its end before" in again.stderr


def test_a_pushed_job_of_a_queue_that_is_offline_is_reported_at_once(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    world.sandbox.set_queue("OFF", status="offline")
    env = pod(world, pilots, harvester_2026(), submit_mode="PUSH", PILOT_JOB=str(pushed(world, pilots, "json")))
    end = pilots.run(env={**env, "pandaQueueName": "OFF"}, queue=None, config=start_settings(pilots))
    assert end.exit_code == 83
    job = world.sandbox.wait_for(panda_id, {"failed"}, 5)
    assert job["fields"]["piloterrorcode"] == 1386
    assert "set the queue online in CRIC" in job["fields"]["piloterrordiag"]


def pushed(world: World, pilots: Pilots, form: str) -> Path:
    """What Harvester's ConfigMap holds: the next job, acquired in its name, in a folder that cannot be written."""
    certificate = (str(world.state_dir / "client.crt"), str(world.state_dir / "client.key"))
    folder = pilots.folder / "jobconfig"
    folder.mkdir()
    with requests.Session() as session:
        session.trust_env = False
        request = {"siteName": QUEUE, "prodSourceLabel": "managed"}
        headers = {"Accept": "application/json"} if form == "json" else {}
        url = f"{world.server_url}/server/panda/getJob"
        answer = session.post(
            url, data=request, headers=headers, cert=certificate, verify=str(world.ca_path), timeout=10
        )
    file = folder / "pandaJobData.out"
    file.write_bytes(answer.content + b"\r\n")
    file.chmod(0o444)
    folder.chmod(0o555)
    return file


# --- credentials that change under a running pilot --------------------------------------------------------------------


class Secret:
    """A mounted secret as the kubelet keeps it: files that are links into ``..data``, a link that is replaced as a whole."""

    def __init__(self, folder: Path, name: str, content: bytes) -> None:
        self.folder, self.name, self._versions = folder, name, 0
        folder.mkdir()
        self.replace(content)
        (folder / name).symlink_to(f"..data/{name}")

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def replace(self, content: bytes) -> None:
        self._versions += 1
        version = self.folder / f"..version_{self._versions}"
        version.mkdir()
        write_private(version / self.name, content)
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.rename(self.folder / "..data")
        for old in self.folder.glob("..version_*"):
            if old.name != version.name:
                (old / self.name).unlink()
                old.rmdir()


GO_ON = "while [ ! -e go ]; do sleep 0.05; done"


def running(world: World, pilots: Pilots, env: Mapping[str, str]) -> tuple[RunningPilot, int, Path]:
    """A pilot with a job that goes on until a file ``go`` is there; its PandaID and work folder."""
    panda_id = submit(world, GO_ON)
    args = (*HASTY, "--heartbeat", "0.2")
    pilot = pilots.start(*args, env=env, queue=None, config=start_settings(pilots))
    pilot.wait_until(lambda: world.sandbox.job(panda_id)["status"] == "running", "the job runs")
    return pilot, panda_id, pilot.workdir / f"jobs/{panda_id}.0/work"


def callers(world: World, after_seq: int, path: str = "/update_job") -> list[str]:
    return [e["caller"] for e in world.sandbox.ledger(after_seq) if e["path"].endswith(path) and e["status"] == 200]


def test_a_proxy_that_is_renewed_in_the_middle_of_a_job_is_used_from_then_on(world: World, pilots: Pilots) -> None:
    client = world.authority.client("/DC=org/DC=example/OU=Robots/CN=Robot PanDA Pilot")
    first, second = make_proxy(client), make_proxy(client)
    secret = Secret(pilots.folder / "proxy", "x509up", first.proxy_pem)
    env = pod(world, pilots, harvester_2026(), proxySecretPath=str(secret.path))
    before = last_seq(world)
    pilot, panda_id, work = running(world, pilots, env)
    (old,) = set(callers(world, before))
    secret.replace(second.proxy_pem)
    swapped = last_seq(world)
    wait_until(lambda: set(callers(world, swapped)) - {old}, "a heartbeat with the new proxy")
    renewed = last_seq(world)
    (work / "go").touch()
    assert pilot.end().jobs[panda_id]["state"] == "finished"
    assert old not in callers(world, renewed)


def test_a_token_that_is_renewed_in_the_middle_of_a_job_is_used_from_then_on(world: World, pilots: Pilots) -> None:
    secret = Secret(pilots.folder / "tokens", "token", (world.state_dir / "token").read_bytes())
    token = {"PANDA_AUTH_DIR": str(secret.folder), "PANDA_AUTH_TOKEN": "token"}
    env = pod(world, pilots, harvester_2026(), proxySecretPath="", PILOT_ORIGIN="Rubin.production", **token)
    pilot, panda_id, work = running(world, pilots, env)
    world.sandbox.expire_tokens()
    expired = last_seq(world)

    def refused() -> bool:
        entries = [e for e in world.sandbox.ledger(expired) if e["path"].endswith("/update_job")]
        return any(entry["status"] == 403 for entry in entries)

    wait_until(refused, "the old token is refused")
    world.sandbox.renew_token()
    secret.replace((world.state_dir / "token").read_bytes())
    swapped = last_seq(world)
    wait_until(lambda: callers(world, swapped), "a heartbeat with the new token")
    (work / "go").touch()
    assert pilot.end().jobs[panda_id]["state"] == "finished"


def test_a_token_that_the_server_renews_outlives_its_file(world: World, pilots: Pilots) -> None:
    world.renewals.readers.add("Robot Pilot Rubin")
    world.renewals.keys.add("key-for-renewals")
    secret = Secret(pilots.folder / "tokens", "token", world.issuer.token(lifetime_s=600).encode())
    write_private(pilots.folder / "key", b"key-for-renewals")
    token = {"PANDA_AUTH_DIR": str(secret.folder), "PANDA_AUTH_TOKEN": "token"}
    token |= {"PANDA_AUTH_TOKEN_KEY": str(pilots.folder / "key"), "PILOT_ORIGIN": "Rubin.production"}
    env = pod(world, pilots, harvester_2026(), proxySecretPath="", **token)
    try:
        pilot, panda_id, work = running(world, pilots, env)
        pilot.wait_until(lambda: "the token is renewed" in pilot.log, "it is renewed")
        secret.replace(world.issuer.token(lifetime_s=-5).encode())
        swapped = last_seq(world)
        wait_until(lambda: len(callers(world, swapped)) > 1, "heartbeats with the renewed token")
        (work / "go").touch()
        end = pilot.end()
    finally:
        world.renewals.readers.clear()
    assert end.jobs[panda_id]["state"] == "finished"
    assert "key-for-renewals" not in end.stderr


def test_a_renewal_that_is_refused_harms_nothing(world: World, pilots: Pilots) -> None:
    """As on the recorded servers: nobody has the right to it."""
    write_private(pilots.folder / "token", world.issuer.token(lifetime_s=600).encode())
    write_private(pilots.folder / "key", b"key-for-renewals")
    token = {"PANDA_AUTH_DIR": str(pilots.folder), "PANDA_AUTH_TOKEN": "token", "PANDA_AUTH_TOKEN_KEY": "key"}
    env = pod(world, pilots, harvester_2026(), proxySecretPath="", PILOT_ORIGIN="Rubin.production", **token)
    pilot, panda_id, work = running(world, pilots, env)
    pilot.wait_until(lambda: "the token is not renewed" in pilot.log, "it is refused")
    (work / "go").touch()
    end = pilot.end()
    assert (end.exit_code, end.jobs[panda_id]["state"]) == (0, "finished")


def test_harvesters_fixed_origin_gives_way_to_the_settings_file(world: World, pilots: Pilots) -> None:
    token = {"PANDA_AUTH_DIR": str(world.state_dir), "PANDA_AUTH_TOKEN": "token"}
    env = pod(world, pilots, harvester_2026(), proxySecretPath="", **token)
    assert env["PANDA_AUTH_ORIGIN"] == "atlas.pilot"
    panda_id = submit(world, "true")
    config = pilots.settings(without=("cert", "key"), origin="Rubin.production")
    end = pilots.run(*HASTY, env=env, queue=None, config=config)
    assert end.exit_code == 0, end.stderr
    assert world.sandbox.wait_for(panda_id, {"finished"}, 5)
    refused = pilots.run(*HASTY, env=env, queue=None, config=start_settings(pilots))
    assert refused.exit_code == 79, "with Harvester's own it is a token of a VO that the server does not know"


def test_the_probed_link_is_there_while_the_pilot_lives(world: World, pilots: Pilots) -> None:
    """The one name outside of the test's own folders; another pilot of this user may take it over."""
    env = pod(world, pilots, harvester_2026())
    log = Path(env["TMPDIR"], "wrapper-wid.log")
    pilot, _id, work = running(world, pilots, env)
    probed = Path("/tmp/wrapper-wid.log")
    wait_until(lambda: os.path.lexists(probed) and probed.readlink() == log, "the link leads to the log")
    (work / "go").touch()
    pilot.end()
    assert not os.path.lexists(probed) or probed.readlink() != log
