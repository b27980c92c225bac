"""``python -m tests.faults --seed N [--sample K] [--pairs M] [--only NAME]``: the fault laboratory's runs, two at a time."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.faults.plan import WATCHED, Plan, disk_plans, pair_plans, sample, single_plans
from tests.faults.pool import run_all


def chosen_plans(seed: int, count: int | None, pairs: int, disk: int, only: list[str]) -> list[Plan]:
    """The plans of a seed: the matrix or a sample of it, pairs, and failing writes; or just those that are named."""
    singles = single_plans(seed)
    if only:
        number = max((int(name.rpartition("-")[2]) + 1 for name in only if name.startswith("pair-")), default=0)
        writes = writing_plans(seed) if any(name.startswith("disk") for name in only) else []
        known = (*singles, *pair_plans(seed, number), *writes)
        return [plan for plan in known if any(plan.name.startswith(name) for name in only)]
    chosen = singles if count is None else sample(singles, seed, count)
    return chosen + pair_plans(seed, pairs) + (sample(writing_plans(seed), seed, disk) if disk else [])


def writing_plans(seed: int) -> list[Plan]:
    """A failing write at each place where a clean run was seen to write."""
    (clean,) = run_all([WATCHED], 1)
    if not clean.held:
        raise RuntimeError(f"a run without any fault did not hold: {clean.text}")
    return disk_plans(seed, dict(clean.written))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--sample", type=int, help="a seeded choice of so many single faults; default: the whole matrix"
    )
    parser.add_argument("--pairs", type=int, default=0, help="so many seeded pairs of faults")
    parser.add_argument("--disk", type=int, default=0, help="at most so many failing writes, of one at each place")
    parser.add_argument("--only", action="append", default=[], help="names of runs, or their beginnings")
    parser.add_argument("--tell", action="store_true", help="tell the story of runs that held, too")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--record", type=Path, help="write a line of JSON for each run here")
    parser.add_argument("--keep", type=Path, help="keep the folders of broken runs here")
    given = parser.parse_args()
    plans = chosen_plans(given.seed, given.sample, given.pairs, given.disk, given.only)
    print(f"seed {given.seed}: {len(plans)} runs", flush=True)
    begun_s, held, done, missed = time.monotonic(), 0, 0, []
    for result in run_all(plans, given.workers, given.keep):
        done, held = done + 1, held + result.held
        if given.tell or not result.held:
            print(f"\n{result.text}\n", flush=True)
        if given.record:
            with given.record.open("a") as record:
                record.write(json.dumps(asdict(result), default=lambda value: value.name) + "\n")
        if result.strikes_done < len(result.plan.strikes):
            missed.append(result.plan.name)
        progress = f"{done}/{len(plans)} {result.plan.name}: {result.final_state}, {result.pilots} pilots, {result.took_s:.1f} s"
        if sys.stdout.isatty():
            print(f"\r\033[K{progress}", end="", flush=True)
        elif given.only:
            print(progress, flush=True)
    print(f"\n{time.monotonic() - begun_s:.0f} s; a point was not reached in {len(missed)} runs: {' '.join(missed)}")
    print(f"{held} of {len(plans)} held")
    return 0 if held == len(plans) else 1


if __name__ == "__main__":
    sys.exit(main())
