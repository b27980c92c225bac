"""The pilot built into the payload image, as into an image of the stack: its pods run real quanta without a further container."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilot.sandbox.production import CA_INSIDE, REPO_INSIDE, Production
from pilot.sandbox.world import World
from tests.containers.image.podman import BUILD_TIMEOUT_S, NON_ROOT, RUNG_B, Rights, build, inspected, podman, shell
from tests.containers.image.pods import Pods
from tests.integration.pilot.pilotrun import QUEUE, log_url, public

# What the pilot may add to a base; everything else stays as it is, in place, content and mode.
ADDED = ("/opt/pilot", "/pilotdir", "/usr/local/bin/pilot-start")
CHANGED = {"/etc/passwd", "/etc/group"}  # the two users
OF_THE_RUNTIME = {"/etc/resolv.conf", "/etc/hosts"}


@dataclass(frozen=True)
class Built:
    """The image and the base it was put onto."""

    name: str
    base: str


@pytest.fixture(scope="module")
def built(image: Path) -> Built:
    name = build("--base", str(image), "--without-apptainer", "--name", "localhost/pilot-tests:stack")
    return Built(name, inspected(name)["Labels"]["org.opencontainers.image.base.name"])


@pytest.fixture(scope="module")
def production(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Production, list[int]]]:
    """A world with a repository, and the first three jobs of a real submission: the run's initialization and two quanta."""
    with World(tmp_path_factory.mktemp("stack") / "world", adder_delay_s=0.0) as world:
        production = Production(world, image)
        production.make_repository()
        jobs = production.submission()[:3]
        assert [job["label"].startswith("isr") for job in jobs] == [False, True, True]
        yield production, world.sandbox.submit(jobs)


@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_quanta_finish_in_pods_of_the_stack_image(
    built: Built, production: tuple[Production, list[int]], tmp_path: Path
) -> None:
    produced, (init, first, second) = production
    world = produced.world
    pods = Pods(world, built.name, tmp_path)
    repository = world.state_dir / "repo"
    open_to_all(repository)
    variables = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CA_BUNDLE": CA_INSIDE,
        "PANDA_BEHIND_REAL_LB": "true",
        "MINIRC2_DIR": "/opt/minirc2",
    }
    queue = {
        "payload_env": sorted(produced.credentials),
        "payload_env_set": variables,
        "binds": [f"{REPO_INSIDE}:{REPO_INSIDE}"],
    }

    def pod_runs(rights: Rights, count: int) -> None:
        pod = pods.start(
            rights,
            "--max-jobs",
            str(count),
            volumes={repository: REPO_INSIDE, world.ca_path: f"{CA_INSIDE}:ro"},
            environment=produced.credentials,
            queues={QUEUE: queue},
            max_empty=10,
            empty_wait_s=0.2,
        )
        assert pod.end(200) == 0, pod.log

    try:
        pod_runs(RUNG_B, 2)
        open_to_all(repository)  # what the other user has made there
        pod_runs(NON_ROOT, 1)
    finally:
        pods.remove()
    rungs = {init: "B:uid+landlock", first: "B:uid+landlock", second: "C:landlock"}
    for panda_id, rung in rungs.items():
        job = world.sandbox.wait_for(panda_id, {"finished"}, 5)
        assert f"isolation={rung}" in job["fields"]["jobmetrics"].split()
    log = public(world, log_url(world, second, "payload.stderr")).text
    assert "isr" in log


def open_to_all(folder: Path) -> None:
    """The registry's SQLite file is written by payloads of two users here; a real one is a server."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def test_the_base_and_its_python_are_left_as_they_are(built: Built) -> None:
    before, after = entries(built.base), entries(built.name)
    assert {path for path in before if before[path] != after.get(path)} <= CHANGED | OF_THE_RUNTIME
    added = {path for path in after if path not in before}
    assert [path for path in added if not path.startswith(ADDED)] == []
    assert "/opt/pilot/bin/pilot-start" in added


def entries(image: str) -> dict[str, tuple[int, ...]]:
    """Mode, owner and size of everything in an image, and the time of regular files; links are not followed."""
    tree = podman("image", "mount", image).stdout.strip()
    found: dict[str, tuple[int, ...]] = {}
    try:
        for where, folders, names in os.walk(tree):
            for name in (*folders, *names):
                entry = os.lstat(os.path.join(where, name))
                dated = int(entry.st_mtime) if stat.S_ISREG(entry.st_mode) else 0
                size = 0 if stat.S_ISDIR(entry.st_mode) else entry.st_size
                found[os.path.join(where, name)[len(tree) :]] = (entry.st_mode, entry.st_uid, size, dated)
    finally:
        podman("image", "unmount", image)
    return found


def test_the_pilot_and_the_payload_have_each_their_own_packages(built: Built) -> None:
    assert shell(built.name, "python3 -c 'import lsst.daf.butler, sys; print(sys.prefix)'") == "/usr\n"
    told = shell(
        built.name,
        "/opt/pilot/bin/python -I -c 'import pilot, sys, importlib.util as u; print(sys.prefix, u.find_spec(\"lsst\"))'",
    )
    assert told == "/opt/pilot None\n"
    assert "No module named 'pilot'" in shell(built.name, "python3 -c 'import pilot' 2>&1 | tail -1")
