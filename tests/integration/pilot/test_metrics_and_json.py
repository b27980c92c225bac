"""Metrics of a pilot at work, by port and by file, and its log as JSON lines."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from pilot.runtime.metrics import METRICS
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, Pilots, log_url, output_keys, public, submit

Samples = dict[str, dict[tuple[str, ...], float]]


def samples(text: str) -> Samples:
    """Values by metric and label values, in the order of the metric's labels."""
    labels = {metric.name: metric.labels for metric in METRICS}
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names = labels.get(sample.name, tuple(sample.labels))
            found.setdefault(sample.name, {})[tuple(sample.labels[name] for name in names)] = sample.value
    return found


def scraped(port: int) -> Samples:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    assert answer.status_code == 200
    return samples(answer.text)


def test_a_pilot_at_work_is_counted_and_measured(world: World, pilots: Pilots) -> None:
    go, file = pilots.folder / "go", pilots.folder / "pilot.prom"
    submit(world, "exit 3")
    waiting = f"echo 0123456789 >out.txt; while [ ! -e {go} ]; do sleep 0.05; done"
    panda_id = submit(world, waiting, **output_keys("out.txt"))
    world.sandbox.fault("status", path="update_job", status=503)
    pilot = pilots.start(
        *HASTY, "--metrics-port", "0", "--metrics-file", str(file), "--heartbeat", "0.2", "--require-isolation", "none"
    )
    pilot.wait_until(lambda: re.search(r"metrics: http://127.0.0.1:\d+/metrics", pilot.log), "the port in the log")
    port = int(re.findall(r"127\.0\.0\.1:(\d+)/metrics", pilot.log)[0])
    pilot.wait_until(lambda: ("payload",) in scraped(port).get("pilot_payload_memory_bytes", {}), "a running payload")
    pilot.wait_until(
        lambda: scraped(port).get("pilot_jobs_total", {}) == {("failed", "1305"): 1}, "the first job counted"
    )
    pilot.wait_until(
        lambda: (str(panda_id), "0", "payload") in scraped(port).get("pilot_job_info", {}), "the second job"
    )
    pilot.wait_until(lambda: "pilot_payload_memory_bytes" in scraped(port), "its first sample")
    now = scraped(port)
    assert now["pilot_up"] == {(): 1}
    assert now["pilot_payload_memory_limit_bytes"][("payload",)] == 2 * (1800 << 20)
    assert 0 < now["pilot_payload_memory_bytes"][("payload",)] < 1 << 30
    assert 0 <= now["pilot_heartbeat_age_seconds"][()] < 60
    assert now["pilot_outbox_age_seconds"] == {(): 0}
    assert samples(file.read_text())["pilot_up"] == {(): 1}
    go.touch()
    end = pilot.end()
    assert end.exit_code == 0, end.stderr
    last = samples(file.read_text())
    assert last["pilot_up"] == {(): 0}
    assert last["pilot_jobs_total"] == {("failed", "1305"): 1, ("finished", "0"): 1}
    assert last["pilot_acquire_answers_total"] == {("job",): 2, ("none",): 1}
    assert last["pilot_server_requests_total"][("acquire_jobs", "ok")] == 2
    assert last["pilot_server_requests_total"][("acquire_jobs", "no_job")] == 1
    assert last["pilot_server_requests_total"][("update_job", "retry")] == 1
    assert last["pilot_server_requests_total"][("update_job", "ok")] >= 6
    assert last["pilot_recovered_jobs_total"] == {(): 0}
    counts = last["pilot_stage_duration_seconds_count"]
    assert counts == {("stage_in",): 2, ("setup",): 2, ("payload",): 2, ("stage_out",): 1, ("log",): 2, ("report",): 2}
    moved = last["pilot_transferred_bytes_total"]
    assert moved[("out", "s3")] == 11 and moved[("out", "gs")] > 1000
    assert last["pilot_transfers_total"][("out", "transfer", "ok")] == 1
    assert last["pilot_transfers_total"][("out", "log upload", "ok")] >= 6
    assert "pilot_job_info" not in last and "pilot_payload_memory_bytes" not in last
    with pytest.raises(requests.ConnectionError):
        scraped(port)


def test_a_recovered_job_is_counted_as_such(world: World, pilots: Pilots) -> None:
    submit(world, "sleep 60")
    first = pilots.start(*HASTY)
    first.wait_until(lambda: list(first.workdir.glob("jobs/*/logs/payload.stdout")), "a payload")
    first.process.kill()
    first.process.wait()
    file = pilots.folder / "pilot.prom"
    end = pilots.run("--recover-only", "--metrics-file", str(file), workdir=first.workdir)
    assert end.exit_code == 0, end.stderr
    last = samples(file.read_text())
    assert last["pilot_recovered_jobs_total"] == {(): 1}
    assert [state for state, _code in last["pilot_jobs_total"]] == ["failed"]


def test_a_port_that_is_taken_is_a_line_in_the_log_and_no_more(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    port = world.listeners["plain"].port
    end = pilots.run(*HASTY, "--metrics-port", str(port))
    assert end.exit_code == 0 and end.jobs[panda_id]["state"] == "finished"
    assert f"no metrics on port {port} of 127.0.0.1: Address already in use" in end.stderr


def test_nothing_of_it_is_imported_or_opened_unless_asked_for(world: World, pilots: Pilots) -> None:
    submit(world, "sleep 30")
    pilot = pilots.start(*HASTY, env={"PYTHONVERBOSE": "1"})
    pilot.wait_until(lambda: list(pilot.workdir.glob("jobs/*/logs/payload.stdout")), "a payload")
    assert "import 'pilot.watching'" in pilot.log
    assert "import 'pilot.watch" not in pilot.log.replace("import 'pilot.watching'", "")
    assert "import 'pilot.check" not in pilot.log
    listening = [
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    sockets = [str(link.readlink()) for link in Path(f"/proc/{pilot.process.pid}/fd").iterdir() if link.is_symlink()]
    assert not {f"socket:[{inode}]" for inode in listening} & set(sockets)
    pilot.signal(signal.SIGTERM)
    assert pilot.end().exit_code == 143


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_the_log_is_json_lines_with_the_jobs_ids_and_without_secrets(world: World, pilots: Pilots) -> None:
    secret = "wombat-7-lantern-of-the-tests"
    panda_id = submit(world, 'echo "no key $AWS_SECRET_ACCESS_KEY fits" >&2; exit 5')
    end = pilots.run(*HASTY, "--log-format", "json", env={"AWS_SECRET_ACCESS_KEY": secret})
    assert end.exit_code == 0
    lines = [json.loads(line) for line in end.stderr.splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "thread", "message"} for line in lines)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    of_the_job = [line for line in lines if (line.get("job"), line.get("attempt")) == (panda_id, 0)]
    assert any(line["message"].startswith(f"job {panda_id}.0: failed (1305") for line in of_the_job)
    assert "job" not in lines[0] and "job" not in lines[-1]
    assert secret not in end.stderr and "no key *** fits" in end.stderr
    text = public(world, log_url(world, panda_id, "pilotlog.txt")).text
    assert " | INFO " in text and not text.startswith("{")


def test_also_what_ends_a_pilot_is_json(world: World, pilots: Pilots) -> None:
    end = pilots.run("--log-format", "json", "--token-file", "/nonexistent/token", "--origin", "Rubin")
    assert end.exit_code == 68
    last = json.loads(end.stderr.splitlines()[-1])
    assert last["level"] == "ERROR" and "/nonexistent/token" in last["message"]
    assert end.complaints == []


def test_an_unknown_format_is_refused_with_a_sentence(world: World, pilots: Pilots) -> None:
    end = pilots.run(env={"PILOT_LOG_FORMAT": "xml"})
    assert end.exit_code == 2
    assert end.complaints == ["pilot-start: the environment variable PILOT_LOG_FORMAT: 'xml' is none of text, json"]
