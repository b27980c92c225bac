"""The image in containers that grant what pods grant: jobs on each rung, the old starter's way in, being stopped, orphans."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot.job.endpoint import deterministic_path
from pilot.sandbox.cric_server import DATA_BUCKET
from pilot.sandbox.world import World
from tests.containers.image.podman import NON_ROOT, PILOT_UID, PRIVILEGED, ROOT, RUNG_B, Container, Rights, give_to
from tests.containers.image.pods import Pods
from tests.integration.pilot.pilotrun import (
    QUEUE,
    SCOPE,
    acquires,
    input_keys,
    last_seq,
    log_url,
    output_keys,
    public,
    submit,
    updates,
)

# A child in a session of its own, deaf to SIGTERM, and a parent that waits for it.
STUBBORN = "setsid sh -c 'trap \"\" TERM; echo up > started; while :; do sleep 0.2; done' & echo begun; wait"
ABOUT = "id -un; cat /etc/pilot/* 2>/dev/null | grep -c PRIVATE; tr a-z A-Z < in.txt > out.txt"


def isolation(world: World, panda_id: int) -> str:
    metrics: str = world.sandbox.job(panda_id)["fields"]["jobmetrics"]
    return dict(pair.split("=", 1) for pair in metrics.split())["isolation"]


def stdout(world: World, panda_id: int) -> str:
    return public(world, log_url(world, panda_id, "payload.stdout")).text


def job_with_files(world: World) -> int:
    """A job that reads an input from S3, writes an output there, and tells who it is and whether it can read a key."""
    content = b"from the store\n"
    path = world.state_dir / "s3" / DATA_BUCKET / deterministic_path(SCOPE, "in.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return submit(world, ABOUT, **input_keys("in.txt", content), **output_keys("out.txt"))


@pytest.mark.parametrize(
    ("rights", "rung", "user"),
    [(RUNG_B, "B:uid+landlock", "payload"), (NON_ROOT, "C:landlock", "pilot")],
    ids=["root with three capabilities", "an ordinary user"],
)
def test_a_job_with_files_is_run_without_a_container_of_its_own(
    world: World, pods: Pods, rights: Rights, rung: str, user: str
) -> None:
    panda_id = job_with_files(world)
    pod = pods.start(rights)
    assert pod.end() == 0, pod.log
    assert world.sandbox.wait_for(panda_id, {"finished"}, 5), pod.log
    assert isolation(world, panda_id) == rung
    assert stdout(world, panda_id) == f"{user}\n0\n"
    stored = world.state_dir / "s3" / DATA_BUCKET / deterministic_path(SCOPE, "out.txt")
    assert stored.read_bytes() == b"FROM THE STORE\n"
    assert "Traceback" not in pod.log


def test_a_privileged_pod_runs_payloads_in_apptainer(world: World, pods: Pods, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    subprocess.run([ROOT / "scripts/make-test-image", images / "busybox.sif"], check=True, capture_output=True)
    panda_id = submit(world, "busybox | head -1 | cut -c 1-7; ls /etc/pilot 2>&1 | tail -1")
    pod = pods.start(PRIVILEGED, volumes={images: "/images:ro"}, image="/images/busybox.sif", require_isolation="A")
    assert pod.end() == 0, pod.log
    assert isolation(world, panda_id) == "A:apptainer", pod.log
    assert stdout(world, panda_id).splitlines() == ["BusyBox", "ls: /etc/pilot: No such file or directory"]


def test_a_template_without_a_command_gets_here_by_the_starter(world: World, pods: Pods, tmp_path: Path) -> None:
    """What Harvester puts in then: a shell, its own environment, and the starter mounted from a ConfigMap."""
    mounted = tmp_path / "executables"
    mounted.mkdir()
    (mounted / "pilots_starter.py").write_bytes((ROOT / "scripts/pilots_starter.py").read_bytes())
    panda_id = submit(world, "echo by the starter")
    pod = pods.start(
        NON_ROOT,
        "-c",
        "cd; python $EXEC_DIR/pilots_starter.py || true",
        entrypoint="bash",
        volumes={mounted: "/scratch/executables:ro"},
        environment={"EXEC_DIR": "/scratch/executables", "pandaQueueName": QUEUE, "HOME": "/pilotdir", "workerID": "7"},
    )
    assert pod.end() == 0, pod.log
    assert stdout(world, panda_id) == "by the starter\n"


def test_a_job_that_fails_is_no_failure_of_the_container(world: World, pods: Pods) -> None:
    panda_id = submit(world, "echo broken >&2; exit 3")
    pod = pods.start(NON_ROOT)
    assert pod.end() == 0, pod.log
    assert world.sandbox.job(panda_id)["fields"]["transexitcode"] == "3"


def test_a_server_out_of_reach_is_79_for_the_container_runtime(world: World, pods: Pods) -> None:
    pod = pods.start(NON_ROOT, "--server", "https://localhost:9")
    assert pod.end() == 79, pod.log
    assert "pilot-start: " in pod.log and "Traceback" not in pod.log


# --- being stopped ----------------------------------------------------------------------------------------------------


def started(world: World, pods: Pods, rights: Rights) -> tuple[Container, int]:
    """A pod whose payload is running on the node and for the server; and the PandaID."""
    panda_id = submit(world, STUBBORN, maxWalltime=None)
    pod = pods.start(rights, "--max-jobs", "2", environment={"K8S_JOB_ID": "grid-job-7"})
    pod.wait_until((pods.work() / f"pilot/jobs/{panda_id}.0/work/started").exists, "the payload is up")
    pod.wait_until(lambda: world.sandbox.job(panda_id)["status"] == "running", "the server knows it")
    return pod, panda_id


@pytest.mark.parametrize("rights", [RUNG_B, NON_ROOT], ids=["rung B", "rung C"])
def test_process_1_obeys_sigterm(world: World, pods: Pods, figure: Callable[[str], None], rights: Rights) -> None:
    pod, panda_id = started(world, pods, rights)
    begun_s = time.monotonic()
    pod.signal("TERM")
    code = pod.end(30)
    took_s = time.monotonic() - begun_s
    assert code == 143, pod.log
    job = world.sandbox.job(panda_id)
    assert (job["status"], job["fields"]["piloterrorcode"]) == ("failed", 1379)
    assert [body["job_status"] for body in updates(world, panda_id)].count("failed") == 1
    assert stdout(world, panda_id) == "begun\n"
    assert "1379" in public(world, log_url(world, panda_id)).text
    reported = json.loads(
        next(entry["body"] for entry in reversed(world.sandbox.ledger()) if entry["path"].endswith("/update_job"))
    )
    assert reported["job_status"] == "failed"
    rung = isolation(world, panda_id)
    figure(
        f"SIGTERM to process 1, payload deaf to it, on {rung}: gone, reported and logged after {took_s:.1f} s (aim: 8)"
    )


def test_a_pod_that_is_removed_while_the_pilot_starts_takes_no_job(world: World, pods: Pods, tmp_path: Path) -> None:
    """Held in its first lines by a settings file that never comes; as process 1 it would not hear a signal by itself."""
    pipe = tmp_path / "pipe"
    pipe.mkdir()
    os.mkfifo(pipe / "settings.yaml")
    give_to(PILOT_UID, pipe)
    before = last_seq(world)
    pod = pods.start(NON_ROOT, "--config", "/pipe/settings.yaml", volumes={pipe: "/pipe:ro"})
    pod.wait_until(lambda: waits_for_writer(int(pod.state["Pid"])), "it reads its settings")
    pod.signal("TERM")
    assert pod.end(20) == 143
    assert acquires(world, before) == []


def waits_for_writer(pid: int) -> bool:
    """Whether a process is inside the opening of a pipe."""
    return "wait_for_partner" in Path(f"/proc/{pid}/wchan").read_text()


def test_a_container_that_is_killed_is_137_and_its_job_is_reported_by_the_next(world: World, pods: Pods) -> None:
    pod, panda_id = started(world, pods, NON_ROOT)
    pod.signal("KILL")
    assert pod.end(20) == 137
    assert world.sandbox.job(panda_id)["status"] == "running"
    successor = pods.start(NON_ROOT, "--recover-only", volumes={pods.work(0): "/left"}, workdir="/left/pilot")
    assert successor.end() == 0, successor.log
    assert world.sandbox.job(panda_id)["status"] == "failed"
    assert stdout(world, panda_id) == "begun\n"


# --- orphans ----------------------------------------------------------------------------------------------------------

ORPHAN = "setsid sh -c 'until [ -e /pilotdir/go ]; do sleep 0.01; done' >/dev/null 2>&1 &"


@pytest.mark.parametrize("busy", [True, False], ids=["beside a long job", "while the pilot is idle"])
def test_orphans_of_commands_that_people_run_in_the_pod_are_collected(world: World, pods: Pods, busy: bool) -> None:
    if busy:
        pod, _panda_id = started(world, pods, NON_ROOT)
    else:
        before = last_seq(world)
        pod = pods.start(NON_ROOT, empty_wait_s=60, max_empty=1000)
        pod.wait_until(lambda: acquires(world, before), "it has asked for a job")
    known = {process.pid for process in pod.processes()}

    def inherited() -> set[int]:
        return {process.pid for process in pod.processes() if process.comm == "sh"} - known

    pod.execute("bash", "-c", ORPHAN)
    pod.wait_until(inherited, "what the command left has come to the pilot")
    (pods.work() / "go").touch()
    pod.wait_until(lambda: not inherited(), "it has ended and is collected")
    assert pod.alive
