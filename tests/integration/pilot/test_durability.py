"""What a job costs in durable writes: each fsync waits for a disk, so there are few."""

from __future__ import annotations

from pathlib import Path

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, Pilots, output_keys, submit

JOBS = 3
MOST_FSYNCS_PER_JOB = 12


def test_a_job_takes_at_most_twelve_fsyncs(world: World, pilots: Pilots, tmp_path: Path) -> None:
    trace = tmp_path / "fsyncs"
    strace = ("strace", "--follow-forks", "-y", "-qq", "-e", "trace=fsync,fdatasync,sync,syncfs", "-o", str(trace))
    jobs = [submit(world, f"echo done > out.{n}", **output_keys(f"out.{n}")) for n in range(JOBS)]
    end = pilots.run(*HASTY, wrap=strace)
    assert [end.jobs[job]["state"] for job in jobs] == ["finished"] * JOBS, end.stderr
    synced = [line for line in trace.read_text().splitlines() if "sync" in line]
    mine = [line for line in synced if f"jobs/{jobs[1]}." in line]
    assert len(synced) <= MOST_FSYNCS_PER_JOB * JOBS
    assert 3 <= len(mine) <= MOST_FSYNCS_PER_JOB, "\n".join(synced)
