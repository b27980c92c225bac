"""A payload in a memory control group of its own: who ends it, the pilot or the kernel, and what is said of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pilot.payload.leftovers import LAST_SAMPLE, lay_to_rest, mark
from pilot.payload.strangers import reap_strangers
from pilot.runtime.workdir import JobFolder
from tests.bench.guard import against_the_kernel, memory_group
from tests.integration.payload.conftest import Payloads


def test_a_payload_that_grows_is_stopped_before_the_kernel_strikes() -> None:
    run = against_the_kernel(256 << 20, growth_mib_s=100)
    assert run["kernel_kills"] == 0
    assert run["code"] == 1235
    assert run["words"].endswith("243 MB allowed (the container's memory limit 256 MB x 0.95)")


def test_whoever_is_first_the_counter_decides_what_is_said() -> None:
    run = against_the_kernel(128 << 20, growth_mib_s=100_000)  # as fast as memory is: mostly the kernel is first
    assert run["code"] == (1212 if run["kernel_kills"] else 1235), run
    assert "kernel killed" in run["words"] or run["kernel_kills"] == 0


def test_the_kernel_would_take_the_payload_and_not_the_pilot(payloads: Payloads) -> None:
    assert payloads.run("cat /proc/self/oom_score_adj").stdout == "500\n"


def test_a_pilot_that_vanished_with_its_payload_near_the_limit_died_of_memory(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with memory_group(512 << 20) as group:
        greedy = f"""
import time
kept = []
def used():
    droppable = next(line for line in open("{group}/memory.stat") if line.startswith("total_inactive_file"))
    return int(open("{group}/memory.usage_in_bytes").read()) - int(droppable.split()[1])
while used() < {0.925 * (512 << 20):.0f}:
    kept.append(bytearray(b"x") * (1 << 20))
    time.sleep(0.001)
time.sleep(60)
"""
        text = f"exec {sys.executable} -S -c {shlex.quote(greedy)}"
        program = "import sys; from pathlib import Path; from pilot.runtime.stop import Stop; "
        program += "from tests.bench.guard import run_payload; run_payload(Path(sys.argv[1]), sys.argv[2], Stop())"
        command = [sys.executable, "-c", program, str(tmp_path / "volume"), text]
        pilot = subprocess.Popen(["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh", *command])
        folder = JobFolder(tmp_path / "volume" / "jobs" / "1.1")
        sample = folder.control / LAST_SAMPLE
        try:
            eventually(lambda: sample.exists() and json.loads(sample.read_text())["used_bytes"] > 0.9 * (512 << 20), 30)
        finally:
            pilot.kill()
            pilot.wait()
        eventually(lambda: _reaped(group), 10)
    reap_strangers()
    diagnosis = lay_to_rest(mark("none"), folder)
    assert diagnosis.code == 1212
    assert "of the container's limit of 512 MiB" in diagnosis.detail


def _reaped(group: Path) -> bool:
    """True when the pilot's guard has ended the payload and nothing of it is left: its orphans have become our children."""
    reap_strangers()
    return not (group / "cgroup.procs").read_text()
