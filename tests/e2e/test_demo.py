"""The demo as a person runs it: one command, a table with links, nothing left running."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import PATH, processes_of, public

ROW = re.compile(r"^(\d+)\s+(\S+)\s+finished\s+([\d.]+)\s+(\d+)\s+(https://\S+/pilotlog\.txt)$", re.MULTILINE)


@pytest.mark.timeout(240)
def test_the_quick_demo_runs_two_jobs_and_prints_where_their_logs_are(image: Path, tmp_path: Path) -> None:
    state = tmp_path / "demo"
    program = Path(sys.executable).with_name("pilot-sandbox")
    done = subprocess.run(
        [program, "demo", "--image", image, "--quick", "--state", state],
        env={"PATH": PATH, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.rstrip().endswith("demo: all is well")
    rows = ROW.findall(done.stdout)
    assert rows[0][1].startswith("pipetaskInit")
    assert len(rows) == 2
    assert all(float(wall_s) > 0 and int(megabytes) > 50 for _, _, wall_s, megabytes, _ in rows)
    summary = json.loads((state / "summary.json").read_text())
    assert [job["log_url"] for job in summary["jobs"]] == [url for *_, url in rows]
    assert processes_of(state) == []
    # The links work again when the folder is served again.
    with World(state) as world:
        answer = public(world, rows[0][-1])
        assert (answer.status_code, "finished" in answer.text) == (200, True)


def test_an_image_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pilot-sandbox")
    done = subprocess.run(
        [program, "demo", "--image", tmp_path / "no.sif", "--quick", "--state", tmp_path / "demo"],
        env={"PATH": PATH, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "no.sif" in line]
    assert "Traceback" not in done.stderr
