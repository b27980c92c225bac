"""How often the pilot's guard stops a greedy payload before the kernel kills, and what watching a quiet one costs.

    python -m tests.bench.guard [--runs 60] [--limit-mib 2048] [--growth-mib-s 200] [--json FILE]
    python -m tests.bench.guard --quiet-s 60

The first makes, for each run, a memory control group (version 1, as root), puts a pilot's payload part into it and lets it
run a payload that grows steadily. The kernel's own counter decides who was first. The second runs a sleeping payload and
prints the CPU time of everything but the payload. Nothing is left behind but the numbers.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pilot.job.model import Attempt, Job, Resources
from pilot.job.outcome import PayloadFacts, judge
from pilot.job.queue import Queue, QueueStatus
from pilot.payload.runtime import PayloadConfig, PayloadRunner
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import JobFolder, WorkVolume
from pilot.storage.store import Stores

CONTROLLER = Path("/sys/fs/cgroup/memory")
RUN_TIMEOUT_S = 120
# Keeps to the clock, not to a number of steps: on a busy machine it catches up, as real payloads do.
HOG = """
import sys, time
rate, kept, began = float(sys.argv[1]), [], time.monotonic()
piece = b"x" * (4 << 20)
while True:
    while len(kept) * len(piece) < (time.monotonic() - began) * rate:
        kept.append(bytearray(piece))
    time.sleep(0.005)
"""


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group with a memory limit, removed at the end. Raises OSError where it cannot be made."""
    folder = CONTROLLER / f"pilot-guard-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield folder
    finally:
        for _ in range(100):
            try:
                folder.rmdir()
                break
            except OSError:  # its last process is still going
                time.sleep(0.05)


def run_payload(root: Path, text: str, stop: Stop) -> dict[str, Any]:
    """Run one shell text as a plain payload, and how it ended."""
    volume = WorkVolume(root)
    volume.jobs.mkdir(parents=True)
    parameters = base64.b64encode(text.encode()).decode()
    job = Job(Attempt(1, 1), 1, "guard", "bash-c-enc", parameters, "managed", Resources())
    folder: JobFolder = volume.open_job(job.attempt)
    queue = Queue("GUARD", "GUARD", "GUARD", True, QueueStatus.ONLINE)
    runner = PayloadRunner(PayloadConfig(queue, root / "images", root / "transforms"), Stores({}))
    end = runner.prepare(job, folder, stop).run(stop)
    facts = PayloadFacts(end.exit_code, end.signal, end.oom_kills, breach=end.breach, first_error=end.first_error)
    error = judge(facts).pilot_error
    return {
        "code": error.code if error else None,
        "words": str(error or ""),
        "breach": str(end.breach) if end.breach else None,
        "oom_kills": end.oom_kills,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "max_pss_mib": end.usage.max_pss_bytes >> 20,
        "payload_cpu_s": end.usage.cpu_s,
        "wall_s": end.wall_s,
    }


def one(growth_mib_s: float) -> None:
    """Inside the control group: the pilot's side of one run."""
    with tempfile.TemporaryDirectory(prefix="pilot-guard-") as root:
        text = f"exec {sys.executable} -S -c {shlex.quote(HOG)} {growth_mib_s * (1 << 20):.0f}"
        print(json.dumps(run_payload(Path(root) / "volume", text, Stop())))


def run_inside(group: Path, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """This program again, as a process of the group."""
    command = (sys.executable, "-m", "tests.bench.guard", *arguments)
    entered = ("sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh", *command)
    return subprocess.run(entered, capture_output=True, text=True, timeout=timeout_s)


def against_the_kernel(limit_bytes: int, growth_mib_s: float) -> dict[str, Any]:
    """One run; ``guard_first`` when the payload was stopped and the kernel had killed nothing."""
    with memory_group(limit_bytes) as group:
        done = run_inside(group, "--one", str(growth_mib_s), timeout_s=RUN_TIMEOUT_S)
        peak_mib = int((group / "memory.max_usage_in_bytes").read_text()) >> 20
        counters = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    found: dict[str, Any] = (
        json.loads(done.stdout) if done.returncode == 0 else {"breach": None, "died": done.stderr[-300:]}
    )
    kernel_kills = int(counters.get("oom_kill", 0))
    return found | {
        "kernel_kills": kernel_kills,
        "peak_mib": peak_mib,
        "guard_first": bool(found["breach"]) and kernel_kills == 0,
    }


def quiet(seconds: float) -> dict[str, float]:
    """CPU seconds the pilot's payload part uses while a payload sleeps: everything but the payload, start and stop apart."""
    briefly_s, used_s = _used_while_quiet(0.2), _used_while_quiet(seconds)
    return {
        "seconds": seconds,
        "cpu_s": round(used_s, 4),
        "start_and_stop_cpu_s": round(briefly_s, 4),
        "cpu_s_per_minute": round((used_s - briefly_s) * 60 / seconds, 4),
    }


def _used_while_quiet(seconds: float) -> float:
    stop = Stop()
    with tempfile.TemporaryDirectory(prefix="pilot-guard-") as root:
        timer = threading.Timer(seconds, stop.request, (StopReason(StopKind.SIGTERM),))
        before = resource.getrusage(resource.RUSAGE_SELF)
        timer.start()
        run_payload(Path(root) / "volume", "exec sleep 100000", stop)
        after = resource.getrusage(resource.RUSAGE_SELF)
        timer.join()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--limit-mib", type=int, default=2048)
    parser.add_argument("--growth-mib-s", type=float, default=200)
    parser.add_argument("--json", type=Path, help="write every run here")
    parser.add_argument("--quiet-s", type=float, help="measure a quiet payload instead, for so many seconds")
    parser.add_argument("--quiet-here", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        one(arguments.one)
        return 0
    if arguments.quiet_here is not None:
        print(json.dumps(quiet(arguments.quiet_here)))
        return 0
    if arguments.quiet_s is not None:
        with memory_group(arguments.limit_mib << 20) as group:  # with a limit, so that its watch is at work
            done = run_inside(group, "--quiet-here", str(arguments.quiet_s), timeout_s=arguments.quiet_s + 60)
        print(done.stdout or done.stderr, end="")
        return done.returncode
    runs = []
    for number in range(arguments.runs):
        run = against_the_kernel(arguments.limit_mib << 20, arguments.growth_mib_s)
        runs.append(run)
        first = "guard" if run["guard_first"] else "KERNEL"
        print(f"{number + 1:3d}  first: {first:6s}  peak {run['peak_mib']} MiB of {arguments.limit_mib}", flush=True)
    won = sum(run["guard_first"] for run in runs)
    peaks = sorted(run["peak_mib"] for run in runs)
    print(
        f"the guard was first in {won} of {len(runs)} runs at {arguments.growth_mib_s:g} MiB/s and {arguments.limit_mib} MiB; "
        f"peak median {peaks[len(peaks) // 2]}, highest {peaks[-1]} MiB"
    )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"won": won, "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
