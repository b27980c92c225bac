"""The health check: who signed, when, and whether anybody is there to sign again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilot.runtime import health
from pilot.runtime.health import Signature, healthcheck, look, work_folder
from pilot.settings import read_settings


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here signs again within two seconds who does not within a few milliseconds."""
    monkeypatch.setattr(health, "PATIENCE_S", 0.05)


@contextmanager
def signed(folder: Path, stale_after_s: float = 1000.0) -> Iterator[Signature]:
    signature = Signature(str(folder), stale_after_s)
    signature.sign()
    yield signature
    signature.close()


def change(folder: Path, **changes: object) -> None:
    path = folder / "alive"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_pilot_that_signed_just_now_is_healthy(tmp_path: Path) -> None:
    with signed(tmp_path):
        healthy, sentence = look(str(tmp_path))
    assert healthy and f"pid {os.getpid()}" in sentence


def test_where_no_pilot_works_none_is_healthy(tmp_path: Path) -> None:
    assert look(str(tmp_path)) == (False, f"no pilot works in {tmp_path} (there is no {tmp_path}/alive)")
    with signed(tmp_path):
        pass
    assert not look(str(tmp_path))[0], "the pilot has left"
    assert not look(str(tmp_path / "no" / "folder"))[0]


def test_a_main_loop_that_does_not_come_back_is_not_healthy(tmp_path: Path) -> None:
    with signed(tmp_path, stale_after_s=0.0):
        healthy, sentence = look(str(tmp_path))
    assert not healthy and "has not come back" in sentence


def test_a_pilot_that_signs_again_while_it_is_looked_at_is_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 10.0)
    with signed(tmp_path) as signature:
        change(tmp_path, at_s="0.000", stale_after_s=100.0)
        again = threading.Timer(0.05, signature.sign)
        again.start()
        assert look(str(tmp_path))[0]
        again.join()


def test_the_pid_of_a_pilot_that_died_is_no_pilot_when_another_process_has_it(tmp_path: Path) -> None:
    with signed(tmp_path):
        change(tmp_path, started=health.start_time(os.getpid()) - 1)
        healthy, sentence = look(str(tmp_path))
    assert not healthy and "is gone" in sentence


def test_a_dead_pilot_is_gone_even_if_nobody_has_collected_it(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with signed(tmp_path):
        change(tmp_path, pid=child.pid, started=health.start_time(child.pid))
        assert look(str(tmp_path))[0]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not look(str(tmp_path))[0], "a zombie"
        child.communicate()
        assert not look(str(tmp_path))[0], "no process at all"


def test_a_suspended_pilot_is_not_a_stuck_one(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with signed(tmp_path, stale_after_s=0.0):
            change(tmp_path, pid=child.pid, started=health.start_time(child.pid))
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            assert look(str(tmp_path)) == (True, f"the pilot (pid {child.pid}) is suspended")
            child.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)
            assert not look(str(tmp_path))[0]
    finally:
        child.kill()
        child.communicate()


def test_a_signature_of_before_the_nodes_start_is_stale(tmp_path: Path) -> None:
    with signed(tmp_path):
        change(tmp_path, at_s=f"{time.monotonic() + 1000:.3f}")
        assert not look(str(tmp_path))[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"pid": "x"}', "\xff\xfe", '{"pid": 1, "started": 2}'])
def test_what_is_no_signature_is_no_sign_of_life(tmp_path: Path, text: str) -> None:
    (tmp_path / "alive").write_text(text, encoding="latin-1")
    healthy, sentence = look(str(tmp_path))
    assert not healthy and "\n" not in sentence


def test_a_signature_is_always_of_one_length_and_written_over_itself(tmp_path: Path) -> None:
    with signed(tmp_path) as signature:
        before = (tmp_path / "alive").stat()
        for _ in range(3):
            signature.sign()
        after = (tmp_path / "alive").stat()
    assert (before.st_size, before.st_ino) == (after.st_size, after.st_ino)


def test_a_full_disk_keeps_no_pilot_from_signing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pilot.runtime.health import Signature; s = Signature(sys.argv[1]); s.sign();"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY)); s.sign(); print(repr(s.trouble))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "''\n"


def test_a_disk_that_takes_nothing_is_told_and_not_raised(tmp_path: Path) -> None:
    signature = Signature(str(tmp_path))
    os.close(signature._descriptor)
    signature.sign()
    assert signature.trouble == "Bad file descriptor"


def test_no_link_is_followed_to_sign(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "alive").symlink_to("precious")
    with pytest.raises(OSError):
        Signature(str(tmp_path))
    assert (tmp_path / "precious").read_text() == "kept"


# --- which work folder ------------------------------------------------------------------------------------------------

VALUES = st.sampled_from(["", " ", "/a", "/b/c", "~/d", "$PILOT_WORKDIR", "$TMPDIR", " /e "])


@given(
    flag=st.none() | st.sampled_from(["/flag", "~/flag"]),
    variables=st.dictionaries(st.sampled_from(["PILOT_WORKDIR", "TMPDIR", "HOME"]), VALUES),
    filed=st.none() | st.sampled_from(["/file", "~/file", "relative"]),
    named=st.booleans(),
)
def test_the_health_check_looks_where_the_pilot_works(
    tmp_path_factory: pytest.TempPathFactory,
    flag: str | None,
    variables: Mapping[str, str],
    filed: str | None,
    named: bool,
) -> None:
    file = tmp_path_factory.getbasetemp() / "pilot.yaml"
    file.write_text(yaml.safe_dump({"max_jobs": 1} | ({"workdir": filed} if filed else {})))
    arguments = ["--queue", "Q", *(["--workdir", flag] if flag else []), *(["--config", str(file)] if named else [])]
    flags = {"queue": "Q", "workdir": flag, "config": str(file) if named else None}
    paths = () if named else (file,)
    wanted = read_settings(flags, variables, paths).workdir
    assert Path(work_folder(arguments, variables, tuple(map(str, paths)))) == wanted


def test_a_flag_with_an_equals_sign_and_the_last_of_two_count() -> None:
    assert work_folder(["--workdir=/a"], {}, ()) == "/a"
    assert work_folder(["--workdir", "/a", "--workdir=/b"], {}, ()) == "/b"


@pytest.mark.parametrize("text", ["workdir: [", "- workdir", "workdir: 7", "workdir"])
def test_a_settings_file_that_makes_no_sense_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "pilot.yaml").write_text(text)
    assert work_folder([], {"TMPDIR": "/t"}, (str(tmp_path / "pilot.yaml"),)) == "/t/pilot"
    assert work_folder(["--config", str(tmp_path / "none")], {"TMPDIR": "/t"}) == "/t/pilot"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_one_sentence_and_0_or_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck(["--healthcheck", "--workdir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("pilot-start: no pilot works") and said.err.count("\n") == 1
    with signed(tmp_path):
        assert healthcheck(["--healthcheck", "--workdir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("\n") == 1


COSTLY = {
    *("argparse", "dataclasses", "inspect", "logging", "pathlib", "requests", "socket", "ssl", "subprocess"),
    *("tempfile", "threading", "yaml"),
}


def test_a_health_check_imports_next_to_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); sys.argv[1:] = ['--healthcheck', '--workdir', sys.argv[1]]\n"
        "from pilot.entry import entry\n"
        "try: entry()\n"
        "except SystemExit as left: print(left.code, *sorted(set(sys.modules) - before))"
    )
    with signed(tmp_path):
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    exit_code, *modules = done.stdout.splitlines()[-1].split()
    assert exit_code == "0"
    assert not set(modules) & COSTLY
    assert {name for name in modules if name.startswith("pilot")} == {
        "pilot",
        "pilot.entry",
        "pilot.runtime",
        "pilot.runtime.health",
    }
