"""The benchmarks work: their short forms, with the clients that every machine has. What figures they give is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def ran(path: Path, part: str, *arguments: str) -> dict[str, Any]:
    """The record of a part in its short form."""
    command = [sys.executable, "-m", f"tests.bench.{part}", "--quick", "--json", str(path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["part"] == part and record["tables"] in done.stdout
    return record


def test_staging_moves_and_checks_files_in_both_directions(tmp_path: Path) -> None:
    record = ran(tmp_path / "r.json", "staging", "--scale", "0.002", "--clients", "pilot", "curl", "wire, file")
    down, small, up = record["cells"]
    assert (down["cell"], small["cell"], up["cell"]) == ("1 x 2 MB down", "4 x 64 KiB down", "1 x 5 MB up")
    for cell in record["cells"]:
        assert cell["failures"] == {} and all(len(costs) == 1 for costs in cell["clients"].values())
    assert {"pilot gs", "pilot s3", "curl"} <= set(small["clients"])
    assert {"pilot gs", "pilot s3 at Google", "pilot s3 elsewhere"} <= set(up["clients"])


def test_a_client_that_cannot_do_its_work_makes_the_part_fail(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "curl").write_text("#!/bin/sh\necho I cannot >&2; exit 7\n")
    (programs / "curl").chmod(0o755)
    command = [sys.executable, "-m", "tests.bench.staging", "--quick", "--scale", "0.0005", "--clients", "curl"]
    environment = {"PATH": f"{programs}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "I cannot" in done.stderr and "left with an error" in done.stdout


@pytest.mark.parametrize("part", ["bundle", "hostile"])
def test_a_part_in_its_short_form_leaves_its_record(tmp_path: Path, part: str) -> None:
    assert ran(tmp_path / "r.json", part)
