"""Logging to Google's cloud, a real TLS server on loopback in its place: what arrives, what an outage and a flood do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilot.logs.google_logging import EntriesRefused, GoogleLogging, LoggingOptions, ServiceUnreachable
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, PilotEnd, Pilots, submit, wait_until

ON = {
    "USE_REALTIME_LOGGING": "yes",
    "REALTIME_LOGGING_SERVER": "google-cloud-logging",
    "REALTIME_LOGNAME": "Panda-RubinLog",
    "REALTIME_LOGFILES": "payload-log.json",
    "HARVESTER_ID": "harvester-of-tests",
    "HARVESTER_WORKER_ID": "4711",
    "PANDA_HOSTNAME": "gke-node-7",
}


@pytest.fixture(autouse=True)
def _no_entries(world: World) -> None:
    world.google.log_entries.clear()


def of_log(world: World, name: str) -> list[dict[str, Any]]:
    return [entry for entry in list(world.google.log_entries) if entry["logName"] == f"projects/sandbox/logs/{name}"]


def payload_lines(world: World, panda_id: int) -> list[dict[str, Any]]:
    found = [entry["jsonPayload"] for entry in of_log(world, "Panda-RubinLog")]
    return [payload for payload in found if payload["PandaJobID"] == str(panda_id)]


def record(number: int, level: str = "INFO") -> str:
    return json.dumps({"levelname": level, "name": "lsst.isr", "message": f"line {number}", "MDC": {"RUN": "r"}})


def run(pilots: Pilots, *args: str, **env: str) -> PilotEnd:
    """With a TMPDIR: there are Harvester ids, so there is a worker log."""
    return pilots.run(*HASTY, *args, env={**ON, "TMPDIR": str(pilots.folder), **env})


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_payload_lines_and_pilot_events_arrive_under_the_names_in_use(world: World, pilots: Pilots) -> None:
    lines = [f"echo '{record(1)}'", f"echo '{record(2, 'ERROR')}'", "printf last"]
    command = "; ".join(f"{line} >> payload-log.json" for line in lines)
    panda_id = submit(world, command, taskID=990, jobName="isr-of-tests")
    assert run(pilots).exit_code == 0
    first, _second, last = payload_lines(world, panda_id)
    ids = {
        "TaskID": "990",
        "PandaJobID": str(panda_id),
        "Harvester_WorkerID": "4711",
        "Harvester_ID": "harvester-of-tests",
    }
    assert first == json.loads(record(1)) | ids
    assert last == {"message": "last"} | ids
    severities = [entry["severity"] for entry in of_log(world, "Panda-RubinLog")]
    assert severities == ["INFO", "ERROR", "DEFAULT"]
    events = [entry["jsonPayload"] for entry in of_log(world, "Panda-WorkerLog")]
    assert {event["hostname"] for event in events} == {"gke-node-7"}
    assert {event["Harvester_WorkerID"] for event in events} == {"4711"}
    of_job = [event for event in events if event.get("PandaJobID") == str(panda_id)]
    assert any("finished" in event["message"] for event in of_job)
    assert "isr-of-tests" in {event.get("jobName") for event in of_job}
    assert any(event["message"].startswith("leaving:") for event in events), "the last ones too"
    stamp = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    assert all(stamp.fullmatch(entry["timestamp"]) for entry in world.google.log_entries)
    assert all(entry["resource"]["type"] == "global" for entry in world.google.log_entries)


def test_no_secret_arrives(world: World, pilots: Pilots) -> None:
    submit(world, 'echo "the word is $AWS_SECRET_ACCESS_KEY" >> payload-log.json')
    run(pilots, "--log-level", "DEBUG", AWS_SECRET_ACCESS_KEY="sesame-open-the-door")
    arrived = json.dumps(world.google.log_entries)
    assert "the word is ***" in arrived and "sesame" not in arrived


@pytest.mark.parametrize(
    "off",
    [
        {"USE_REALTIME_LOGGING": "no"},
        {"USE_REALTIME_LOGGING": ""},
        {"REALTIME_LOGGING_SERVER": "$REALTIME_LOGGING_SERVER"},
        {"REALTIME_LOGGING_SERVER": "logstash;http://host:1"},
    ],
)
def test_it_is_off_unless_it_is_switched_on_for_this_service(world: World, pilots: Pilots, off: dict[str, str]) -> None:
    submit(world, "echo hello >> payload-log.json")
    end = run(pilots, **off)
    assert end.exit_code == 0 and world.google.log_entries == []
    assert ("is not known here" in end.stderr) is (off.get("USE_REALTIME_LOGGING", "yes") == "yes")


def test_what_it_needs_is_imported_only_when_it_is_on() -> None:
    code = (
        "import sys, contextlib; from pilot.settings import read_settings; from pilot.own_logs import realtime_logs\n"
        "from pilot.runtime.stop import Stop\n"
        "def cost(env):\n"
        "    with realtime_logs(read_settings({'queue': 'Q'}, env, ()), Stop()): pass\n"
        "    costly = {'google.auth', 'grpc', 'pilot.logs.cloud', 'google.cloud.logging'}\n"
        "    return sorted(costly & set(sys.modules))\n"
        "print(cost({})); print(cost({'USE_REALTIME_LOGGING': 'yes', 'REALTIME_LOGGING_SERVER': 'google-cloud-logging'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['google.auth', 'pilot.logs.cloud']"]


# --- what must not matter ---------------------------------------------------------------------------------------------


def test_an_outage_costs_the_job_nothing_and_afterwards_everything_arrives(world: World, pilots: Pilots) -> None:
    loop = 'i=0; while [ ! -e go ]; do i=$((i+1)); echo "{\\"n\\": $i}" >> payload-log.json; sleep 0.2; done; echo $i > count'
    panda_id = submit(world, loop)
    world.sandbox.fault("status", path="entries:write", count=3, status=503)
    pilot = pilots.start(*HASTY, env={**ON, "TMPDIR": str(pilots.folder)})
    try:
        pilot.wait_until(lambda: "cloud logging is out of reach" in pilot.log, "it is seen")
        work = pilot.workdir / f"jobs/{panda_id}.0/work"
        wait_until(lambda: payload_lines(world, panda_id), "it is over", 60)
    finally:
        (work / "go").touch()
    end = pilot.end()
    assert end.jobs[panda_id]["state"] == "finished"
    numbers = [payload["n"] for payload in payload_lines(world, panda_id)]
    assert numbers == list(range(1, len(numbers) + 1)), "each once and in order"
    assert end.stderr.count("cloud logging is out of reach") == 1


def test_a_service_that_hangs_for_good_delays_neither_the_job_nor_the_end(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "echo hello >> payload-log.json")
    world.sandbox.fault("hang", path="entries:write", count=100, delay_s=60.0)
    end = run(pilots)
    assert end.exit_code == 0 and end.jobs[panda_id]["state"] == "finished"
    assert re.search(r"cloud logging: \d+ entries are not sent", end.stderr)
    assert "Traceback" not in end.stderr


def test_a_key_that_is_refused_is_told_and_that_is_all(world: World, pilots: Pilots) -> None:
    world.sandbox.set_oauth("403")
    try:
        end = run(pilots)
    finally:
        world.sandbox.set_oauth("ok")
    assert end.exit_code == 0 and "cloud logging is out of reach: no token for it" in end.stderr
    assert "Traceback" not in end.stderr


def test_a_payload_that_floods_it_finishes_and_the_loss_is_told(world: World, pilots: Pilots) -> None:
    line = json.dumps({"message": "x" * 180})
    panda_id = submit(world, f"yes '{line}' | head -n 100000 > payload-log.json")  # 20 MB at once
    end = run(pilots)
    assert end.jobs[panda_id]["state"] == "finished"
    found = payload_lines(world, panda_id)
    told = [payload["message"] for payload in found if "are left out" in payload["message"]]
    assert len(told) == 1
    assert 0 < len(found) < 20_000


# --- the service ------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(world: World) -> Callable[..., GoogleLogging]:
    def make(**changes: Any) -> GoogleLogging:
        known: dict[str, Any] = {
            "endpoint": world.google_url,
            "ca_path": str(world.ca_path),
            "key_file": world.state_dir / "gcs-key.json",
            "metadata_url": world.plain_url,
        }
        return GoogleLogging(LoggingOptions(**known | changes))

    return make


def entry(number: int = 1, **changes: Any) -> bytes:
    known = {"logName": "projects/sandbox/logs/test", "insertId": str(number), "jsonPayload": {"number": number}}
    return json.dumps(known | changes).encode()


Make = Callable[..., GoogleLogging]


def test_a_key_file_signs_and_names_the_project(world: World, service: Make) -> None:
    logging = service()
    assert logging.project() == "sandbox"
    logging.write([entry(1), entry(2)])
    logging.close()
    assert [e["jsonPayload"]["number"] for e in of_log(world, "test")] == [1, 2]


def test_without_a_key_the_node_signs_and_names_the_project(world: World, service: Make) -> None:
    logging = service(key_file=None)
    assert logging.project() == "sandbox"
    logging.write([entry(1)])
    logging.close()
    assert len(of_log(world, "test")) == 1


def test_a_project_that_is_set_is_not_asked_for(service: Make) -> None:
    assert service(key_file=None, project="mine", metadata_url="http://127.0.0.1:1").project() == "mine"


def test_an_entry_that_was_written_before_its_answer_was_lost_is_not_there_twice(world: World, service: Make) -> None:
    logging = service()
    world.sandbox.fault("reset-after-commit", path="entries:write")
    with pytest.raises(ServiceUnreachable):
        logging.write([entry(1)])
    logging.write([entry(1), entry(2)])
    logging.close()
    assert len(of_log(world, "test")) == 2


def test_of_entries_that_are_too_large_the_others_are_written_and_the_number_is_told(
    world: World, service: Make
) -> None:
    logging = service()
    with pytest.raises(EntriesRefused, match="HTTP 400: Some entries are too large") as raised:
        logging.write([entry(1), entry(2, jsonPayload={"message": "x" * 300_000}), entry(3)])
    logging.close()
    assert raised.value.count == 1
    assert [e["jsonPayload"]["number"] for e in of_log(world, "test")] == [1, 3]


@pytest.mark.parametrize(
    ("fault", "options"), [("status", {"status": 503}), ("status", {"status": 403}), ("reset", {}), ("garbage", {})]
)
def test_trouble_is_unreachable_or_success_and_never_a_loss(
    world: World, service: Make, fault: str, options: dict[str, Any]
) -> None:
    logging = service()
    world.sandbox.fault(fault, path="entries:write", **options)
    if fault == "garbage":
        logging.write([entry(1)])  # HTTP 200 is the service's word, whatever stands in it
    else:
        with pytest.raises(ServiceUnreachable):
            logging.write([entry(1)])
    logging.write([entry(2)])
    logging.close()
    assert of_log(world, "test")[-1]["jsonPayload"]["number"] == 2


def test_a_token_that_is_no_longer_taken_is_fetched_anew(world: World, service: Make) -> None:
    logging = service()
    logging.write([entry(1)])
    issued = world.google.issued
    world.sandbox.fault("status", path="entries:write", status=401)
    with pytest.raises(ServiceUnreachable, match="401"):
        logging.write([entry(2)])
    logging.write([entry(2)])
    logging.close()
    assert world.google.issued == issued + 1


def test_a_service_that_cannot_be_verified_gets_nothing(world: World, service: Make) -> None:
    with pytest.raises(ServiceUnreachable, match=r"verif|no token"):
        service(ca_path=None).write([entry(1)])
    assert of_log(world, "test") == []


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("{}", "names no project"), ("no JSON", "names no project")]
)
def test_a_key_file_that_is_none_is_said(tmp_path: Path, service: Make, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    with pytest.raises(ServiceUnreachable, match=words):
        service(key_file=tmp_path / "key.json").project()
    with pytest.raises(ServiceUnreachable):
        service(key_file=tmp_path / "key.json", project="p").write([entry(1)])
