"""``make bench``: every part of the benchmarks in turn, each a process of its own; their records in build/bench.json.

    python -m tests.bench [PART...] [--quick] [--json FILE]

A part that fails, or leaves no record, does not keep the others from running; in the end all that failed are named and the
exit status is 1. A part alone is measured anew and takes the place of its old record.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench.measure import REPOSITORY, say

PARTS = ("turnaround", "fleet", "live_logs", "staging", "bundle", "hostile")
RECORDS = REPOSITORY / "build" / "bench.json"
PART_TIMEOUT_S = 3600.0
ENDING_S = 30.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One part. ``record``: what it wrote; None when it wrote nothing usable. ``problem``: in words; empty when all is well."""

    part: str
    record: dict[str, Any] | None
    problem: str


def run(part: str, quick: bool, package: str = "tests.bench") -> Ran:
    """The part's module as a process; its tables go where ours do."""
    say(f"--- {part}")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pilot-bench-record-") as folder:
        path = Path(folder, "record.json")
        command = [sys.executable, "-m", f"{package}.{part}", "--json", str(path), *(["--quick"] if quick else [])]
        process = subprocess.Popen(command, cwd=REPOSITORY)
        try:
            code = process.wait(PART_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Ran(part, None, f"was not through after {PART_TIMEOUT_S:.0f} s")
        finally:
            _end(process)
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            record = dict(record) | {"quick": quick, "took_s": round(time.monotonic() - began_s)}
        except (OSError, ValueError, TypeError):
            return Ran(part, None, f"left with {code} and no record")
    return Ran(part, record, f"left with {code}" if code else "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """A part that still runs, because we were told to end, clears its own scratch away first."""
    process.terminate()
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def merged(before: dict[str, Any], ran: Sequence[Ran]) -> dict[str, Any]:
    """The records of the parts that ran in the place of their old ones; of what left none, none stays."""
    parts = {name: record for name, record in before.items() if name not in {one.part for one in ran}}
    return parts | {one.part: one.record for one in ran if one.record is not None}


def read_records(path: Path) -> dict[str, Any]:
    """By part; empty when there are none yet, or in another form."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    parts = found.get("parts") if isinstance(found, dict) else None
    return parts if isinstance(parts, dict) else {}


def main(arguments: Sequence[str] | None = None, run_part: Callable[[str, bool], Ran] = run) -> int:
    """1 when a part failed. ``run_part``: how one is run, quickly or not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="the short form of each part: to see that it works")
    parser.add_argument("--json", type=Path, default=RECORDS, metavar="FILE")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)} (there are {', '.join(PARTS)})")
    ran = []
    for part in options.parts or PARTS:
        ran.append(run_part(part, options.quick))
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"parts": merged(read_records(options.json), ran)}, indent=1) + "\n")
    failed = [f"{one.part} {one.problem}" for one in ran if one.problem]
    say("\n".join(f"bench: {problem}" for problem in failed) or "bench: all parts are measured")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
