"""The small program before a payload: what it is told, and that it runs nothing when it does not understand or cannot do it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pilot.payload import landlock

SYSTEM = ["/bin", "/usr", "/lib", "/lib64", "/etc"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(Path(landlock.__file__)), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_the_program_reads_and_writes_where_it_may_and_nowhere_else(tmp_path: Path) -> None:
    for name in ("may read", "may write", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "there").write_text(f"from {name}\n")
    words = landlock.words(
        [*SYSTEM, str(tmp_path / "may read")], [str(tmp_path / "may write")], keep_capabilities=False
    )
    script = 'cd "$1"; for d in "may read" "may write" closed; do cat "$d/there"; echo new > "$d/made"; done'
    done = run(*words, "/bin/sh", "-c", script, "sh", str(tmp_path))
    assert done.stdout == "from may read\nfrom may write\n"
    assert [path.parent.name for path in tmp_path.glob("*/made")] == ["may write"]


def test_capabilities_are_kept_only_when_that_is_said() -> None:
    def effective(keep: bool) -> str:
        words = landlock.words([*SYSTEM, "/proc"], [], keep_capabilities=keep)
        return run(*words, "/bin/grep", "CapEff", "/proc/self/status").stdout.split()[1]

    assert int(effective(False), 16) == 0
    own = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    assert effective(True) == own


@pytest.mark.parametrize("words", [(), ("-x/", "--", "/bin/echo", "ran"), ("-r/", "/bin/echo", "ran"), ("-r/", "--")])
def test_what_is_not_understood_runs_nothing(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (landlock.EXIT_CODE, "")
    assert done.stderr.startswith("FATAL: the payload cannot be closed in: ")
