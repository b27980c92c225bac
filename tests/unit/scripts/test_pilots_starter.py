"""The starter for old templates: it becomes ``pilot-start`` with what the old options meant, or says what is missing."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.settings import read_settings

STARTER = Path(__file__).parents[3] / "scripts/pilots_starter.py"
# The command line that Rubin's starter gave its wrapper, and the one of sites without Kubernetes.
RUBIN = (
    "-s LSST -r DOMA_LSST_DEV -q DOMA_LSST_DEV --resource-type SCORE -j managed -i managed --use-realtime-logging "
    "--realtime-logging-server google-cloud-logging --realtime-logname Panda-RubinLog --harvester-datadir {work} -i PR "
    "--piloturl https://example.org/pilot3.tgz -w generic --pilot-user rubin --url=https://pandaserver-doma.cern.ch -d "
    "--harvester-submit-mode {mode} --allow-same-user=False -t"
)
SLURM = (
    "-s USDF -q DOMA_LSST_DEV -i PR -w generic --allow-same-user false --pilot-user rubin --noproxyverification -v 3 "
    "--url https://panda.example.org:8443 -d --queuedata-url https://panda.example.org:8443/cache/x.json -l 7200 "
    "--storagedata-url /cric/ddm.json --pilotversion 3 --pythonversion 3 --localpy --log-level DEBUG --max-jobs 2"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A program in the place of ``pilot-start`` that tells what it was started with, and leaves with 79."""
    program = tmp_path / "bin/pilot-start"
    program.parent.mkdir()
    told = "json.dump([os.getpid(), sys.argv, dict(os.environ)], sys.stdout)"
    program.write_text(f"#!{sys.executable} -I\nimport json, os, sys\n{told}\nsys.exit(79)\n")
    program.chmod(0o755)
    return program


def start(line: str, path: str = "/usr/bin:/bin", **environment: str) -> tuple[int, subprocess.CompletedProcess[str]]:
    """Run the starter; its pid and how it ended."""
    argv = [sys.executable, str(STARTER), *shlex.split(line)]
    process = subprocess.Popen(
        argv, env={"PATH": path, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate(timeout=30)
    return process.pid, subprocess.CompletedProcess(argv, process.returncode, out, err)


def became(program: Path, line: str, **environment: str) -> tuple[list[str], dict[str, str], str]:
    """The arguments and the environment ``pilot-start`` found, and what the starter had said before."""
    pid, done = start(line, f"{program.parent}:/usr/bin:/bin", **environment)
    assert done.returncode == 79, done.stderr
    found_pid, arguments, found = json.loads(done.stdout)
    assert found_pid == pid, "it started pilot-start instead of becoming it"
    assert arguments[0] == str(program)
    return arguments[1:], found, done.stderr


def test_it_needs_no_more_than_an_old_python_and_its_standard_library() -> None:
    tree = ast.parse(STARTER.read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"os", "sys"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_with_harvesters_variables_alone_nothing_is_added_and_nothing_said(installed: Path) -> None:
    given = {"pandaQueueName": "DOMA_LSST_DEV", "workerID": "7", "proxyContent": "$proxyContent", "submit_mode": "PULL"}
    arguments, environment, said = became(installed, "", **given)
    assert (arguments, said) == ([], "")
    assert {name: environment[name] for name in given} == given
    assert not [name for name in environment if name.startswith("PILOT_")]


def test_rubins_command_line_becomes_settings_the_pilot_reads(installed: Path, tmp_path: Path) -> None:
    arguments, environment, said = became(installed, RUBIN.format(work=tmp_path, mode="PULL"), TMPDIR=str(tmp_path))
    assert arguments == []
    settings = read_settings({}, environment, config_paths=())
    assert (settings.queue, settings.label, settings.resource_type) == ("DOMA_LSST_DEV", "managed", "SCORE")
    assert settings.server == ("https://pandaserver-doma.cern.ch:25443",)
    assert (settings.version_tag, settings.submit_mode) == ("PR", "PULL")  # of two the last counts, as it did
    assert environment["computingSite"] == "LSST"
    assert (environment["USE_REALTIME_LOGGING"], environment["REALTIME_LOGNAME"]) == ("yes", "Panda-RubinLog")
    assert environment["REALTIME_LOGGING_SERVER"] == "google-cloud-logging"
    (line,) = said.splitlines()
    assert line.endswith("no use for --allow-same-user, --pilot-user, --piloturl, -d, -r, -t, -w")


def test_a_sites_own_command_line_too_and_pilot_starts_own_options_are_passed_on(installed: Path) -> None:
    arguments, environment, _said = became(installed, SLURM)
    assert arguments == ["--log-level", "DEBUG", "--max-jobs", "2"]
    settings = read_settings({}, {**environment, "HOME": "/nonexistent"}, config_paths=())
    assert settings.server == ("https://panda.example.org:8443",)
    assert (settings.lifetime, settings.max_empty) == (7200.0, 3)


def test_a_port_given_apart_belongs_to_the_server(installed: Path) -> None:
    _arguments, environment, _said = became(installed, "-p 8443 --url https://panda.example.org/")
    assert environment["PILOT_SERVER"] == "https://panda.example.org:8443"


def test_the_command_line_wins_over_the_environment(installed: Path) -> None:
    _arguments, environment, _said = became(installed, "-qNEW", pandaQueueName="OLD")
    assert environment["pandaQueueName"] == "NEW"


@pytest.mark.parametrize("where", ["", "jobconfig"])
def test_a_pushed_job_is_found_where_the_old_chain_put_it(installed: Path, tmp_path: Path, where: str) -> None:
    folder = tmp_path / "work" / where
    folder.mkdir(parents=True)
    (folder / "pandaJobData.out").write_text("PandaID=1")
    line = RUBIN.format(work=tmp_path / "work", mode="PUSH")
    _arguments, environment, _said = became(installed, line, TMPDIR=str(tmp_path / "work"))
    settings = read_settings({}, environment, config_paths=())
    assert (settings.submit_mode, settings.job) == ("PUSH", folder / "pandaJobData.out")


def test_the_program_can_be_named(installed: Path, tmp_path: Path) -> None:
    other = installed.rename(tmp_path / "my-pilot")
    _pid, done = start("", PILOT_START=str(other))
    assert json.loads(done.stdout)[1] == [str(other)]


def test_one_beside_the_starter_is_found_first(installed: Path, tmp_path: Path) -> None:
    copy = installed.parent / STARTER.name
    copy.write_text(STARTER.read_text())
    done = subprocess.run([sys.executable, copy], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert json.loads(done.stdout)[1] == [str(installed)]


def test_without_a_pilot_it_says_so_in_one_sentence_and_leaves_with_127(tmp_path: Path) -> None:
    copy = tmp_path / STARTER.name
    copy.write_text(STARTER.read_text().replace("/opt/pilot/", f"{tmp_path}/"))  # this machine may hold one there
    done = subprocess.run([sys.executable, copy], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 127
    (line,) = done.stderr.splitlines()
    assert line.startswith("pilots_starter: there is no pilot-start in this image")


def test_a_pilot_that_cannot_be_run_is_126(tmp_path: Path) -> None:
    broken = tmp_path / "pilot-start"
    broken.write_text("#!/no/such/python\n")
    broken.chmod(0o755)
    _pid, done = start("", PILOT_START=str(broken))
    assert done.returncode == 126
    assert done.stderr == f"pilots_starter: {broken} cannot be run: No such file or directory\n"


@pytest.mark.parametrize("line", ["-q", "--url", "-w generic -p"])
def test_an_option_without_its_value_is_refused(installed: Path, line: str) -> None:
    _pid, done = start(line, str(installed.parent))
    assert done.returncode == 2
    assert done.stderr == f"pilots_starter: option {line.split()[-1]} lacks its value\n"
