from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pilot import __version__
from pilot.cli import build_parser, main
from pilot.options import OPTIONS


def pilot(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``pilot-start`` with nothing but these arguments and variables."""
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"} | environment
    command = [sys.executable, "-m", "pilot.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env, cwd="/")


def test_help_lists_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    words = text.replace(",", " ").split()
    assert not [option.flag for option in OPTIONS if option.flag not in words]
    assert {"--version", "--sandbox", "--recover-only"} <= set(words)
    assert "exit codes:" in text and "(default: 60.0)" in " ".join(text.split())


def test_no_flag_is_given_twice_and_each_is_of_the_table() -> None:
    flags = [action.option_strings for action in build_parser()._actions]
    assert len({flag for names in flags for flag in names}) == sum(len(names) for names in flags)


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"pilot {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no queue"),
        (("--queue", "no such/queue"), "is not a queue name"),
        (("--queue", "Q", "--max-jobs", "many"), "--max-jobs"),
        (("--queue", "Q", "--config", "/nonexistent/pilot.yaml"), "cannot read the settings file"),
        (("--queue", "Q", "--cert", "c"), "--key"),
        (("--queue", "Q", "--server", "http://plain.example"), "https"),
    ],
)
def test_what_a_person_got_wrong_is_one_line_and_exit_2(arguments: tuple[str, ...], words: str) -> None:
    done = pilot(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pilot-start: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("--queue",), ("--que", "Q"), ("word",)])
def test_an_unknown_option_is_exit_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    done = pilot(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "pilot-start: error:" in done.stderr


def test_without_credentials_no_pilot_works(tmp_path: Path) -> None:
    done = pilot("--queue", "Q", "--workdir", str(tmp_path))
    assert done.returncode == 68
    assert "no credentials for the PanDA server" in done.stderr and "Traceback" not in done.stderr


def test_a_work_folder_that_cannot_be_made_is_exit_66(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "token").write_text("opaque")
    arguments = ("--token-file", str(tmp_path / "token"), "--origin", "vo", "--workdir", str(tmp_path / "file" / "w"))
    done = pilot("--queue", "Q", *arguments)
    assert done.returncode == 66
    assert "cannot make the work folder" in done.stderr and "Traceback" not in done.stderr


def test_the_sandbox_that_is_not_installed_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--sandbox", "--queue", "Q"]) == 2
    assert "sandbox extra" in capsys.readouterr().err


def test_the_sandbox_takes_the_pilots_place_and_gets_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "pilot-sandbox").write_text('#!/bin/sh\necho "$@"\necho $$\n')
    (tmp_path / "pilot-sandbox").chmod(0o755)
    code = f"import sys; sys.executable = {str(tmp_path / 'python')!r}; from pilot.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--sandbox", "--queue", "Q"], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        said, pid = child.stdout.read().splitlines()
    assert said.endswith("--queue Q") and said.startswith("run -- ")
    assert int(pid) == child.pid
