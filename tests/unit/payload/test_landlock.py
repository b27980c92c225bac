"""What is closed to a thread and to what it starts, while the other threads lose nothing; and the same as a program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pilot.payload import landlock
from pilot.payload.landlock import Closed

SYSTEM = ("/bin", "/usr", "/lib", "/lib64", "/etc")
NULL = "/dev/null"
Run = Callable[..., str]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def from_a_thread(closed: Closed, *argv: str) -> str:
    def work() -> str:
        closed.close_in(NULL)
        return run(*argv).stdout

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result()


def as_a_program(closed: Closed, *argv: str) -> str:
    return run(*closed.program(), *argv).stdout


both = pytest.mark.parametrize("outcome", [from_a_thread, as_a_program])


@both
def test_the_program_reads_and_writes_where_it_may_and_nowhere_else(outcome: Run, tmp_path: Path) -> None:
    for name in ("may read", "may write", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "there").write_text(f"from {name}\n")
    closed = Closed((*SYSTEM, str(tmp_path / "may read")), (str(tmp_path / "may write"),))
    script = 'cd "$1"; for d in "may read" "may write" closed; do cat "$d/there"; echo new > "$d/made"; done'
    assert outcome(closed, "/bin/sh", "-c", script, "sh", str(tmp_path)) == "from may read\nfrom may write\n"
    assert [path.parent.name for path in tmp_path.glob("*/made")] == ["may write"]


@both
def test_capabilities_are_kept_only_when_that_is_said(outcome: Run) -> None:
    def effective(keep: bool) -> str:
        closed = Closed((*SYSTEM, "/proc"), (), keep_capabilities=keep)
        return outcome(closed, "/bin/grep", "CapEff", "/proc/self/status").split()[1]

    assert int(effective(False), 16) == 0
    own = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    assert effective(True) == own


def test_the_other_threads_lose_nothing(tmp_path: Path) -> None:
    marks = ("CapEff:", "NoNewPrivs:")

    def mine() -> list[str]:
        return [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(marks)]

    before = mine()
    assert from_a_thread(Closed(SYSTEM, ()), "/bin/cat", "/proc/self/status") == ""
    assert mine() == before
    (tmp_path / "made").write_text("here")
    assert (tmp_path / "made").read_text() == "here"


def test_what_cannot_be_closed_in_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="null byte"):
        from_a_thread(Closed((*SYSTEM, "/srv\0"), (str(tmp_path),)), "/bin/touch", str(tmp_path / "ran"))
    assert not list(tmp_path.iterdir())


def test_a_kernel_that_refuses_costs_no_descriptor() -> None:
    """It takes sixteen layers of one thread, and no more."""

    def until_refused() -> None:
        while True:
            Closed(SYSTEM, (), keep_capabilities=True).close_in()

    before = os.listdir("/proc/self/fd")
    with ThreadPoolExecutor(1) as threads, pytest.raises(OSError, match="Argument list too long"):
        threads.submit(until_refused).result()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("words", [(), ("-x/", "--", "/bin/echo", "ran"), ("-r/", "/bin/echo", "ran"), ("-r/", "--")])
def test_what_the_program_does_not_understand_runs_nothing(words: tuple[str, ...]) -> None:
    program = Closed((), ()).program()
    done = run(*program[: program.index("--")], *words)
    assert (done.returncode, done.stdout) == (landlock.EXIT_CODE, "")
    assert done.stderr.startswith("FATAL: the payload cannot be closed in: ")
