"""``pilot-start --check``: what can be wrong is found, told with its remedy and by the exit code; and no job is touched."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from pilot.sandbox.certs import Authority, write_private
from pilot.sandbox.cric_server import LOG_BUCKET, LOG_ENDPOINT
from pilot.sandbox.tokens import Issuer
from pilot.sandbox.world import World
from tests.faults.laboratory import _faketime
from tests.integration.pilot.pilotrun import HASTY, QUEUE, Pilots, acquires, last_seq, paths, submit
from tests.integration.pilot.test_bad_input import (
    FULL_VOLUME,
    NO_CERTIFICATE,
    REFUSALS,
    WITHOUT_APPTAINER,
    WITHOUT_NAMESPACES,
    expired_certificate,
    expired_proxy,
    expired_token,
    shell,
    short_proxy,
)
from tests.integration.pilot.ttyrun import at_a_terminal

Make = Callable[[World, Pilots], dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With fronts before its stores, so that these can refuse and be silent."""
    with World(tmp_path_factory.mktemp("world"), store_fronts=True, adder_delay_s=0.0) as world:
        world.sandbox.set_queue("QUIET_QUEUE", status="offline")
        world.sandbox.set_queue("RETIRED_QUEUE", state="INACTIVE")
        world.sandbox.set_queue("LOGLESS_QUEUE", astorages={})
        world.sandbox.set_queue("LOST_QUEUE", astorages={"pw": ["NO_SUCH_RSE"]})
        world.sandbox.set_queue("RESTING_QUEUE", status="brokeroff")
        world.sandbox.set_queue("HUGE_QUEUE", maxrss=1 << 30, maxwdir=1 << 30)
        described = json.loads((world.state_dir / f"cric/endpoints/{LOG_ENDPOINT}.json").read_text())[LOG_ENDPOINT]
        read_only = {"arprotocols": {"read_wan": described["arprotocols"]["read_wan"]}}
        for name, changes in (("SLEEPING_RSE", {"state": "DISABLED"}), ("READ_ONLY_RSE", read_only)):
            world.sandbox.set_endpoint(name, {**described, "name": name, **changes})
            world.sandbox.set_queue(f"QUEUE_OF_{name}", astorages={"write_lan": [name], "pr": [name]})
        yield world


@dataclass(frozen=True)
class Checked:
    """What a check said."""

    exit_code: int
    document: dict[str, Any]
    text: str

    @property
    def findings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document["findings"]
        return found

    @property
    def trouble(self) -> str:
        """What is not good, for a person who reads why a test failed."""
        return "\n".join(str(finding) for finding in self.findings if finding["verdict"] not in ("ok", "note"))

    def named(self, name: str) -> dict[str, Any]:
        """The one finding of this name, or whose name begins so."""
        exact = [finding for finding in self.findings if finding["name"] == name]
        (finding,) = exact or [finding for finding in self.findings if finding["name"].startswith(name)]
        return finding

    def names(self, *verdicts: str) -> list[str]:
        return [finding["name"] for finding in self.findings if finding["verdict"] in verdicts]


def checked(pilots: Pilots, *args: str, **options: Any) -> Checked:
    end = pilots.run("--check", "--json", *args, **options)
    assert end.stderr == ""
    document = json.loads(end.stdout)
    assert document["exit_code"] == end.exit_code
    return Checked(end.exit_code, document, end.stdout)


def objects(world: World) -> list[str]:
    """The names of all objects in the log bucket."""
    with requests.Session() as session:
        session.trust_env = False
        url = f"{world.gcs_url}/storage/v1/b/{LOG_BUCKET}/o"
        answer = session.get(url, verify=str(world.ca_path), timeout=10).json()
    return [item["name"] for item in answer.get("items", [])]


# --- all is good ------------------------------------------------------------------------------------------------------


def test_where_all_is_good_nothing_is_found_and_nothing_is_left(world: World, pilots: Pilots) -> None:
    panda_id, before, there = submit(world, "true"), last_seq(world), objects(world)
    workdir = pilots.folder / "work"
    found = checked(pilots, workdir=workdir)
    assert (found.exit_code, found.names("wrong", "warning", "unknown")) == (0, []), found.trouble
    assert set(found.names("ok")) >= {
        "settings", "certificate", "work folder", "queue", "queue limits", "isolation", "rung A", "log storage", "Google",
        "S3 key", "log bucket", "public logs", "container runtime", "image", "room for jobs", "memory", "clock", "liveness",
        f"server {world.server_url}", f"role at {world.server_url}", "input storage", "output storage",
    }  # fmt: skip
    assert found.document["conclusion"].startswith("a run would work (")
    assert acquires(world, before) == []
    assert paths(world, before).count("/api/v1/pilot/update_job") == 1
    assert world.sandbox.job(panda_id)["status"] == "activated"
    assert objects(world) == there
    assert not workdir.exists()
    sources = {setting["name"]: setting["source"] for setting in found.document["settings"]}
    assert sources["queue"] == "flag --queue" and sources["label"] == "default"
    assert sources["cert"] == f"file {world.state_dir / 'pilot.yaml'}"


def test_plain_lines_say_the_same_one_finding_a_line(world: World, pilots: Pilots) -> None:
    end = pilots.run("--check", "--x509-proxy", "/nonexistent/proxy")
    lines = end.stdout.splitlines()
    assert (end.exit_code, end.stderr) == (68, "")
    assert (
        f"wrong | proxy | {'The certificate file /nonexistent/proxy cannot be read: No such file or directory'}"
        in end.stdout
    )
    assert all(line.split(" | ")[0] in ("ok", "note", "warning", "wrong", "unknown", "set") for line in lines[:-1])
    assert lines[-1].startswith("1 thing is wrong; exit code 68 (")
    assert "set | x509_proxy | /nonexistent/proxy | flag --x509-proxy" in lines


def test_json_needs_a_check(world: World, pilots: Pilots) -> None:
    end = pilots.run("--json")
    assert end.exit_code == 2 and "--json goes with --check" in end.stderr


# --- what a run would leave with, the check leaves with ---------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_run_refuses_the_check_finds_with_the_runs_exit_code(world: World, pilots: Pilots, case: str) -> None:
    refusal, before = REFUSALS[case], last_seq(world)
    config = pilots.settings(without=refusal.without, **(refusal.settings or {}))
    found = checked(pilots, *refusal.args, config=config, queue=refusal.queue)
    assert found.exit_code == refusal.exit_code, found.trouble
    told = [finding for finding in found.findings if finding["exit_code"] == refusal.exit_code]
    words = f"{told[0]['name']} {told[0]['detail']} {told[0]['remedy']}"
    assert all(word in words for word in refusal.words if word != "--sandbox"), words
    assert acquires(world, before) == []


# --- each thing that can be wrong -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """``given``: what to start the check with (args, env, config, queue, wrap), made before it. Then: the exit code, the finding
    (the beginning of its name), its verdict, words of it; ``alone``: nothing else is wrong or a warning."""

    given: Make
    exit_code: int
    name: str
    verdict: str
    words: tuple[str, ...]
    alone: bool = True


def with_args(*args: str, **options: Any) -> Make:
    return lambda world, pilots: {"args": args, **options}


def faulty(*faults: dict[str, Any]) -> Make:
    def make(world: World, pilots: Pilots) -> dict[str, Any]:
        for fault in faults:
            world.sandbox.fault(**fault)
        return {}

    return make


def credentials(make: Callable[[World, Path], tuple[str, ...]]) -> Make:
    return lambda world, pilots: {
        "args": make(world, pilots.folder),
        "config": pilots.settings(without=NO_CERTIFICATE),
    }


def somebody(world: World, folder: Path) -> tuple[str, ...]:
    """A certificate that is good, of a person without any role."""
    made = world.authority.client("/DC=org/DC=example/CN=Jane Doe")
    (folder / "jane.crt").write_bytes(made.certificate_pem)
    write_private(folder / "jane.key", made.key_pem)
    return ("--cert", str(folder / "jane.crt"), "--key", str(folder / "jane.key"))


def mismatched(world: World, folder: Path) -> tuple[str, ...]:
    somebody(world, folder)
    return ("--cert", str(world.state_dir / "client.crt"), "--key", str(folder / "jane.key"))


def ending_soon(world: World, folder: Path) -> tuple[str, ...]:
    write_private(folder / "token", Issuer(world.state_dir).token(lifetime_s=300).encode())
    return ("--token-file", str(folder / "token"), "--origin", "Rubin.production")


def of_another_group(world: World, folder: Path) -> tuple[str, ...]:
    write_private(folder / "token", Issuer(world.state_dir).token(groups=("other",)).encode())
    return ("--token-file", str(folder / "token"), "--origin", "Rubin.production")


def banned(world: World, pilots: Pilots) -> dict[str, Any]:
    world.sandbox.ban("Robot PanDA Pilot")
    return {}


def untrusted_server(world: World, pilots: Pilots) -> dict[str, Any]:
    folder = pilots.folder / "other"
    folder.mkdir()
    Authority(folder)
    cric = pilots.folder / "cric"
    shutil.copytree(world.state_dir / "cric/queues", cric)
    shutil.copytree(world.state_dir / "cric/endpoints", cric, dirs_exist_ok=True)
    return {"args": ("--ca", str(folder / "ca.pem"), "--cric", str(cric))}


def untrusted_store(world: World, pilots: Pilots) -> dict[str, Any]:
    folder = pilots.folder / "other"
    folder.mkdir()
    Authority(folder)
    return {"args": ("--storage-ca", str(folder / "ca.pem"))}


def down(name: str) -> Make:
    def make(world: World, pilots: Pilots) -> dict[str, Any]:
        world.sandbox.down(name)
        return {}

    return make


def file_of(text: str, option: str) -> Make:
    def make(world: World, pilots: Pilots) -> dict[str, Any]:
        path = pilots.folder / "given"
        path.write_text(text)
        return {"args": (option, str(path))}

    return make


def oauth(mode: str) -> Make:
    def make(world: World, pilots: Pilots) -> dict[str, Any]:
        world.sandbox.set_oauth(mode)
        return {}

    return make


def clock_off(offset: str) -> Make:
    environment = {"FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    return lambda world, pilots: {"env": {"LD_PRELOAD": _faketime(), **environment}}


def full_volume(world: World, pilots: Pilots) -> dict[str, Any]:
    workdir = pilots.folder / "volume"
    workdir.mkdir()
    return {"workdir": workdir, "wrap": ("unshare", "--mount", *shell(FULL_VOLUME, str(workdir)))}


def read_only_volume(world: World, pilots: Pilots) -> dict[str, Any]:
    workdir = pilots.folder / "volume"
    workdir.mkdir()
    script = 'mount -t tmpfs -o ro none "$1" && shift && exec "$@"'
    return {"workdir": workdir, "wrap": ("unshare", "--mount", *shell(script, str(workdir)))}


def without_runtime(*args: str) -> Make:
    return with_args(*args, wrap=("unshare", "--mount", *shell(WITHOUT_APPTAINER)))


def without_namespaces(world: World, pilots: Pilots) -> dict[str, Any]:
    maps = ("--map-users=0,1,1", "--map-groups=0,1,1", "--keep-caps")
    return {"wrap": ("unshare", "--user", *maps, *shell(WITHOUT_NAMESPACES)), "args": ("--require-isolation", "none")}


def taken_port(world: World, pilots: Pilots) -> dict[str, Any]:
    return {"args": ("--metrics-port", str(world.listeners["plain"].port))}


def put_bucket(*refused: dict[str, Any]) -> Make:
    """Faults of Google storage alone."""
    return faulty(*({"kind": "status", "server": "gcs", "count": 100, **fault} for fault in refused))


SIF = "/nonexistent/image.sif"
CASES = {
    # who we are
    "expired certificate": Case(credentials(expired_certificate), 68, "certificate", "wrong", ("expired on", "renew")),
    "expired proxy": Case(credentials(expired_proxy), 68, "proxy", "wrong", ("expired on", "renew")),
    "short proxy": Case(credentials(short_proxy), 80, "proxy", "wrong", ("expires on", "renew")),
    "expired token": Case(credentials(expired_token), 68, "token", "wrong", ("expired on", "--origin")),
    "token that ends soon": Case(credentials(ending_soon), 0, "token", "warning", ("good for", "replaced in time")),
    "token key missing": Case(
        lambda world, pilots: {
            "args": (*ending_soon(world, pilots.folder), "--token-key-file", "/nonexistent/key"),
            "config": pilots.settings(without=NO_CERTIFICATE),
        },
        0, "token key", "warning", ("/nonexistent/key", "not renewed"),
    ),
    "key of another certificate": Case(credentials(mismatched), 79, "certificate", "wrong", ("jane.key", "its own key")),
    "person without a role": Case(credentials(somebody), 79, "role at", "wrong", ("role", "production role")),
    "token of another group": Case(credentials(of_another_group), 79, "role at", "wrong", ("group", "--origin")),
    "banned caller": Case(banned, 79, "role at", "wrong", ("is banned", "operators")),
    # the server
    "server down": Case(down("panda"), 79, "server ", "wrong", ("Connection refused", "--server")),
    "server of an unknown authority": Case(untrusted_server, 79, "server ", "wrong", ("not trusted by --ca", "--ca")),
    "server that answers nonsense": Case(
        faulty({"kind": "html", "server": "panda", "status": 200, "count": 100}),
        79, "server ", "wrong", ("HTML page", "--server"),
    ),
    "server with a broken database": Case(
        faulty({"kind": "database", "path": "update_job"}), 79, "role at", "wrong", ("database error", "--server"),
    ),
    "one of two servers down": Case(
        lambda world, pilots: {"args": ("--server", "https://localhost:1", "--server", world.server_url)},
        0, "server https://localhost:1", "warning", ("Connection refused",),
    ),
    # CRIC
    "CRIC down": Case(
        lambda world, pilots: down("cric")(world, pilots) | {"args": ("--server", "https://localhost:1")},
        71, "queue", "wrong", ("could not be had from any source", "--cric"), alone=False,
    ),
    "CRIC silent": Case(
        faulty(
            {"kind": "hang", "server": "cric", "delay_s": 8.0, "count": 100},
            {"kind": "hang", "path": "/cache/", "delay_s": 8.0, "count": 100},
        ),
        71, "queue", "wrong", ("could not be had", "--cric"), alone=False,
    ),
    "storage of the logs unknown": Case(
        with_args(queue="LOST_QUEUE"), 71, "log storage", "wrong", ("NO_SUCH_RSE", "astorages"), alone=False,
    ),
    "storage of the logs without a door": Case(
        with_args(queue="QUEUE_OF_READ_ONLY_RSE"), 72, "log storage", "wrong", ("READ_ONLY_RSE", "arprotocols"), alone=False,
    ),
    "storage of the logs not active": Case(
        with_args(queue="QUEUE_OF_SLEEPING_RSE"), 0, "log storage", "warning", ("DISABLED", "ACTIVE"), alone=False,
    ),
    "queue in brokeroff": Case(with_args(queue="RESTING_QUEUE"), 0, "queue", "warning", ("brokeroff", "online")),
    "URL of the logs too long": Case(
        with_args("--log-url-base", "https://localhost:1/" + "x" * 190),
        1, "log storage", "warning", ("characters long", "200"), alone=False,
    ),
    # where logs go
    "bucket forbidden": Case(
        put_bucket({"path": "/upload/", "status": 403}), 1, "log bucket", "wrong", ("403", "legacyBucketWriter"),
    ),
    "no such bucket": Case(put_bucket({"path": "/upload/", "status": 404}), 1, "log bucket", "wrong", ("404", "arprotocols")),
    "nothing may be replaced": Case(
        put_bucket({"path": "/upload/", "status": 403, "skip": 1}), 1, "log bucket", "wrong", ("not replaced", ".delete"),
    ),
    "nothing may be removed": Case(
        put_bucket({"path": f"/storage/v1/b/{LOG_BUCKET}/o/", "status": 403}),
        0, "log bucket", "warning", ("written, replaced; it could not be removed", ".delete"),
    ),
    "logs not public": Case(
        put_bucket({"path": f"/{LOG_BUCKET}/logs/", "status": 403}), 1, "public logs", "wrong", ("403", "allUsers"),
    ),
    "logs read elsewhere": Case(
        lambda world, pilots: {"args": ("--log-url-base", f"{world.gcs_url}/rubin-data")},
        1, "public logs", "wrong", ("404", "--log-url-base"),
    ),
    "store of an unknown authority": Case(
        untrusted_store, 1, "log bucket", "wrong", ("TLS verification", "--storage-ca"), alone=False,
    ),
    "store down": Case(down("gcs"), 1, "log bucket", "wrong", ("Connection refused", "store"), alone=False),
    "Google key missing": Case(
        with_args("--google-application-credentials", "/nonexistent/key.json"),
        1, "Google", "wrong", ("/nonexistent/key.json", "--google-application-credentials"), alone=False,
    ),
    "Google key that is none": Case(
        file_of('{"type": "nothing"}', "--google-application-credentials"),
        1, "Google", "wrong", ("is not a Google service account key",), alone=False,
    ),
    "Google refuses the key": Case(oauth("401"), 1, "Google", "wrong", ("no access token",), alone=False),
    "neither key nor Workload Identity": Case(
        lambda world, pilots: {
            "config": pilots.settings(without=("google_application_credentials",), metadata_url="http://localhost:1")
        },
        1, "Google", "wrong", ("metadata server", "Workload Identity"), alone=False,
    ),
    "S3 key that is none": Case(file_of("access_key: x\n", "--s3-key-file"), 1, "S3 key", "wrong", ("secret_key",)),
    # this node
    "full volume": Case(full_volume, 69, "work folder", "wrong", ("are needed", "--workdir"), alone=False),
    "read-only volume": Case(read_only_volume, 66, "work folder", "wrong", ("Read-only file system", "--workdir"), alone=False),
    "less room and memory than the queue promises": Case(
        with_args(queue="HUGE_QUEUE"), 0, "room for jobs", "warning", ("maxwdir",), alone=False,
    ),
    "less memory than the queue promises": Case(
        with_args(queue="HUGE_QUEUE"), 0, "memory", "warning", ("maxrss",), alone=False,
    ),
    "clock behind": Case(clock_off("-90s"), 0, "clock", "warning", ("s behind https://", "NTP")),
    "clock ahead": Case(clock_off("+15m"), 1, "clock", "wrong", ("s ahead of https://", "NTP"), alone=False),
    "metrics port taken": Case(taken_port, 0, "metrics port", "warning", ("already in use", "another port")),
    "no place for metrics": Case(
        lambda world, pilots: {"args": ("--metrics-file", f"{pilots.folder}/absent/pilot.prom")},
        0, "metrics file", "warning", ("there is no folder", "another file"),
    ),
    "no place for a summary": Case(
        with_args("--summary", "/proc/summary.json"), 0, "summary", "warning", ("/proc/summary.json", "another file"),
    ),
    # payloads
    "isolation that is not to be had": Case(
        with_args("--require-isolation", "B"), 65, "isolation", "wrong", ("isolation B is required", "--require-isolation"),
    ),
    "user that is none": Case(
        with_args("--payload-user", "nobody-knows"), 2, "isolation", "wrong", ("no user", "--payload-user"),
    ),
    "no container runtime": Case(
        without_runtime(), 0, "container runtime", "warning", ("neither apptainer nor singularity", "install-apptainer"),
    ),
    "no container runtime for an image": Case(
        without_runtime("--image", SIF),
        1, "container runtime", "wrong", ("payloads are to run in containers", "install-apptainer"),
    ),
    "no user namespaces": Case(
        without_namespaces, 0, "container runtime", "warning", ("forbids user namespaces", "seccompProfile"), alone=False,
    ),
    "image missing": Case(with_args("--image", SIF), 1, "image", "wrong", (SIF, "--image")),
    "image that is none": Case(with_args("--image", "/etc/passwd"), 1, "image", "wrong", ("not a SIF image", "--image")),
    "image that no bucket has": Case(
        with_args("--image", "gs://drp-us-central1-containers/no.sif"), 1, "image", "wrong", ("no.sif", "--image"),
    ),
    # Harvester and logging
    "half of Harvester's ids": Case(
        with_args(env={"HARVESTER_ID": "h"}), 0, "Harvester", "warning", ("workerID is not", "set workerID"),
    ),
    "worker log without a name": Case(
        with_args(env={"logs_frontend_w": "https://localhost:1/server/panda"}),
        0, "Harvester", "warning", ("logs_frontend_w is set", "--worker-log-name"),
    ),
    "realtime logging of an unknown kind": Case(
        with_args(env={"USE_REALTIME_LOGGING": "yes", "REALTIME_LOGGING_SERVER": "carrier-pigeon"}),
        0, "realtime logging", "warning", ("'carrier-pigeon'", "google-cloud-logging"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_found_and_told_with_its_remedy(world: World, pilots: Pilots, case: str) -> None:
    expected, before, there = CASES[case], last_seq(world), set(objects(world))
    given = expected.given(world, pilots)
    try:
        found = checked(pilots, *given.pop("args", ()), **given)
    finally:
        for server in ("panda", "cric", "gcs"):
            world.sandbox.up(server)
        world.sandbox.unban("Robot PanDA Pilot")
        world.sandbox.set_oauth("ok")
        world.sandbox.clear_faults()
    finding = found.named(expected.name)
    assert finding["verdict"] == expected.verdict, found.trouble
    words = f"{finding['detail']} -> {finding['remedy']}"
    assert all(word in words for word in expected.words), words
    assert finding["remedy"]
    assert found.exit_code == expected.exit_code, found.trouble
    if expected.alone:
        assert found.names("wrong", "warning") == [finding["name"]], found.trouble
    assert acquires(world, before) == []
    left = set(objects(world)) - there
    assert all("/pilot-check/" in name for name in left) and len(left) <= (case == "nothing may be removed")


# --- what is good in another way --------------------------------------------------------------------------------------


def test_a_proxy_a_token_and_a_server_of_the_older_generation_will_do(world: World, pilots: Pilots) -> None:
    config = pilots.settings(without=NO_CERTIFICATE)
    world.sandbox.set_apis("legacy")
    token = ("--token-file", str(world.state_dir / "token"), "--origin", "Rubin.production")
    found = checked(pilots, *token, config=config, env={"X509_USER_PROXY": str(world.state_dir / "proxy.pem")})
    assert (found.exit_code, found.names("wrong", "warning", "unknown")) == (0, []), found.trouble
    assert "API legacy" in found.named("role at")["detail"]
    assert found.named("proxy")["detail"].startswith(f"{world.state_dir}/proxy.pem, good for ")
    assert found.named("token")["detail"].startswith(f"{world.state_dir}/token as Rubin.production, good for ")


def test_a_container_is_started_from_an_image_that_lies_here(
    world: World, pilots: Pilots, busybox: tuple[Path, Path]
) -> None:
    for image in busybox:
        found = checked(pilots, "--image", str(image), "--require-isolation", "A")
        assert (found.exit_code, found.names("wrong", "warning", "unknown")) == (0, []), found.trouble
        started = [finding for finding in found.findings if finding["name"] == "container"]
        assert [finding["verdict"] for finding in started] == ["ok"] and "was started" in started[0]["detail"]


def test_a_given_job_is_read_and_not_touched(world: World, pilots: Pilots) -> None:
    job = pilots.folder / "job.json"
    job.write_text(json.dumps({"PandaID": 42, "attemptNr": 0}))
    found = checked(pilots, "--job", str(job))
    assert found.exit_code == 0 and found.named("given job")["detail"] == f"{job} holds job 42"


def test_harvesters_variables_and_where_they_came_from_are_shown(world: World, pilots: Pilots) -> None:
    harvester = {
        "HARVESTER_ID": "harvester-1",
        "workerID": "4711",
        "pandaQueueName": QUEUE,
        "logs_frontend_w": "https://localhost:1/server/panda",
        "logs_frontend_r": "https://localhost:1/cache",
        "pilotUrlOpt": "--piloturl x",
        "proxyContent": "$proxyContent",
        "TMPDIR": str(pilots.folder),
        "PANDA_AUTH_TOKEN": "token",
        "PANDA_AUTH_DIR": str(world.state_dir),
        "PANDA_AUTH_ORIGIN": "Rubin.production",
    }
    found = checked(pilots, env=harvester, queue=None)
    assert (found.exit_code, found.names("wrong", "warning")) == (0, []), found.trouble
    told = [finding["detail"] for finding in found.findings if finding["name"] == "Harvester"]
    assert told == ["worker 4711 of harvester-1", "pilotUrlOpt: of the wrapper this pilot replaces; not used"]
    assert any("harvester-1_4711_gz.out" in finding["detail"] for finding in found.findings)
    sources = {setting["name"]: setting["source"] for setting in found.document["settings"]}
    assert sources["queue"] == "environment variable pandaQueueName"
    assert sources["worker_id"] == "environment variable workerID"
    assert sources["token_file"] == "environment variable PANDA_AUTH_TOKEN"


def test_realtime_logging_is_tried_as_far_as_its_credentials(world: World, pilots: Pilots) -> None:
    on = {"USE_REALTIME_LOGGING": "yes", "REALTIME_LOGGING_SERVER": "google-cloud-logging"}
    found = checked(pilots, env=on)
    assert found.exit_code == 0 and "of project sandbox" in found.named("realtime logging")["detail"]


def test_secrets_are_shown_as_present_and_nowhere_else(world: World, pilots: Pilots) -> None:
    secret = "wombat-7-lantern-of-the-tests"
    environment = {"AWS_SECRET_ACCESS_KEY": secret, "PGPASSWORD": secret + "-2"}
    found = checked(pilots, env=environment)
    lines = pilots.run("--check", env=environment)
    for text in (found.text, lines.stdout, lines.stderr):
        assert secret not in text
        for name in ("token", "client.key", "gcs-key.json", "s3-key"):
            held = (world.state_dir / name).read_text()
            assert not any(part in text for part in held.split() if len(part) > 20 and "://" not in part), name
    settings = {setting["name"]: setting["value"] for setting in found.document["settings"]}
    assert settings["payload variable AWS_SECRET_ACCESS_KEY"] == "present"
    assert "set | payload variable PGPASSWORD | present | environment" in lines.stdout


def test_cric_that_is_silent_is_a_warning_where_a_run_has_its_record(world: World, pilots: Pilots) -> None:
    first = pilots.run(*HASTY)
    for record in (first.workdir / "cric").iterdir():
        os.utime(record, (time.time() - 5 * 3600,) * 2)
    world.sandbox.down("cric")
    world.sandbox.fault("status", path="/cache/schedconfig", status=404, count=100)
    try:
        found = checked(pilots, workdir=first.workdir)
    finally:
        world.sandbox.up("cric")
        world.sandbox.clear_faults()
    assert (found.exit_code, found.names("wrong")) == (0, []), found.trouble
    assert "cached record" in found.named("CRIC")["remedy"]
    details = [finding["detail"] for finding in found.findings if finding["name"] == "queue"]
    assert details == [f"{QUEUE} is online and ACTIVE (from the pilot's cache)"]


def test_in_the_folder_of_a_working_pilot_the_check_says_so_and_disturbs_nothing(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "sleep 30")
    pilot = pilots.start(*HASTY, "--shutdown-s", "5")
    pilot.wait_until(lambda: world.sandbox.job(panda_id)["status"] == "running", "a running job")
    found = checked(pilots, workdir=pilot.workdir)
    assert found.exit_code == 0
    assert (
        f"a pilot works there now (the main loop of the pilot (pid {pilot.process.pid})"
        in found.named("work folder")["detail"]
    )
    assert pilot.process.poll() is None and world.sandbox.job(panda_id)["status"] == "running"
    pilot.process.terminate()
    assert pilot.end().exit_code == 143


def test_jobs_of_an_earlier_pilot_are_named(world: World, pilots: Pilots) -> None:
    workdir = pilots.folder / "work"
    (workdir / "jobs" / "4711.2").mkdir(parents=True)
    found = checked(pilots, workdir=workdir)
    assert found.exit_code == 0 and "4711.2 of an earlier pilot" in found.named("earlier jobs")["detail"]
    assert (workdir / "jobs" / "4711.2").is_dir()


def test_when_all_servers_are_silent_it_ends_by_itself_and_says_which(world: World, pilots: Pilots) -> None:
    """Connections are taken and nothing is said on them."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}"
        config = pilots.settings(server=url, cric=url, gcs_endpoint=url, s3_endpoint=url, cloud_logging_endpoint=url)
        found = checked(pilots, config=config)
    assert found.exit_code == 71, found.trouble
    assert {"queue", f"server {url}"} <= set(found.names("wrong"))
    assert found.named("log storage")["verdict"] == "unknown"
    assert found.named("certificate")["verdict"] == "ok"
    assert all("no answer" in found.named(name)["detail"] for name in ("queue", f"server {url}"))


# --- at a terminal ----------------------------------------------------------------------------------------------------


def test_at_a_terminal_it_is_a_table_in_colours_that_fits(world: World, pilots: Pilots) -> None:
    for columns in (120, 70):
        with at_a_terminal(pilots, "--check", "--x509-proxy", "/nonexistent/proxy") as seat:
            seat.resize(60, columns)
            assert seat.end() == 68
            assert seat.as_it_was
        rows = ["".join(row[x].data for x in range(columns)).rstrip() for row in seat.screen.history.top] + seat.lines
        text = "\n".join(rows)
        assert "1 thing is wrong; exit code 68" in rows[-1]
        (at,) = [index for index, row in enumerate(rows) if row.startswith("wrong ")]
        assert rows[at].split()[:2] == ["wrong", "proxy"]
        assert "-> renew /nonexistent/proxy" in text
        assert any(row.startswith("ok ") for row in rows) and "settings that somebody set:" in text
        assert b"\x1b[1;31mwrong" in seat.raw


def test_without_colours_at_a_terminal_it_is_plain_lines(world: World, pilots: Pilots) -> None:
    with at_a_terminal(pilots, "--check", env={"NO_COLOR": "1"}) as seat:
        assert seat.end() == 0
    assert b"\x1b" not in seat.raw and b"ok | certificate | " in seat.raw


def test_what_a_hostile_server_says_cannot_command_the_terminal(world: World, pilots: Pilots) -> None:
    queue = {"status": "online", "state": "\x1b[2J\x07evil\r\n"}
    world.sandbox.set_queue("EVIL_QUEUE", **queue)
    for args in ((), ("--json",)):
        end = pilots.run("--check", *args, queue="EVIL_QUEUE")
        assert end.exit_code == 78
        assert "\x1b" not in end.stdout and "\x07" not in end.stdout and "\r" not in end.stdout
