"""Workers as Kubernetes runs them: what becomes of their jobs, and which exit code Kubernetes and Harvester see."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pilot.sandbox.world import World
from tests.containers.kube.workers import PROXY, Workers, publish_image, pushed_job
from tests.integration.pilot.pilotrun import acquires, last_seq, log_url, public, submit, updates
from tests.kube.harvester import GENERATIONS, Generation, Submission

STUBBORN = "echo begun; touch started; setsid sh -c 'trap \"\" TERM; while :; do sleep 0.2; done' & wait"
MEMORY = 320  # MiB of a pod that is to run out of it


def outcome(world: World, panda_id: int) -> tuple[str, int]:
    job = world.sandbox.job(panda_id)
    return job["status"], int(job["fields"].get("piloterrorcode") or 0)


def gunzip(content: bytes | None) -> bytes | None:
    return content and gzip.decompress(content)


def less_memory(submission: Submission) -> None:
    submission.container["resources"]["limits"]["memory"] = f"{MEMORY}Mi"


def isolation(world: World, panda_id: int) -> str:
    metrics = world.sandbox.job(panda_id)["fields"]["jobmetrics"]
    return str(dict(pair.split("=", 1) for pair in metrics.split())["isolation"])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_pull_worker_runs_the_queues_jobs_and_leaves_with_0(
    world: World, workers: Workers, generation: Generation
) -> None:
    jobs = [submit(world, "echo ${#AWS_ACCESS_KEY_ID}; id -un; cat /proxy/* /gcscreds/*; true") for _ in range(2)]
    pod = workers.submit(generation=generation)
    assert pod.end() == 0, pod.log
    for panda_id in jobs:
        assert outcome(world, panda_id) == ("finished", 0), pod.log
        assert public(world, log_url(world, panda_id, "payload.stdout")).text == "8\npayload\n"
        assert isolation(world, panda_id) == "B:uid+landlock"
    (worker,) = [entry for entry in world.sandbox.workers() if entry["worker_id"] == 4711]
    assert (worker["harvester_id"], worker["pilotstatus"]) == ("rubin-harvester", "finished")
    batch_id = updates(world, jobs[0])[-1].get("batch_id")
    assert batch_id == ("pilot-4711" if generation == "2026" else None)
    assert "the starter was run" not in pod.log  # Harvester's own, which it mounts whatever the template says
    log = workers.handed_in(4711, ".out") if generation == "2021" else gunzip(workers.handed_in(4711, "_gz.out"))
    assert log is not None and f"job {jobs[1]}.0: finished" in log.decode()


def test_a_push_worker_runs_the_job_it_was_given_and_asks_for_none(world: World, workers: Workers) -> None:
    given, waiting = submit(world, "echo pushed"), submit(world, "true")
    job, before = pushed_job(world), last_seq(world)
    pod = workers.submit(job=job)
    assert pod.end() == 0, pod.log
    assert outcome(world, given) == ("finished", 0)
    assert world.sandbox.job(waiting)["status"] == "activated"
    assert acquires(world, before) == []
    assert public(world, log_url(world, given, "payload.stdout")).text == "pushed\n"


def test_a_job_that_fails_is_no_failure_of_its_worker(world: World, workers: Workers) -> None:
    panda_id = submit(world, "echo broken >&2; exit 3")
    pod = workers.submit()
    assert pod.end() == 0, pod.log
    job = world.sandbox.job(panda_id)
    assert (job["status"], job["fields"]["piloterrorcode"], job["fields"]["transexitcode"]) == ("failed", 1305, "3")
    assert public(world, log_url(world, panda_id, "payload.stderr")).text == "broken\n"


def test_without_its_proxy_a_worker_leaves_with_68_and_says_which_file(world: World, workers: Workers) -> None:
    def another_proxy(submission: Submission) -> None:
        for entry in submission.container["env"]:
            if entry["name"] == "proxySecretPath":
                entry["value"] = "/proxy/absent"

    before = last_seq(world)
    pod = workers.submit(change=another_proxy)
    assert pod.end() == 68, pod.log
    assert "/proxy/absent" in pod.log
    assert "Traceback" not in pod.log
    assert acquires(world, before) == []


@pytest.mark.parametrize("mode", ["PULL", "PUSH"])
def test_a_worker_that_is_told_to_leave_stops_and_reports_its_job_and_leaves_with_143(
    world: World, workers: Workers, mode: str
) -> None:
    panda_id = submit(world, STUBBORN, maxWalltime=None)
    pod = workers.submit(job=pushed_job(world) if mode == "PUSH" else None)
    workers.wait_for_payload(pod, panda_id)
    probe = pod.probe("livenessProbe")
    assert probe.returncode == 0, probe.stderr
    pod.stop(8)  # after which it would be killed, and leave with 137
    assert pod.state["ExitCode"] == 143, pod.log
    assert outcome(world, panda_id) == ("failed", 1379)
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "begun\n"
    assert [body["job_status"] for body in updates(world, panda_id)].count("failed") == 1


def test_a_payload_that_exceeds_the_pods_memory_is_ended_and_the_worker_goes_on(world: World, workers: Workers) -> None:
    hungry = submit(world, "head -c 4G /dev/zero | tail")  # tail keeps what may be one line
    modest = submit(world, "true")
    pod = workers.submit(change=less_memory)
    assert pod.end() == 0, pod.log
    assert not pod.state["OOMKilled"]
    status, code = outcome(world, hungry)
    assert (status, code) in (("failed", 1235), ("failed", 1212)), pod.log
    assert outcome(world, modest) == ("finished", 0)


@pytest.mark.parametrize("mode", ["PULL", "PUSH"])
def test_when_its_container_is_killed_the_job_is_reported_by_the_next_one_on_the_volume(
    world: World, workers: Workers, mode: str
) -> None:
    panda_id = submit(world, STUBBORN, maxWalltime=None)
    job = pushed_job(world) if mode == "PUSH" else None
    pod = workers.submit("moderatemem", "worker-recover", job=job)
    workers.wait_for_payload(pod, panda_id)
    waiting, before = submit(world, "true"), last_seq(world)
    pod.kill_process_1()
    assert pod.end() == 137
    assert world.sandbox.job(panda_id)["status"] == "running"
    pod.start_again()
    assert pod.end() == 0, pod.log
    status, code = outcome(world, panda_id)
    assert status == "failed" and code > 0
    assert world.sandbox.job(panda_id)["fields"]["piloterrordiag"]
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "begun\n"
    # a PULL worker goes on with the queue; a PUSH worker has had its job
    assert outcome(world, waiting)[0] == ("finished" if mode == "PULL" else "activated")
    assert bool(acquires(world, before)) == (mode == "PULL")


def test_where_root_is_refused_the_worker_is_an_ordinary_user_and_payloads_are_closed_in(
    world: World, workers: Workers
) -> None:
    panda_id = submit(world, "id -u; cat /proxy/* /gcscreds/* /etc/pilot/*; true")
    pod = workers.submit("non-root")
    assert pod.end() == 0, pod.log
    assert outcome(world, panda_id) == ("finished", 0), pod.log
    assert public(world, log_url(world, panda_id, "payload.stdout")).text.splitlines()[0] == "10001"
    stdout = public(world, log_url(world, panda_id, "payload.stdout")).text
    assert "PRIVATE KEY" not in stdout
    assert isolation(world, panda_id) == "C:landlock"


@pytest.mark.parametrize("overlay", ["unprivileged-apptainer", "privileged-apptainer"])
def test_payloads_run_in_containers_where_the_pod_permits_them(
    world: World, workers: Workers, busybox_sif: Path, overlay: str
) -> None:
    image = publish_image(world, busybox_sif)
    panda_id = submit(world, "busybox | head -1; ls /proxy; echo in a container")
    pod = workers.submit(overlay, settings={"queues": {"DOMA_LSST_DEV": {"image": image}}, "require_isolation": "A"})
    assert pod.end() == 0, pod.log
    assert outcome(world, panda_id) == ("finished", 0), pod.log
    assert isolation(world, panda_id) == "A:apptainer"
    assert public(world, log_url(world, panda_id, "payload.stdout")).text.splitlines()[-1] == "in a container"


def test_the_debugging_pod_waits_and_a_pilot_can_be_run_in_it(world: World, workers: Workers) -> None:
    panda_id = submit(world, "echo by hand")
    pod = workers.without_harvester("debug")
    assert "pilot" in pod.execute("bash", "-c", "pilot-start --version").stdout
    assert pod.state["Status"] == "running"
    done = pod.execute("pilot-start", "--x509-proxy", f"/proxy/{PROXY}", "--max-jobs", "1", "--log-level", "DEBUG")
    assert done.returncode == 0, done.stderr
    assert outcome(world, panda_id) == ("finished", 0)
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "by hand\n"


def test_a_pilot_without_harvester_runs_jobs_until_it_is_told_to_leave(world: World, workers: Workers) -> None:
    panda_id = submit(world, "echo alone")
    pod = workers.without_harvester("standalone")
    workers.wait_until(pod, lambda: outcome(world, panda_id) == ("finished", 0), f"job {panda_id} is finished")
    assert pod.state["Status"] == "running"
    pod.stop(8)
    assert pod.state["ExitCode"] == 143, pod.log
    assert updates(world, panda_id)[-1]["batch_id"] == "pilots"
