"""``make soak``: many short jobs in one pilot process; does it grow? Prints JSON and one line.

Samples memory, descriptors and threads of the pilot between jobs; growth is the last sample against the one after the
first tenth of the jobs (libraries are loaded by then).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pilot.sandbox.world import World

PILOT = str(Path(sys.executable).with_name("pilot-start"))


@dataclass(frozen=True)
class Sample:
    """The pilot at one moment: jobs done, bytes resident, open descriptors, threads."""

    jobs_done: int
    rss_bytes: int
    descriptors: int
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a job")
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pilot-soak-") as scratch:
        samples, left_over, finished = soak(Path(scratch), options.jobs, options.seconds)
    at_work = [sample for sample in samples if sample.jobs_done < options.jobs]
    first, last = at_work[len(at_work) // 10], at_work[-1]
    result = {
        "jobs": options.jobs,
        "finished": finished,
        "rss_growth_bytes": last.rss_bytes - first.rss_bytes,
        "descriptors": [first.descriptors, last.descriptors],
        "threads": [first.threads, last.threads],
        "folders_left": left_over,
        "samples": [asdict(sample) for sample in samples],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{finished} of {options.jobs} jobs finished; RSS {first.rss_bytes / 1e6:.1f} -> {last.rss_bytes / 1e6:.1f} MB, "
        f"descriptors {first.descriptors} -> {last.descriptors}, threads {first.threads} -> {last.threads}, "
        f"{left_over} folders left"
    )
    return 0 if finished == options.jobs else 1


def soak(scratch: Path, jobs: int, seconds: float) -> tuple[list[Sample], int, int]:
    """Run the jobs in one pilot; samples, job folders left over, and jobs finished on the server."""
    job = {"transformation": "bash-c", "jobPars": f"sleep {seconds:g}", "minRamCount": 1000}
    with World(scratch / "world", adder_delay_s=0.1) as world:
        ids = world.sandbox.submit([{"label": "soak", "job": job} for _ in range(jobs)])
        work, summary = scratch / "work", scratch / "summary.json"
        argv = [PILOT, "--queue", "DOMA_LSST_DEV", "--max-jobs", str(jobs), "--time-floor-s", "1000000"]
        argv += ["--workdir", str(work), "--summary", str(summary)]
        environment = {**os.environ, "PILOT_CONFIG": str(world.state_dir / "pilot.yaml")}
        with (scratch / "pilot.log").open("wb") as log:
            pilot = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            samples = _watch(pilot, summary)
        world.run_adder()
        finished = sum(job["status"] == "finished" for job in world.sandbox.jobs() if job["panda_id"] in set(ids))
        return samples, len(list((work / "jobs").iterdir())), finished


def _watch(pilot: subprocess.Popen[bytes], summary: Path) -> list[Sample]:
    samples: list[Sample] = []
    while pilot.poll() is None:
        try:
            done = len(json.loads(summary.read_text())["jobs"])
            samples.append(_sample(pilot.pid, done))
        except (OSError, ValueError, KeyError):
            pass  # not yet started, or just gone: a dead process has no memory in its status
        time.sleep(1.0)
    return samples


def _sample(pid: int, jobs_done: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rss_bytes = int(status["VmRSS"].split()[0]) * 1024
    return Sample(jobs_done, rss_bytes, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))


if __name__ == "__main__":
    sys.exit(main())
