"""The documentation's commands are true: targets exist, options parse, and what can be run here is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.cli import build_parser
from pilot.sandbox.cli import _parser as sandbox_parser

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BIN = Path(sys.executable).parent
# Commands that need nothing but this machine.
RUNNABLE = (
    "pilot-start --help",
    "pilot-start --sandbox --queue DOMA_LSST_DEV --max-empty 1",
    "pilot-sandbox run --hello -- pilot-start --queue DOMA_LSST_DEV --max-jobs 1",
)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            joined = block.replace("\\\n", " ")
            found += [(page.name, line.split("  #")[0].strip()) for line in joined.splitlines() if line.strip()]
    return [(page, line) for page, line in found if not line.startswith("#")]


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: str(value)[:60])
def test_a_command_in_the_documentation_is_understood(page: str, line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE) for name in arguments if "=" not in name)
    elif program == "pilot-start":
        if "--help" not in arguments:
            build_parser().parse_args(arguments)
    elif program == "pilot-sandbox":
        sandbox_parser().parse_args(arguments)
    elif program in ("kubectl", "terraform", "gcloud"):
        assert page == "kubernetes.md", (
            f"{page}: {line} belongs to the guide that tests/kube/test_guide.py looks through"
        )
    else:
        assert (ROOT / program).exists(), f"{page}: {line} is no command of this project"


@pytest.mark.parametrize("line", RUNNABLE)
def test_a_command_that_can_run_here_runs(line: str, tmp_path: Path) -> None:
    assert line in {command for _page, command in commands()}, "the documentation says it no more: drop it here"
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PILOT_EMPTY_WAIT_S": "0.1",
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(shlex.split(line), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
