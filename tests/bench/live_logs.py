"""Live logs: how soon a payload's line is public, what is public when the pilot is killed, and what that costs.

    python -m tests.bench.live_logs [--json FILE] [--quick]

The store is a real one on loopback behind a front that writes every request down. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import base64
import random
import re
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pilot.logs import pump
from tests.bench.figures import Row, record, rows_table
from tests.bench.measure import BenchError, Machine, percentile, say, scratch_folder
from tests.bench.pilots import RunningPilot, Yard, can_watch, samples, yard
from tests.bench.tables import write_part

STDOUT = "payload.stdout"
LOOK_S = 0.25
SETTLED_S = 12.0  # after the start of a job: its first lines and its first logs are out
KEPT_LOOK_S = 1.0  # after a kill: what was on its way has arrived
LINE_BYTES = 100
BLOCK_LINES = 1000
# Numbered lines of 100 bytes, ten blocks of 100 kB a second; each block ends with the moment it was written.
LOUD = f"""n=0; end=$((SECONDS + {{seconds}}))
while [ $SECONDS -lt $end ]; do
    printf '%09d {"." * (LINE_BYTES - 11)}\\n' $(seq $n $((n + {BLOCK_LINES - 2})))
    printf '%09d at %s {"." * (LINE_BYTES - 32)}\\n' $((n + {BLOCK_LINES - 1})) $EPOCHREALTIME
    n=$((n + {BLOCK_LINES})); sleep 0.09
done"""
SLOW = "n=0; while :; do printf '%09d at %s\\n' $n $EPOCHREALTIME; n=$((n + 1)); sleep 0.1; done"
LAST_MOMENT = re.compile(rb"^\d{9} at (\d+\.\d+)", re.MULTILINE)
TWELVE_HOURS_S = 12 * 3600

ROWS = (
    Row("line", "a payload's line is public after", "s", 1, "<= 12", "the end of the job"),
    Row("line p95", "the same, p95", "s", 1, "<= 12"),
    Row("line max", "the same, the latest", "s", 1, "<= 12"),
    Row("lost", "kill -9 of the pilot: the public log ends before that", "s", 1, "<= 12", "there is none"),
    Row("lost loud", "the same with 1 MB/s of output", "s", 1, "<= 12"),
    Row("missing", "bytes missing before that end", "", 0, "<= 0"),
    Row("late", "by its pace, where a log always grows, after twelve hours: at most", "s", 0),
    Row("output", "output of the loud payload", "MB/s", 2),
    Row("loud cpu", "CPU of the pilot with it", "s/min", 2),
    Row("quiet cpu", "the same with a quiet payload", "s/min", 2),
    Row("share", "the difference, of a core", "%", 2, "<= 1"),
    Row("requests", "requests to the store in a quiet minute", "", 0, "<= 0"),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Lines to look for, pilots to kill, and seconds."""

    lines: int = 12
    lines_s: float = 115.0
    kills: int = 4
    window_s: float = 60.0

    @classmethod
    def quick(cls) -> Sizes:
        return cls(lines=2, lines_s=12.0, kills=1, window_s=15.0)


@dataclass
class LiveLogs:
    yard: Yard
    sizes: Sizes
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    troubles: dict[str, str] = field(default_factory=dict)

    def measure(self) -> None:
        say("lines on their way, and pilots that are killed")
        with ThreadPoolExecutor() as pool:
            running = [pool.submit(self._lines), pool.submit(self._killed, "lost loud", LOUD.format(seconds=120))]
            running += [pool.submit(self._killed, "lost", SLOW) for _ in range(self.sizes.kills)]
        for one in running:
            one.result()
        self.values["late"].append(pump.INTERVAL_SHARE * TWELVE_HOURS_S)
        say("a loud and a quiet minute")
        self._costs()

    def _lines(self) -> None:
        """Lines at random moments; each tells when it was written, and we look for it again and again."""
        pauses = [random.uniform(0.4, 1.6) * self.sizes.lines_s / self.sizes.lines for _ in range(self.sizes.lines)]
        writing = "; ".join(f"sleep {pause_s:.3f}; echo $EPOCHREALTIME" for pause_s in pauses)
        pilot, panda_id = self._begin(f"{writing}; sleep 30")
        seen: dict[float, float] = {}
        end_s = time.monotonic() + sum(pauses) + 30
        while len(seen) < self.sizes.lines and time.monotonic() < end_s:
            shown, now = self.yard.public(panda_id, STDOUT), time.time()
            for line in shown.split(b"\n")[:-1]:
                seen.setdefault(float(line), now)
            time.sleep(LOOK_S)
        pilot.kill()
        if len(seen) < self.sizes.lines:
            raise BenchError(f"{self.sizes.lines - len(seen)} lines never became public: {pilot.last_words()}")
        took = [at - written for written, at in seen.items()]
        self.values["line"] += took
        self.values["line p95"].append(percentile(took, 0.95))
        self.values["line max"].append(max(took))

    def _killed(self, key: str, command: str) -> None:
        """A pilot that is killed at a random moment. What is public then is compared with what was written."""
        pilot, panda_id = self._begin(command)
        time.sleep(random.uniform(20, 40))
        pilot.kill()
        killed_at = time.time()
        written = next((pilot.folder / "work/jobs").glob(f"{panda_id}.*/logs/{STDOUT}"))
        time.sleep(KEPT_LOOK_S)
        text = self._readable(panda_id)
        told = LAST_MOMENT.findall(text)
        if not told:
            raise BenchError(f"nothing of job {panda_id} is public: {pilot.last_words()}")
        self.values[key].append(killed_at - float(told[-1]))
        whole = written.read_bytes()[: len(text)]
        self.values["missing"].append(sum(a != b for a, b in zip(whole, text, strict=True)) if whole != text else 0)

    def _readable(self, panda_id: int) -> bytes:
        """All that a reader finds of a log: its segments, and from there on what its object shows."""
        kept, number = b"", 1
        while found := self.yard.public(panda_id, f"{STDOUT}.{number:04d}"):
            kept, number = kept + found, number + 1
        return joined(kept, self.yard.public(panda_id, STDOUT))

    def _costs(self) -> None:
        if not can_watch():
            trouble = "not measured: no PID namespace can be made here, which needs root"
            self.troubles |= dict.fromkeys(("output", "loud cpu", "quiet cpu", "share", "requests"), trouble)
            return
        length_s = self.sizes.window_s + SETTLED_S + 4
        loud, loud_id = self._begin(LOUD.format(seconds=int(length_s)), watched=True)
        quiet, quiet_id = self._begin(f"sleep {length_s:g}", watched=True)
        for pilot in (loud, quiet):
            pilot.end()
        cpu = {}
        for name, pilot in (("loud", loud), ("quiet", quiet)):
            first, *_, last = samples(pilot, SETTLED_S, self.sizes.window_s)
            minutes = (last["at"] - first["at"]) / 60
            cpu[name] = (last["cpu_s"] - first["cpu_s"]) / minutes
            self.values[f"{name} cpu"].append(cpu[name])
        self.values["share"].append(100 * (cpu["loud"] - cpu["quiet"]) / 60)
        # The object of such an ended log shows both ends; the last line's number tells how much there was.
        written_bytes = LINE_BYTES * (int(self.yard.public(loud_id, STDOUT).splitlines()[-1][:9]) + 1)
        self.values["output"].append(written_bytes / 1e6 / length_s)
        first, *_, last = samples(quiet, SETTLED_S, self.sizes.window_s)
        self.values["requests"].append(self._store_requests(quiet_id, first["at"], last["at"]))

    def _store_requests(self, panda_id: int, first: float, last: float) -> int:
        mine = [e for e in self.yard.ledger(0) if e["server"] == "gcs" and f"PandaJob_{panda_id}" in e["path"]]
        return sum(first <= entry["arrived"] <= last for entry in mine)

    def _begin(self, command: str, watched: bool = False) -> tuple[RunningPilot, int]:
        """A pilot that runs it; one at a time is started, so that each takes its own job."""
        with _starting:
            encoded = base64.b64encode(command.encode()).decode()
            (panda_id,) = self.yard.submit(encoded, transformation="bash-c-enc")
            pilot = self.yard.start("--max-jobs", "1", watched=watched)
            self.yard.world.sandbox.wait_for(panda_id, {"running"}, 30)
        return pilot, panda_id


_starting = threading.Lock()


def joined(kept: bytes, shown: bytes) -> bytes:
    """A loud log from its segments and from what its object shows: whose first whole line tells, by its number, where it is."""
    if not kept:
        return shown
    _notice, _, end = shown.partition(b"]\n")
    if not end:
        return kept
    return kept[: int(end[:9]) * LINE_BYTES] + end


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few lines and short minutes, to see that it works")
    options = parser.parse_args()
    machine = Machine()
    with scratch_folder(Path(tempfile.gettempdir())) as scratch, yard(scratch, store_fronts=True) as there:
        live = LiveLogs(there, Sizes.quick() if options.quick else Sizes())
        live.measure()
    columns = {"this pilot": (live.values, live.troubles)}
    about = {"machine": machine.record(), "quick": options.quick}
    text = f"{rows_table(ROWS, columns)}\n\n{machine.sentence()}"
    write_part(options.json, "live_logs", {**about, **record(ROWS, columns)}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
