"""Whatever is wrong: one clear sentence, the right code, no traceback; and a job that was acquired is always reported."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pilot.sandbox.certs import PILOT_DN, Authority, make_proxy, write_private
from pilot.sandbox.tokens import Issuer
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    HASTY,
    QUEUE,
    PilotEnd,
    Pilots,
    acquires,
    last_seq,
    log_url,
    public,
    shell_job,
    submit,
)


def complaint(end: PilotEnd, exit_code: int) -> str:
    """Asserts that a pilot left with this code and exactly one sentence; the sentence."""
    assert end.exit_code == exit_code, end.stderr
    assert len(end.complaints) == 1, end.stderr
    sentence = end.complaints[0].removeprefix("pilot-start: ")
    assert 20 < len(sentence) < 700
    assert "\n" not in sentence
    assert "Traceback" not in end.stderr
    assert "Traceback" not in end.stdout
    return sentence


# --- the pilot cannot work: no job is taken ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """How to start a pilot that cannot work, the exit code, and words of its sentence."""

    exit_code: int
    words: tuple[str, ...]
    args: tuple[str, ...] = ()
    settings: dict[str, Any] | None = None
    without: tuple[str, ...] = ()
    queue: str | None = QUEUE


NO_CERTIFICATE = ("cert", "key")
REFUSALS = {
    "no queue": Refusal(2, ("--queue", "DOMA_LSST_DEV"), queue=None),
    "queue name with a path": Refusal(2, ("--queue", "not a queue name"), queue="../etc"),
    "unknown queue": Refusal(71, ("NO_SUCH_QUEUE",), queue="NO_SUCH_QUEUE"),
    "queue offline": Refusal(83, ("QUIET_QUEUE", "offline"), queue="QUIET_QUEUE"),
    "queue inactive": Refusal(78, ("RETIRED_QUEUE", "INACTIVE"), queue="RETIRED_QUEUE"),
    "queue without storage for logs": Refusal(72, ("LOGLESS_QUEUE", "astorages"), queue="LOGLESS_QUEUE"),
    "unknown key in the settings file": Refusal(2, ("qeueu", "unknown key"), settings={"qeueu": 1}),
    "server without https": Refusal(2, ("--server", "https"), ("--server", "http://localhost:1")),
    "certificate without key": Refusal(2, ("--cert", "--key"), without=("key",)),
    "token without origin": Refusal(2, ("origin",), ("--token-file", "/nonexistent/token")),
    "no number": Refusal(2, ("--max-jobs", "many"), ("--max-jobs", "many")),
    "no credentials": Refusal(68, ("--x509-proxy", "--cert", "--token-file", "--sandbox"), without=NO_CERTIFICATE),
    "missing proxy": Refusal(68, ("/nonexistent/x509up",), ("--x509-proxy", "/nonexistent/x509up")),
    "missing token": Refusal(68, ("/nonexistent/t",), ("--token-file", "/nonexistent/t", "--origin", "Rubin")),
    "missing settings file": Refusal(2, ("/nonexistent/pilot.yaml",), ("--config", "/nonexistent/pilot.yaml")),
    "missing CA": Refusal(2, ("/nonexistent/ca.pem",), ("--ca", "/nonexistent/ca.pem")),
    "missing job file": Refusal(67, ("/nonexistent/job", "--job"), ("--job", "/nonexistent/job")),
    "job file that is none": Refusal(67, ("/etc/passwd", "--job"), ("--job", "/etc/passwd")),
    "work folder below a file": Refusal(66, ("/etc/passwd/x", "--workdir"), ("--workdir", "/etc/passwd/x")),
    "server down": Refusal(79, ("localhost:1",), (*HASTY, "--server", "https://localhost:1")),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _queues(world: World) -> None:
    world.sandbox.set_queue("QUIET_QUEUE", status="offline")
    world.sandbox.set_queue("RETIRED_QUEUE", state="INACTIVE")
    world.sandbox.set_queue("LOGLESS_QUEUE", astorages={})


@pytest.mark.parametrize("case", REFUSALS)
def test_a_pilot_that_cannot_work_says_why_and_takes_no_job(world: World, pilots: Pilots, case: str) -> None:
    refusal = REFUSALS[case]
    panda_id, before = submit(world, "true"), last_seq(world)
    config = pilots.settings(without=refusal.without, **(refusal.settings or {}))
    end = pilots.run(*refusal.args, config=config, queue=refusal.queue)
    sentence = complaint(end, refusal.exit_code)
    assert all(word in sentence for word in refusal.words), sentence
    assert acquires(world, before) == []
    assert world.sandbox.job(panda_id)["status"] == "activated"


def test_an_unknown_option_is_named_with_the_usage(pilots: Pilots) -> None:
    end = pilots.run("--no-such-option")
    assert end.exit_code == 2
    assert "pilot-start: error: unrecognized arguments: --no-such-option" in end.stderr
    assert "Traceback" not in end.stderr


def expired_certificate(world: World, folder: Path) -> tuple[str, ...]:
    made = world.authority.client(PILOT_DN, dt.timedelta(minutes=-1))
    (folder / "old.crt").write_bytes(made.certificate_pem)
    write_private(folder / "old.key", made.key_pem)
    return ("--cert", str(folder / "old.crt"), "--key", str(folder / "old.key"))


def expired_proxy(world: World, folder: Path) -> tuple[str, ...]:
    made = make_proxy(world.authority.client(PILOT_DN), dt.timedelta(minutes=-1))
    write_private(folder / "old-proxy.pem", made.proxy_pem)
    return ("--x509-proxy", str(folder / "old-proxy.pem"))


def short_proxy(world: World, folder: Path) -> tuple[str, ...]:
    made = make_proxy(world.authority.client(PILOT_DN), dt.timedelta(seconds=50))
    write_private(folder / "short-proxy.pem", made.proxy_pem)
    return ("--x509-proxy", str(folder / "short-proxy.pem"))


def expired_token(world: World, folder: Path) -> tuple[str, ...]:
    write_private(folder / "old-token", Issuer(world.state_dir).token(lifetime_s=-60).encode())
    return ("--token-file", str(folder / "old-token"), "--origin", "Rubin.production")


@pytest.mark.parametrize(
    ("make", "exit_code", "words"),
    [
        (expired_certificate, 68, "old.crt expired on"),
        (expired_proxy, 68, "old-proxy.pem expired on"),
        (short_proxy, 80, "short-proxy.pem expires on"),
        (expired_token, 68, "old-token expired on"),
    ],
    ids=["certificate", "proxy", "proxy about to end", "token"],
)
def test_credentials_past_their_time_are_named(
    world: World, pilots: Pilots, make: Callable[[World, Path], tuple[str, ...]], exit_code: int, words: str
) -> None:
    before = last_seq(world)
    config = pilots.settings(without=NO_CERTIFICATE)
    sentence = complaint(pilots.run(*make(world, pilots.folder), config=config), exit_code)
    assert words in sentence
    assert "renew it" in sentence
    assert acquires(world, before) == []


def test_a_server_of_an_unknown_authority_is_not_spoken_to(world: World, pilots: Pilots) -> None:
    other = Authority(pilots.folder)
    del other
    cric = pilots.folder / "cric"
    shutil.copytree(world.state_dir / "cric/queues", cric)
    shutil.copytree(world.state_dir / "cric/endpoints", cric, dirs_exist_ok=True)
    before = last_seq(world)
    ca = str(pilots.folder / "ca.pem")
    sentence = complaint(pilots.run(*HASTY, "--ca", ca, "--cric", str(cric)), 79)
    assert f"--ca {ca}" in sentence
    assert "not trusted" in sentence
    assert acquires(world, before) == []


def test_another_pilots_work_folder_is_left_alone(world: World, pilots: Pilots) -> None:
    before = last_seq(world)
    first = pilots.start("--max-empty", "1000", "--empty-wait-s", "60")
    first.wait_until(lambda: acquires(world, before), "it has asked")
    second = pilots.run(workdir=first.workdir)
    assert "another pilot works in" in complaint(second, 65)
    first.process.terminate()
    assert first.end().exit_code == 143


# --- CRIC -------------------------------------------------------------------------------------------------------------


def test_cric_out_of_reach_and_nothing_cached(world: World, pilots: Pilots) -> None:
    before = last_seq(world)
    sentence = complaint(pilots.run(*HASTY, "--cric", "https://localhost:1"), 71)
    assert "localhost:1" in sentence
    assert "--cric" in sentence
    assert acquires(world, before) == []


def test_cric_out_of_reach_with_an_old_copy_is_a_warning(world: World, pilots: Pilots) -> None:
    first = pilots.run(*HASTY)
    long_ago_s = time.time() - 5 * 3600
    for record in (first.workdir / "cric").iterdir():
        os.utime(record, (long_ago_s, long_ago_s))
    panda_id = submit(world, "true")
    world.sandbox.down("cric")
    try:
        end = pilots.run(*HASTY, workdir=first.workdir)
    finally:
        world.sandbox.up("cric")
    assert end.exit_code == 0
    assert end.jobs[panda_id]["state"] == "finished"
    assert "5.0 hours ago" in end.stderr
    assert end.complaints == []


def test_cric_that_answers_with_a_web_page(world: World, pilots: Pilots) -> None:
    world.sandbox.fault("html", path="/api/atlas", status=200, count=100)
    world.sandbox.fault("html", path="/cache/schedconfig", status=200, count=100)
    sentence = complaint(pilots.run(*HASTY), 71)
    assert QUEUE in sentence


# --- a server that answers nonsense -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("html", {"status": 200}),
        ("html", {"status": 404}),
        ("empty", {}),
        ("garbage", {}),
        ("status", {"status": 500}),
        ("huge", {"size_bytes": 100 << 20}),
        ("hang", {"delay_s": 0.5}),
        ("reset", {}),
        ("database", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(v) for v in value.values()),
)
def test_a_server_that_answers_nonsense_is_left_with_one_sentence(
    world: World, pilots: Pilots, kind: str, options: dict[str, Any]
) -> None:
    panda_id = submit(world, "true")
    world.sandbox.fault(kind, server="panda", count=1000, **options)
    end = pilots.run(*HASTY, timeout_s=30)
    assert world.server_url in complaint(end, 79)
    assert world.sandbox.job(panda_id)["status"] == "activated"


# --- jobs that cannot be run ------------------------------------------------------------------------------------------

TWO_OUTPUTS = {"ddmEndPointOut": "SANDBOX_S3,GKE-LSST_LOGS", "realDatasets": "", "scopeOut": "panda"}
BAD_JOBS: dict[str, tuple[dict[str, Any], set[int], str]] = {
    "no command": ({"transformation": "bash-c-enc", "jobPars": ""}, {1110}, "jobPars is empty"),
    "no transformation": ({"transformation": "NULL", "jobPars": ""}, {1110}, "no command"),
    "no base64": ({"transformation": "bash-c-enc", "jobPars": "!!!"}, {1110}, "base64"),
    "input with a path": (shell_job("true", inFiles="../../etc/passwd"), {1371, 1099}, "passwd"),
    "output with a path": (shell_job("true", outFiles="/etc/cron.d/x,log.tgz", **TWO_OUTPUTS), {1371}, "cron.d"),
    "log with a path": (shell_job("true", outFiles="../log.tgz", logFile="../log.tgz"), {1371}, "log.tgz"),
    "endless LFN": (shell_job("true", outFiles="x" * 300 + ",log.tgz", **TWO_OUTPUTS), {1190}, "300"),
    "size that is no number": (shell_job("true", inFiles="a", fsize="many", checksum="ad:0"), {1110}, "fsize"),
    "checksum of an unknown kind": (shell_job("true", inFiles="a", fsize="1", checksum="sha1:00"), {1314}, "checksum"),
    "lists that do not fit": (shell_job("true", inFiles="a,b", fsize="1,2,3"), {1110}, "fsize"),
    "task that is no number": (shell_job("true", taskID="a task"), {1110}, "taskID"),
    "transform from elsewhere": (
        {"transformation": "https://evil.example/trf.sh", "jobPars": "x"}, {1149}, "evil.example",
    ),
    "transform that is not there": ({"transformation": "ABSENT", "jobPars": ""}, {1149}, "404"),
    "image that is not there": (shell_job("true", container_name="/nonexistent/image.sif"), {1360}, "/nonexistent"),
    "image that is no image": (shell_job("true", container_name="NOIMAGE"), {1309}, "not a SIF image"),
    "image from a registry": (shell_job("true", container_name="docker://busybox"), {1360}, "docker://busybox"),
    "image that no bucket has": (shell_job("true", container_name="gs://drp-us-central1-containers/no.sif"), {1360}, "no.sif"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad_jobs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PilotEnd, dict[str, int]]]:
    """One pilot that was given all of BAD_JOBS, and a good one at the end."""
    folder = tmp_path_factory.mktemp("bad-jobs")
    (folder / "noimage.sif").write_text("this is no image\n" * 100)
    replaced = {"ABSENT": f"{world.transforms_url}absent.sh", "NOIMAGE": str(folder / "noimage.sif")}
    ids = {}
    for case, (job, _, _) in BAD_JOBS.items():
        ids[case] = world.sandbox.submit_job(**{key: replaced.get(str(value), value) for key, value in job.items()})
    ids["good"] = submit(world, "true")
    pilots = Pilots(world, folder)
    try:
        yield pilots.run(*HASTY), ids
    finally:
        pilots.stop_all()


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_job_that_cannot_be_run_is_reported_failed_with_its_cause(
    world: World, bad_jobs: tuple[PilotEnd, dict[str, int]], case: str
) -> None:
    end, ids = bad_jobs
    _, codes, words = BAD_JOBS[case]
    fields = world.sandbox.job(ids[case])["fields"]
    assert world.sandbox.job(ids[case])["status"] == "failed"
    assert fields["piloterrorcode"] in codes, fields["piloterrordiag"]
    assert words in fields["piloterrordiag"]
    assert len(fields["piloterrordiag"]) <= 500
    assert "\n" not in fields["piloterrordiag"]
    assert end.jobs[ids[case]]["pilot_error_code"] == fields["piloterrorcode"]
    assert words in public(world, log_url(world, ids[case])).text


def test_bad_jobs_do_not_hold_up_a_good_one(bad_jobs: tuple[PilotEnd, dict[str, int]]) -> None:
    end, ids = bad_jobs
    assert (end.exit_code, end.jobs[ids["good"]]["state"]) == (0, "finished")
    assert end.complaints == []
    assert "Traceback" not in end.stderr


# --- what the node does not give --------------------------------------------------------------------------------------

# In a mount namespace of its own, nothing executable is left under the names of the container runtimes.
WITHOUT_APPTAINER = """
for name in apptainer singularity; do
    for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
        [ ! -e "$folder/$name" ] || mount --bind /dev/null "$(readlink -f "$folder/$name")" 2>/dev/null || :
    done
done
exec "$@"
"""
# In a user namespace of its own and as somebody who is not root there; no further user namespace may be made.
WITHOUT_NAMESPACES = (
    'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps -all --inh-caps -all "$@"'
)
FULL_VOLUME = (
    'mount -t tmpfs -o size=1m none "$1" && { head -c 2m /dev/zero > "$1/filler" 2>/dev/null || :; }; shift; exec "$@"'
)
SMALL_VOLUME = 'mount -t tmpfs -o size=20m none "$1" && shift && exec "$@"'


def shell(script: str, *arguments: str) -> tuple[str, ...]:
    return ("sh", "-c", script, "sh", *arguments)


def failed(world: World, end: PilotEnd, panda_id: int) -> dict[str, Any]:
    """Asserts that a job is reported failed; the server's fields."""
    assert end.exit_code == 0, end.stderr
    assert "Traceback" not in end.stderr
    job = world.sandbox.job(panda_id)
    assert job["status"] == "failed", end.stderr
    fields: dict[str, Any] = job["fields"]
    return fields


def test_without_apptainer_a_container_job_fails_with_that_diagnosis(
    world: World, pilots: Pilots, busybox: tuple[Path, Path]
) -> None:
    panda_id = submit(world, "true", container_name=str(busybox[0]))
    wrap = ("unshare", "--mount", *shell(WITHOUT_APPTAINER))
    fields = failed(world, pilots.run(*HASTY, wrap=wrap), panda_id)
    assert fields["piloterrorcode"] == 1372
    assert "neither apptainer nor singularity is on this machine" in fields["piloterrordiag"]


def test_where_user_namespaces_are_forbidden_a_container_job_fails_with_that_diagnosis(
    world: World, pilots: Pilots, busybox: tuple[Path, Path]
) -> None:
    panda_id = submit(world, "true", container_name=str(busybox[1]))
    # daemon (1) is in every passwd; Apptainer refuses a user that has no entry
    maps = ("--map-users=0,1,1", "--map-groups=0,1,1", "--keep-caps")
    fields = failed(world, pilots.run(*HASTY, wrap=("unshare", "--user", *maps, *shell(WITHOUT_NAMESPACES))), panda_id)
    assert fields["piloterrorcode"] == 1345, fields["piloterrordiag"]
    assert "max_user_namespaces" in fields["piloterrordiag"]


def test_a_corrupt_image_is_named(world: World, pilots: Pilots, busybox: tuple[Path, Path]) -> None:
    whole = busybox[0].read_bytes()
    cut = pilots.folder / "cut.sif"
    cut.write_bytes(whole[: len(whole) // 2])
    panda_id = submit(world, "true", container_name=str(cut))
    fields = failed(world, pilots.run(*HASTY), panda_id)
    assert fields["piloterrorcode"] == 1309, fields["piloterrordiag"]
    assert "cut.sif" in fields["piloterrordiag"]


def test_with_a_full_disk_no_job_is_taken(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "true")
    workdir = pilots.folder / "volume"
    workdir.mkdir()
    end = pilots.run(*HASTY, workdir=workdir, wrap=("unshare", "--mount", *shell(FULL_VOLUME, str(workdir))))
    assert str(workdir) in complaint(end, 69)
    assert world.sandbox.job(panda_id)["status"] == "activated"


def test_a_job_that_fills_the_disk_is_reported(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "head -c 40m /dev/zero > big", maxDiskCount=0)
    workdir = pilots.folder / "volume"
    workdir.mkdir()
    wrap = ("unshare", "--mount", *shell(SMALL_VOLUME, str(workdir)))
    end = pilots.run("--max-jobs", "1", "--min-free-mib", "0", workdir=workdir, wrap=wrap)
    fields = failed(world, end, panda_id)
    assert fields["piloterrorcode"] == 1098, fields["piloterrordiag"]


def test_a_job_that_ends_well_on_a_full_disk_is_finished_with_its_log(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "echo done; head -c 40m /dev/zero > big || true", maxDiskCount=0)
    workdir = pilots.folder / "volume"
    workdir.mkdir()
    wrap = ("unshare", "--mount", *shell(SMALL_VOLUME, str(workdir)))
    end = pilots.run("--max-jobs", "1", "--min-free-mib", "0", workdir=workdir, wrap=wrap)
    assert end.exit_code == 0, end.stderr
    assert world.sandbox.wait_for(panda_id, {"finished", "failed"})["status"] == "finished", end.stderr
    log = public(world, log_url(world, panda_id, "payload.stdout"))
    assert log.text == "done\n"
