"""The payload image's recipe and the machine's preparation, as far as they can be checked without building."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
RECIPE = PROJECT / "container" / "payload"
LOCKS = [RECIPE / "requirements.lock", RECIPE / "source-requirements.lock"]
PINNED = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][^ ]* --hash=sha256:[0-9a-f]{64}")


def run(*argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the project with a bounded wait and a small environment."""
    paths = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([str(a) for a in argv], env=paths | env, capture_output=True, text=True, timeout=30)


def lines_of(lock: Path) -> list[str]:
    return [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_line_of_a_lock_is_one_pinned_package_with_its_checksum(lock: Path) -> None:
    assert lines_of(lock)
    assert [line for line in lines_of(lock) if not PINNED.fullmatch(line)] == []


def test_no_lock_or_script_names_a_host_to_fetch_from() -> None:
    files = [*LOCKS, *(PROJECT / "scripts" / name for name in ("build-payload-image", "prepare-machine"))]
    assert [str(file) for file in files if re.search(r"https?://|index-url", file.read_text())] == []


def test_no_package_is_pinned_twice() -> None:
    names = [line.partition("==")[0] for lock in LOCKS for line in lines_of(lock)]
    assert sorted(set(names)) == sorted(names)


def test_the_middleware_that_jobs_call_is_in_the_lock() -> None:
    names = {line.partition("==")[0] for line in lines_of(LOCKS[0])}
    assert {"lsst-ctrl-mpexec", "lsst-ctrl-bps-panda", "lsst-daf-butler", "boto3", "psycopg2-binary"} <= names


def test_the_path_of_the_image_is_stable_and_in_the_cache(tmp_path: Path) -> None:
    script = PROJECT / "scripts" / "build-payload-image"
    first, second = (run(script, "--print-path", XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == second.stdout
    assert re.fullmatch(re.escape(str(tmp_path)) + r"/pilot/images/[0-9a-f]{64}\.sif\n", first.stdout)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    script = PROJECT / "scripts" / "build-payload-image"
    image = Path(run(script, "--print-path", XDG_CACHE_HOME=str(tmp_path)).stdout.strip())
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    done = run(script, XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{image}\n", "")


@pytest.mark.parametrize("script", ["build-payload-image", "prepare-machine"])
def test_an_unknown_argument_is_refused_in_one_sentence(script: str) -> None:
    done = run(PROJECT / "scripts" / script, "nonsense")
    assert done.returncode == 1
    assert re.fullmatch(rf"{script}: unknown \w+ nonsense \(.*\)\n", done.stderr)


def test_a_prepared_machine_is_left_alone() -> None:
    done = run(PROJECT / "scripts" / "prepare-machine", "python")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_sample_jobs_come_in_an_order_that_respects_their_parents() -> None:
    jobs = json.loads((PROJECT / "tests" / "data" / "minirc2_sample_panda_jobs.json").read_text())
    seen: set[int] = set()
    for item in jobs:
        assert set(item["parents"]) <= seen
        seen.add(item["job"]["PandaID"])
    assert [item["label"] for item in jobs][::17] == ["pipetaskInit", "finalJob"]
