"""``python -m tests.faults.stops [--count N] [--outage-s S]``: how long stopping takes, measured; no limit is asserted.

Real pilots with their defaults are told to leave at random instants of their life: with a payload that ignores SIGTERM, with
one that obeys, and without a job. Further: from the answer that says ``tobekilled`` to the final report, and from the end of
an outage of the PanDA server to the report of a job that ended meanwhile. Prints a table, and JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilot.sandbox.submission import check_submission
from pilot.sandbox.world import World
from tests.faults.checker import FINAL_REPORTS, updates

PROGRAM = Path(sys.executable).with_name("pilot-start")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAYLOADS = {
    "ignores SIGTERM": "trap '' TERM; (trap '' TERM; sleep 600) & while :; do sleep 0.2; done",
    "obeys SIGTERM": "exec sleep 600",
    "idle": "",
}
LATEST_S = 5.0  # of the instants, after the start of the pilot
AT_ONCE = 2
WAIT_S = 60.0
OPERATOR = "/CN=Operator of the laboratory"


@dataclass(frozen=True, slots=True)
class Stopping:
    """One pilot told to leave: the instant after its start, and seconds until its report was taken and until it had left."""

    kind: str
    at_s: float
    report_s: float | None  # None: it had no job yet
    exit_s: float
    exit_code: int
    job: str


class Bench:
    """Pilots against one world, each on a queue of its own."""

    def __init__(self, world: World, folder: Path, seed: int) -> None:
        self._world, self._folder = world, folder
        self._rng = random.Random(seed)

    def stopping(self, kind: str, number: int, at_s: float) -> Stopping:
        """One SIGTERM ``at_s`` seconds after the pilot's start."""
        queue = f"STOP_{kind.split()[0].upper()}_{number}"
        panda_id = self._submit(queue, PAYLOADS[kind]) if PAYLOADS[kind] else None
        with self._pilot(queue) as process:
            time.sleep(at_s)
            told = time.time()
            process.send_signal(signal.SIGTERM)
            code = process.wait(WAIT_S)
            left = time.time()
        report = self._final(panda_id) if panda_id else None
        status = self._status(panda_id) if panda_id else ""
        return Stopping(kind, round(at_s, 3), report["committed"] - told if report else None, left - told, code, status)

    def killing(self, number: int) -> float:
        """Seconds from the answer with ``tobekilled`` to the final report, with a payload that ignores SIGTERM."""
        queue = f"KILL_{number}"
        panda_id = self._submit(queue, PAYLOADS["ignores SIGTERM"])
        with self._pilot(queue, "--heartbeat", "0.5", "--max-jobs", "1") as process:
            self._until(lambda: self._status(panda_id) == "running")
            time.sleep(self._rng.uniform(0, 1))
            self._world.dispatcher.kill(panda_id, OPERATOR)
            process.wait(WAIT_S)
        told = next(entry for entry in self._updates(panda_id) if "tobekilled" in entry["answer"])
        final = self._final(panda_id)
        assert final is not None
        return float(final["committed"] - told["committed"])

    def outage(self, outage_s: float) -> dict[str, Any]:
        """One outage over two jobs: one ends meanwhile, one afterwards. Seconds from the server's return to each report."""
        short, long = "OUTAGE_SHORT", "OUTAGE_LONG"
        ids = {short: self._submit(short, f"sleep {outage_s / 2}"), long: self._submit(long, f"sleep {outage_s + 20}")}
        options = ("--heartbeat", "10", "--max-jobs", "1")
        with self._pilot(short, *options) as first, self._pilot(long, *options) as second:
            self._until(lambda: all(self._status(panda_id) == "running" for panda_id in ids.values()))
            self._world.take_down("panda", None)
            time.sleep(outage_s)
            self._world.bring_up("panda")
            back = time.time()
            for process in (first, second):
                process.wait(outage_s + 120)
        heard = [entry["committed"] - back for entry in self._updates(ids[long]) if (entry["committed"] or 0) > back]
        final = self._final(ids[short])
        return {
            "outage_s": outage_s,
            "report_after_s": round(final["committed"] - back, 2) if final else None,
            "heartbeat_after_s": round(min(heard), 2) if heard else None,
            "jobs": [self._status(panda_id) for panda_id in ids.values()],
        }

    # --- parts

    def _submit(self, queue: str, command: str) -> int:
        self._world.cric.set_queue(queue, {})
        encoded = base64.b64encode(command.encode()).decode()
        job = {"transformation": "bash-c-enc", "jobPars": encoded, "computingSite": queue}
        (panda_id,) = self._world.dispatcher.submit(check_submission([{"label": queue, "job": job}]))
        return panda_id

    @contextmanager
    def _pilot(self, queue: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        self._world.cric.set_queue(queue, {})
        folder = self._folder / queue
        folder.mkdir()
        argv = [str(PROGRAM), "--queue", queue, "--config", str(self._world.state_dir / "pilot.yaml")]
        argv += ["--workdir", str(folder / "work"), "--max-empty", "1000", "--empty-wait-s", "1", *options]
        environment = {"PATH": PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                argv,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            with suppress(OSError):
                shutil.rmtree(folder)

    def _updates(self, panda_id: int) -> list[dict[str, Any]]:
        ledger = self._world.db.ledger()
        numbers = {update.seq for update in updates(ledger, panda_id) if update.taken}
        return [entry for entry in ledger if entry["seq"] in numbers]

    def _final(self, panda_id: int) -> dict[str, Any] | None:
        finals = [e for e in self._updates(panda_id) if json.loads(e["body"])["job_status"] in FINAL_REPORTS]
        return finals[0] if finals else None

    def _status(self, panda_id: int) -> str:
        job = self._world.db.job(panda_id)
        return str(job["status"]) if job else ""

    @staticmethod
    def _until(true: Callable[[], object]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end_s
            time.sleep(0.02)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 2) if ordered else 0.0


def _figures(kind: str, values: list[float]) -> dict[str, Any]:
    figures = {"what": kind, "n": len(values), "p50_s": percentile(values, 0.5), "p99_s": percentile(values, 0.99)}
    return figures | {"max_s": percentile(values, 1.0)}


def measure(count: int, kills: int, outage_s: float, seed: int) -> dict[str, Any]:
    """All figures; ``count`` SIGTERMs of each kind."""
    folder = Path(tempfile.mkdtemp(prefix="pilot-stops-"))
    rng = random.Random(seed)
    instants = [(kind, number, rng.uniform(0.1, LATEST_S)) for kind in PAYLOADS for number in range(count)]
    try:
        with World(folder / "world", adder_delay_s=0.0) as world:
            bench = Bench(world, folder, seed)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                stops = list(pool.map(lambda given: bench.stopping(*given), instants))
                killed = list(pool.map(bench.killing, range(kills)))
            outage = bench.outage(outage_s) if outage_s else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = [_figures("tobekilled to final report", killed)]
    for kind in PAYLOADS:
        of_kind = [stop for stop in stops if stop.kind == kind]
        reports = [stop.report_s for stop in of_kind if stop.report_s is not None]
        table.append(_figures(f"{kind}: SIGTERM to report", reports))
        table.append(_figures(f"{kind}: SIGTERM to exit", [stop.exit_s for stop in of_kind]))
    lost = [asdict(stop) for stop in stops if stop.job not in ("", "failed", "activated")]
    return {"seed": seed, "table": [row for row in table if row["n"]], "lost": lost, "outage": outage}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.stops", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="SIGTERMs of each kind")
    parser.add_argument("--kills", type=int, default=10, help="jobs killed on the server")
    parser.add_argument("--outage-s", type=float, default=0.0, help="a real outage of so many seconds; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    figures = measure(given.count, given.kills, given.outage_s, given.seed)
    for row in figures["table"]:
        spread = "   ".join(f"{name} {row[f'{name}_s']:6.2f} s" for name in ("p50", "p99", "max"))
        print(f"{row['what']:36s} n={row['n']:<4d} {spread}")
    if figures["outage"]:
        print(f"outage: {figures['outage']}")
    print(f"jobs lost: {figures['lost'] or 'none'}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    return 1 if figures["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
