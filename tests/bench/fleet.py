"""A thousand waiting pilots and one server: what they ask of it, how fast it answers, and what comes when it was away.

    python -m tests.bench.fleet [--json FILE] [--quick] [--pilots N]

The pilots are simulated without payloads; their loop and their client are the real ones (fleet_pilots.py). The server is
the sandbox's, on the same machine: it is slower than a real one, so latencies are upper bounds. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pilot.sandbox.world import World
from tests.bench.figures import Row, record, rows_table
from tests.bench.fleet_pilots import NONE, TROUBLE, Order
from tests.bench.ledger import acquires, per_second
from tests.bench.measure import REPOSITORY, BenchError, Machine, percentile, say, scratch_folder
from tests.bench.pilots import QUEUE
from tests.bench.tables import write_part

PROCESSES = 4
START_S = 6.0  # until every process has made its pilots
LEAVE_S = 60.0
WAIT_S = 10.0  # the default of --empty-wait-s; a rate at a shorter one is told as if it were that

ROWS = (
    Row("asked", "requests for a job a pilot a minute, once the queue stays empty", "", 2, "<= 1.5", "0.3 to 1"),
    Row("p50", "a request's time, median", "s", 3),
    Row("p95", "the same, p95", "s", 3),
    Row("max", "the same, the longest", "s", 3),
    Row("steady", "requests a second before the outage", "", 1),
    Row("steady peak", "the same, the busiest second", "", 0),
    Row("away", "vain attempts a pilot a minute while the server was away", "", 2),
    Row("back", "requests a second after the return", "", 1),
    Row("back peak", "the same, the busiest second", "", 0),
    Row("herd", "the busiest second after the return over the busiest before the outage", "", 1, "<= 2"),
    Row("herd wide", "the busiest five seconds, likewise", "", 1, "<= 1.5"),
    Row("first", "the return to the first request", "s", 1),
    Row("all", "the return to the last pilot's first answer", "s", 1),
    Row("silent", "pilots that had none by the end", "", 0, "<= 0"),
)  # fmt: skip


@dataclass(frozen=True)
class Times:
    """The phases, in seconds: pilots begin over ``begin_s``, come to rest, are watched, lose the server, have it back."""

    pilots: int = 1000
    begin_s: float = 20.0
    rest_s: float = 45.0
    steady_s: float = 40.0
    away_s: float = 60.0
    back_s: float = 65.0
    wait_s: float = WAIT_S

    @classmethod
    def quick(cls) -> Times:
        return cls(pilots=100, begin_s=2.0, rest_s=15.0, steady_s=20.0, away_s=10.0, back_s=15.0, wait_s=2.0)


@dataclass(frozen=True)
class Seen:
    """All requests: by the clients, and by the server's ledger. Moments in seconds since 1970."""

    requests: list[list[tuple[float, float, str]]]  # of each pilot: when it asked, how long that took, the outcome
    arrived: list[float]
    steady_from: float
    down_at: float
    up_at: float
    end_at: float


def figures(seen: Seen, times: Times) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Values by row, and the requests that arrived in each second before the outage and after the return."""
    asked = [request for pilot in seen.requests for request in pilot]
    steady = [r for r in asked if seen.steady_from <= r[0] < seen.down_at and r[2] == NONE]
    vain = [r for r in asked if seen.down_at <= r[0] < seen.up_at and r[2] == TROUBLE]
    took = [took_s for _began, took_s, _outcome in steady]
    before = per_second(seen.arrived, seen.steady_from, seen.down_at)
    after = per_second(seen.arrived, seen.up_at, seen.end_at)
    first_answers = [moment for pilot in seen.requests if (moment := _first_answer(pilot, seen.up_at)) is not None]
    arrived_after = [moment for moment in seen.arrived if moment >= seen.up_at]
    values: dict[str, list[float]] = {
        "asked": [60 * len(steady) / times.pilots / (seen.down_at - seen.steady_from) * times.wait_s / WAIT_S],
        "p50": [percentile(took, 0.5)],
        "p95": [percentile(took, 0.95)],
        "max": [max(took)],
        "steady": [statistics.mean(before)],
        "steady peak": [max(before)],
        "away": [60 * len(vain) / times.pilots / (seen.up_at - seen.down_at)],
        "back": [statistics.mean(after)],
        "back peak": [max(after)],
        "herd": [max(after) / max(1, max(before))],
        "herd wide": [_busiest(after, 5) / max(1, _busiest(before, 5))],
        "first": [min(arrived_after) - seen.up_at],
        "all": [max(first_answers) - seen.up_at],
        "silent": [times.pilots - len(first_answers)],
    }
    return values, {"before": before, "after": after}


def _first_answer(pilot: Sequence[tuple[float, float, str]], since: float) -> float | None:
    """When a pilot had its first answer from then on."""
    answers = [began + took_s for began, took_s, outcome in pilot if outcome == NONE]
    return min((moment for moment in answers if moment >= since), default=None)


def _busiest(counts: Sequence[int], width: int) -> int:
    return max(sum(counts[first : first + width]) for first in range(max(1, len(counts) - width + 1)))


def histogram(counts: dict[str, list[int]], width: int = 10) -> str:
    """Requests a second in words, ten seconds a line."""
    lines = []
    for when, seconds in counts.items():
        for first in range(0, len(seconds), width):
            part = seconds[first : first + width]
            span = f"{when} {first:>3}–{first + len(part):<3} s"
            lines.append(f"    {span} {' '.join(f'{count:>4}' for count in part)}")
    return "\n".join(lines)


def measured(scratch: Path, times: Times) -> Seen:
    with World(scratch / "world", stores=False) as world:
        begin = time.time() + START_S
        steady_from = begin + times.begin_s + times.rest_s
        down_at = steady_from + times.steady_s
        end = down_at + times.away_s + times.back_s
        orders = [_order(world, scratch, number, times, begin, end) for number in range(PROCESSES)]
        processes = [_start(scratch, number, order) for number, order in enumerate(orders)]
        try:
            say(f"{times.pilots} pilots begin and come to rest")
            _sleep_until(down_at)
            say("the server goes away")
            world.take_down("panda", None)
            down_from = time.time()
            _sleep_until(down_at + times.away_s)
            say("and comes back")
            world.bring_up("panda")
            up_at = time.time()
            _sleep_until(end)
            codes = [process.wait(LEAVE_S) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            raise BenchError(f"the pilots' processes left with {codes}")
        arrived = [float(entry["arrived"]) for entry in acquires(world.sandbox.ledger())]
        requests = [pilot for order in orders for pilot in json.loads(Path(order.result).read_text())]
        return Seen(requests, arrived, steady_from, down_from, up_at, end)


def _order(world: World, scratch: Path, number: int, times: Times, begin: float, end: float) -> Order:
    settings = yaml.safe_load((world.state_dir / "pilot.yaml").read_text())
    queue: dict[str, Any] = {QUEUE: world.cric.queue(QUEUE)}
    first, last = (times.pilots * step // PROCESSES for step in (number, number + 1))
    result = str(scratch / f"result{number}.json")
    return Order(
        settings["server"], settings["cert"], settings["key"], settings["ca"], queue, str(scratch / f"process{number}"),
        last - first, times.wait_s, begin, begin + times.begin_s, end, result,
    )  # fmt: skip


def _start(scratch: Path, number: int, order: Order) -> subprocess.Popen[bytes]:
    path = scratch / f"order{number}.json"
    path.write_text(json.dumps(asdict(order)))
    return subprocess.Popen([sys.executable, "-m", "tests.bench.fleet_pilots", str(path)], cwd=REPOSITORY)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="a hundred pilots and a short outage, to see that it works"
    )
    parser.add_argument("--pilots", type=int)
    options = parser.parse_args()
    times = Times.quick() if options.quick else Times()
    if options.pilots:
        times = Times(**{**vars(times), "pilots": options.pilots})
    machine = Machine()
    with scratch_folder(Path(tempfile.gettempdir())) as scratch:
        values, counts = figures(measured(scratch, times), times)
    columns: dict[str, tuple[dict[str, list[float]], dict[str, str]]] = {"this pilot": (values, defaultdict(str))}
    about = {"machine": machine.record(), "quick": options.quick, "times": asdict(times), "per_second": counts}
    text = "\n\n".join([rows_table(ROWS, columns), "Requests in each second:", histogram(counts), machine.sentence()])
    write_part(options.json, "fleet", {**about, **record(ROWS, columns)}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
