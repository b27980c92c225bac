"""``make bench``: what a pilot costs beside its payloads, measured from outside: by the sandbox server's ledger and the kernel.

Prints a table and writes build/bench.json. Loopback, one machine; medians over the jobs of a run. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pilot.sandbox.world import World

PILOT = str(Path(sys.executable).with_name("pilot-start"))
FINAL = ("finished", "failed")
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Run:
    """One pilot process over some jobs. Times in seconds, sizes in bytes."""

    name: str
    jobs: int
    start_to_acquire_s: float = 0.0
    acquire_to_running_s: float | None = None
    acquire_to_final_s: float | None = None
    final_to_next_acquire_s: float | None = None
    last_final_to_exit_s: float = 0.0
    jobs_per_minute: float = 0.0
    requests_per_job: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    states: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20, help="no-op jobs per run")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pilot-bench-") as scratch:
        runs = list(_runs(Path(scratch), options.jobs))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    _print_table(runs)
    return 0


def _runs(scratch: Path, jobs: int) -> Iterator[Run]:
    sif, folder = scratch / "tiny.sif", scratch / "tiny"
    subprocess.run(
        [str(REPOSITORY / "scripts/make-test-image"), str(sif), str(folder)], check=True, capture_output=True
    )
    with World(scratch / "world", adder_delay_s=0.1) as world:
        bench = Bench(world, scratch)
        yield bench.measure("one no-op job, plain", 1, "true")
        yield bench.measure("no-op jobs, plain", jobs, "true")
        yield bench.measure("no-op jobs, Apptainer, folder", jobs, "true", "--image", str(folder))
        yield bench.measure("no-op jobs, Apptainer, SIF", jobs, "true", "--image", str(sif))
        yield bench.measure("failing jobs, plain", jobs, "exit 3")
        yield bench.measure("SIGTERM 1 s into a job", 1, "sleep 60", act=bench.terminate)
        yield bench.measure("killed by the server 1 s into a job", 1, "sleep 60", "--heartbeat", "1", act=bench.kill)


class Bench:
    """Runs pilots in one world and reads their times from the server's ledger."""

    def __init__(self, world: World, scratch: Path) -> None:
        self._world, self._scratch = world, scratch
        self._count = 0

    def measure(self, name: str, jobs: int, command: str, *arguments: str, act: Any = None) -> Run:
        """One pilot over ``jobs`` jobs that run ``command``."""
        self._count += 1
        ids = self._world.sandbox.submit([_job(command) for _ in range(jobs)])
        seen = max((row["seq"] for row in self._world.sandbox.ledger()), default=0)
        argv = [
            PILOT,
            "--queue",
            "DOMA_LSST_DEV",
            "--max-jobs",
            str(jobs),
            "--workdir",
            str(self._scratch / f"w{self._count}"),
        ]
        environment = {**os.environ, "PILOT_CONFIG": str(self._world.state_dir / "pilot.yaml")}
        started_at = time.time()
        with (self._scratch / "pilot.log").open("ab") as log:
            pilot = subprocess.Popen(
                [*argv, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            acted_at = act(ids, pilot) if act else None
            _pid, _status, usage = os.wait4(pilot.pid, 0)
        ended_at = time.time()
        pilot.returncode = 0
        rows = self._world.sandbox.ledger(seen)
        run = _read_ledger(name, ids, rows, started_at, ended_at, acted_at)
        run.cpu_s, run.max_rss_bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        self._world.run_adder()
        run.states = sorted({self._world.sandbox.job(panda_id)["status"] for panda_id in ids})
        return run

    def terminate(self, ids: list[int], pilot: subprocess.Popen[bytes]) -> float:
        self._until_running(ids)
        pilot.send_signal(signal.SIGTERM)
        return time.time()

    def kill(self, ids: list[int], _pilot: subprocess.Popen[bytes]) -> float:
        self._until_running(ids)
        self._world.sandbox.kill(ids[0])
        return time.time()

    def _until_running(self, ids: list[int]) -> None:
        self._world.sandbox.wait_for(ids[0], {"running"}, 30)
        time.sleep(1.0)


def _job(command: str) -> dict[str, Any]:
    return {"label": "bench", "job": {"transformation": "bash-c", "jobPars": command, "minRamCount": 1000}}


def _read_ledger(
    name: str, ids: list[int], rows: list[dict[str, Any]], started_at: float, ended_at: float, acted_at: float | None
) -> Run:
    """Times from the server's side: a row has the arrival and the commit of a request (wall clock of this machine)."""
    acquires = [row for row in rows if row["path"].endswith("acquire_jobs")]
    updates = [row | {"body": _decoded(row["body"])} for row in rows if row["path"].endswith("update_job")]
    run = Run(name, len(ids), start_to_acquire_s=acquires[0]["arrived"] - started_at)
    to_running, to_final, to_next = [], [], []
    for panda_id, acquire in zip(ids, acquires, strict=False):
        mine = {row["body"]["job_status"]: row for row in reversed(updates) if row["body"]["job_id"] == panda_id}
        final = next(mine[state] for state in FINAL if state in mine)
        if "running" in mine:
            to_running.append(mine["running"]["arrived"] - acquire["committed"])
        to_final.append(final["arrived"] - (acted_at or acquire["committed"]))
        later = [row["arrived"] for row in acquires if row["arrived"] > final["arrived"]]
        to_next += [later[0] - final["committed"]] if later else []
        run.last_final_to_exit_s = ended_at - final["committed"]
    run.acquire_to_running_s = statistics.median(to_running) if to_running else None
    run.acquire_to_final_s = statistics.median(to_final)
    run.final_to_next_acquire_s = statistics.median(to_next) if to_next else None
    run.jobs_per_minute = 60 * len(ids) / (ended_at - run.last_final_to_exit_s - acquires[0]["arrived"])
    run.requests_per_job = len([row for row in rows if row["server"] == "panda"]) / len(ids)
    return run


def _decoded(body: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(body) if isinstance(body, str) else body
    return decoded


def _print_table(runs: list[Run]) -> None:
    print(f"{'run':<38} {'jobs':>4} {'to acq':>7} {'to run':>7} {'to final':>8} {'to next':>8} {'to exit':>8} {'jobs/min':>8}"
          f" {'req/job':>7} {'CPU/job':>7} {'MB':>5}  states")  # fmt: skip
    for run in runs:
        figures = [run.acquire_to_running_s, run.acquire_to_final_s, run.final_to_next_acquire_s]
        shown = [f"{figure:.3f}" if figure is not None else "-" for figure in figures]
        print(f"{run.name:<38} {run.jobs:>4} {run.start_to_acquire_s:>7.3f} {shown[0]:>7} {shown[1]:>8} {shown[2]:>8} "
              f"{run.last_final_to_exit_s:>8.3f} {run.jobs_per_minute:>8.0f} {run.requests_per_job:>7.1f} "
              f"{run.cpu_s / run.jobs:>7.3f} {run.max_rss_bytes / 1e6:>5.0f}  {','.join(run.states)}")  # fmt: skip
    print(
        "to final is from the acquire answer, or from the signal or kill where there is one; CPU includes the payloads"
    )


if __name__ == "__main__":
    sys.exit(main())
