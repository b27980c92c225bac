"""What is easily overlooked: threads without their first, processes that come and go, time in which nobody is there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.job.limits import BreachKind, Limits
from pilot.payload import procfs
from pilot.payload.leftovers import lay_to_rest
from pilot.payload.monitor import Monitor
from pilot.payload.process import Guard, PayloadProcess
from pilot.payload.start import Launch, guarded
from pilot.runtime.stop import Stop, StopKind
from pilot.runtime.workdir import JobFolder
from tests.integration.payload.conftest import QUEUE, Payloads

MB = 1 << 20
# Its first thread ends, another goes on; the process is then shown in the state of a dead one.
WITHOUT_FIRST_THREAD = """
import ctypes, os, sys, threading, time
EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
def work():
    kept = bytearray(b"x") * (int(sys.argv[1]) << 20)
    print("at work", os.getpid(), flush=True)
    time.sleep(60)
if "daemon" in sys.argv:
    os.fork() and os._exit(0)
    os.setsid()
    os.fork() and os._exit(0)
threading.Thread(target=work, daemon=True).start()
ctypes.CDLL(None).syscall(EXIT, 0)
"""
PYTHON = f"{sys.executable} -S first.py"


def with_program(command: str) -> str:
    return f"cat >first.py <<'END'{WITHOUT_FIRST_THREAD}END\n{command}"


def launch(folder: Path, *argv: str, tracking_id: str = "overlooked.1") -> Launch:
    environment = {"PATH": "/usr/bin:/bin", "PILOT_PAYLOAD_ID": tracking_id}
    return Launch(guarded(argv), environment, folder, folder / "stdout", folder / "stderr", tracking_id)


def test_a_process_whose_first_thread_has_ended_is_no_dead_one_and_goes_with_its_job(payloads: Payloads) -> None:
    seen = 'until grep -qs "State:.Z" /proc/$(tail -c +9 said)/status; do sleep 0.02; done'
    ran = payloads.run(with_program(f"{PYTHON} 1 daemon >said; until grep -q work said; do sleep 0.02; done; {seen}"))
    assert ran.end.exit_code == 0  # and the fixture looks who is left
    assert ran.end.wall_s < 20


def test_its_memory_counts(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_rss_bytes=100 * MB))
    ran = payloads.run(with_program(f"exec {PYTHON} 300"))
    assert ran.end.breach is not None
    assert ran.end.breach.code == 1235
    assert "(PSS), 200 MB allowed" in ran.end.breach.detail


@pytest.mark.parametrize("ended_by", ["recovery", "guard"])
def test_it_is_found_by_whoever_clears_up_after_a_dead_pilot(ended_by: str, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    argv = (sys.executable, "-S", "-c", WITHOUT_FIRST_THREAD, "1")
    environment = {**os.environ, "PILOT_PAYLOAD_ID": "overlooked.2"}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if ended_by == "recovery":
            lay_to_rest({"tracking": "overlooked.2"}, JobFolder(tmp_path))
        else:
            guard = Guard("PILOT_PAYLOAD_ID=overlooked.2")
            os.close(guard._write_end)  # as when the pilot dies
            assert guard._process.wait(30) == 0
        assert process.wait(30) == -9


def test_children_that_end_while_they_are_looked_at_are_no_memory(tmp_path: Path) -> None:
    """What they share with their parent was counted once for each of them."""
    program = (
        "import os, time; kept = bytearray(b'x') * (60 << 20); "
        "pids = [os.fork() or time.sleep(60) for _ in range(6)]; print('forked', flush=True); time.sleep(60)"
    )
    process = PayloadProcess(launch(tmp_path, sys.executable, "-S", "-c", program))
    scope = Stop()
    watcher = process.watch(scope)
    try:
        monitor = Monitor(process, Limits(memory_bytes=100 * MB), scope, (tmp_path,), ())
        while "forked" not in (tmp_path / "stdout").read_text():
            assert not scope.wait(0.02)
        members = process.members()
        for child in members:
            if child.ppid == process.pid:
                os.kill(child.pid, 9)
        while any(not procfs.read_process(p.pid).zombie for p in members if p.ppid == process.pid):  # type: ignore[union-attr]
            assert not scope.wait(0.02)
        rss = sum(p.rss_bytes for p in members)
        pss, _swap = monitor._pss(members, rss, 1.0)
        assert rss > 300 * MB
        assert pss is not None and pss < 90 * MB
    finally:
        process.stop_all(0)
        process.finish(None)
        watcher.join()


def test_time_passes_also_while_there_is_nobody_but_the_container_runtime(tmp_path: Path) -> None:
    process = PayloadProcess(launch(tmp_path, "sleep", "60"))
    with Stop().child() as scope:
        watcher = process.watch(scope)
        monitor = Monitor(process, Limits(walltime_s=1), scope, (tmp_path,), (), lambda _process: True)
        monitor.start()
        try:
            assert scope.wait(30)
        finally:
            process.stop_all(0)
            monitor.finish()
            process.finish(scope.reason)
            watcher.join()
    assert scope.reason is not None and scope.reason.kind is StopKind.LIMIT
    assert monitor.breach is not None and monitor.breach.kind is BreachKind.WALLTIME
    assert monitor.history == ()


def test_cpu_of_many_short_processes_is_seen_while_the_payload_runs(payloads: Payloads) -> None:
    busy = (
        f"{sys.executable} -S -c 'import time; end = time.process_time() + 0.04\nwhile time.process_time() < end: pass'"
    )
    ran = payloads.run(f"for i in $(seq 40); do {busy}; done")
    seen_s = ran.end.history[-1].cpu_s
    assert seen_s > 0.5
    assert seen_s < ran.end.usage.cpu_s + 0.1


@pytest.mark.parametrize("thread", ["payload-exit", "monitor"])
def test_a_payload_does_not_outlive_a_pilot_that_cannot_watch_it(
    thread: str, payloads: Payloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_start = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name == thread:
            raise RuntimeError("can't start new thread")
        really_start(self)

    payloads.set(grace_s=0.0)
    prepared, _folder = payloads.prepare("sleep 60")
    monkeypatch.setattr(
        threading.Thread, "start", start
    )  # a pod without a process to spare; the fixture looks who is left
    with pytest.raises(RuntimeError, match="new thread"):
        prepared.run(Stop())


def test_an_orphan_is_known_to_a_first_process_without_new_privileges(tmp_path: Path) -> None:
    """It has left its session, its parents and its environment; in a pod like that nobody has new privileges."""
    program = f"""
import sys
from pathlib import Path
from pilot.payload import procfs
from pilot.payload.process import PayloadProcess, become_subreaper
from pilot.runtime.stop import Stop
from tests.integration.payload.test_overlooked import launch
become_subreaper()
orphan = (
    "import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); "
    "os.execve('/usr/bin/sleep', ['sleep', '60'], {{}})"
)
text = sys.executable + ' -S -c "' + orphan + '"; until grep -qs sleep /proc/[0-9]*/comm; do :; done'
process = PayloadProcess(launch(Path({str(tmp_path)!r}), "/bin/sh", "-c", text))
scope = Stop()
process.watch(scope)
scope.wait(30)
end = process.finish(None)
print(end.swept, end.survivors, [p.comm for p in procfs.all_processes().values() if p.comm == "sleep"])
"""
    argv = (
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "setpriv",
        "--no-new-privs",
        sys.executable,
        "-c",
    )
    ran = subprocess.run((*argv, program), capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("1 () []\n", "")
