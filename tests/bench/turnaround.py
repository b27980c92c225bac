"""What a pilot costs beside its payloads, measured from outside: by the server's ledger, the payload's own clock and the kernel.

    python -m tests.bench.turnaround [--json FILE] [--quick] [--jobs N]

The same again with half a core for the pilot and its payloads. Everything on loopback, with a real store for the logs.
Goals and the established pilot's figures stand beside ours; nothing is asserted here.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilot.heartbeat import JITTER
from tests.bench.figures import Row, record, rows_table
from tests.bench.ledger import Turn, acquires, lateness_s, turns
from tests.bench.measure import REPOSITORY, BenchError, Machine, percentile, say, scratch_folder
from tests.bench.pilots import Ended, RunningPilot, Yard, can_watch, samples, yard
from tests.bench.quota import NoQuota, cpu_quota
from tests.bench.tables import write_part

# A payload tells its own moments by the clock that is the same in a container: seconds since the machine's start.
NO_OP = "read up rest < /proc/uptime; echo $up"
FAILING = f"{NO_OP}; exit 3"
QUIET = "sleep {}"
BURNING = "timeout {0} sh -c 'while :; do :; done' & timeout {0} sh -c 'while :; do :; done'; wait"
BEAT_S = 0.5
SETTLED_S = 3.0  # after a pilot's start: it is at its job, or waits for one
STAGED_BYTES = 1 << 30
HALF = 0.5
PLAIN, FOLDER, SIF = "plain", "directory image", "SIF"

# key, what, unit, digits, goal, the established pilot's figure
ROWS = (
    Row("start", "start to first acquire", "s", 3, "<= 0.30", "1.3"),
    Row("running", "acquire answered to payload start, plain", "s", 3, "", "0.17"),
    Row("running directory", "the same, Apptainer directory image", "s", 3, "", ""),
    Row("running SIF", "the same, Apptainer SIF", "s", 3, "", ""),
    Row("end", "payload end to acknowledged final, plain", "s", 3, "", "1.9"),
    Row("overhead", "acquire answered to acknowledged final, plain no-op", "s", 3, "<= 0.15", "2.1 to 4.1"),
    Row("beyond logs", "the same without the log upload", "s", 3, "<= 0.10", ""),
    Row("overhead directory", "the same, Apptainer directory image, log upload included", "s", 3, "<= 0.30", ""),
    Row("overhead SIF", "the same, Apptainer SIF", "s", 3, "", ""),
    Row("failed", "payload end to acknowledged final, failed payload", "s", 3, "<= 0.15", "118"),
    Row("killed", "kill told to acknowledged final", "s", 3, "<= 0.30", "140"),
    Row("terminated", "SIGTERM to acknowledged final", "s", 3, "<= 0.30", "115"),
    Row("next", "final acknowledged to next acquire", "s", 3, "<= 0.02", "1.7"),
    Row("exit", "last report to exit", "s", 3, "<= 0.30", "64"),
    Row("rate", "no-op jobs a minute, plain", "", 0, ">= 300", "11"),
    Row("rate directory", "the same, Apptainer directory image", "", 0, ">= 120", ""),
    Row("rate SIF", "the same, Apptainer SIF", "", 0, "", ""),
    Row("cpu", "CPU per extra job, plain, the payload included", "s", 3, "<= 0.06", "0.19"),
    Row("cpu directory", "the same, Apptainer directory image", "s", 3, "", ""),
    Row("requests", "requests to the PanDA server a job", "", 1, "", ""),
    Row("log requests", "requests to the log bucket a job", "", 1, "", ""),
    Row("quiet cpu", "CPU of the pilot while a quiet payload runs", "s/min", 2, "<= 0.10", "0.85"),
    Row("quiet made", "processes and threads made meanwhile", "/min", 0, "<= 0", "192"),
    Row("job rss", "RSS in a job, Google's store in use", "MB", 0, "<= 75", "70"),
    Row("job threads", "threads in a job", "", 0, "", "19"),
    Row("idle cpu", "CPU while there is no job", "s/min", 2, "", "0.29"),
    Row("idle made", "processes and threads made while there is no job", "/min", 0, "", ""),
    Row("idle rss", "RSS while there is no job", "MB", 0, "<= 45", "30 to 70"),
    Row("idle threads", "threads while there is no job", "", 0, "", "19"),
    Row("beat burning p95", "heartbeat later than due, payload burning CPU, p95", "s", 3, "", ""),
    Row("beat burning", "the same, the latest one", "s", 3, "", ""),
    Row("beat staging p95", "heartbeat later than due, 1 GiB being staged, p95", "s", 3, "", ""),
    Row("beat staging", "the same, the latest one", "s", 3, "", ""),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is measured: jobs in a run, repetitions, seconds."""

    jobs: int = 40
    short_runs: int = 5
    stops: int = 5
    window_s: float = 60.0
    burn_s: float = 20.0
    staged_bytes: int = STAGED_BYTES

    @classmethod
    def quick(cls) -> Sizes:
        return cls(jobs=6, short_runs=2, stops=1, window_s=6.0, burn_s=4.0, staged_bytes=STAGED_BYTES // 8)


@dataclass
class Turnaround:
    """Measures pilots that are started with ``prefix`` before them; ``values`` by the rows' keys."""

    yard: Yard
    sizes: Sizes
    images: dict[str, Path]
    prefix: tuple[str, ...] = ()
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    troubles: dict[str, str] = field(default_factory=dict)

    def measure(self, *, watched: bool) -> None:
        """Everything; the watched minutes only when asked for, since a quota changes nothing in them."""
        say("no-op jobs")
        self._no_ops()
        say("failing, killed and terminated jobs")
        self._failing()
        for _ in range(self.sizes.stops):
            self._terminated()
            self._killed()
        say("heartbeats")
        self._beats("beat burning", BURNING.format(f"{self.sizes.burn_s:g}"), {})
        self._beats("beat staging", "true", self.yard.large_input("large.dat", self.sizes.staged_bytes))
        if watched:
            say("quiet minutes")
            self._quiet()

    # one pilot over some jobs

    def _run(
        self,
        command: str,
        jobs: int = 1,
        *arguments: str,
        keys: Mapping[str, Any] | None = None,
        act: Callable[[RunningPilot, int], float] | None = None,
    ) -> _Run:
        ids = self.yard.submit(command, jobs, **(keys or {}))
        seen = self.yard.last_seq()
        pilot = self.yard.start("--max-jobs", str(jobs), *arguments, prefix=self.prefix)
        acted_at = act(pilot, ids[0]) if act else None
        ended = pilot.end()
        entries = self.yard.ledger(seen)
        found = turns(entries)
        if [turn.panda_id for turn in found] != ids or any(turn.acknowledged_at is None for turn in found):
            raise BenchError(f"not all of {jobs} jobs came to an end: {pilot.last_words()}")
        to_panda = sum(entry["server"] == "panda" for entry in entries)
        return _Run(ended, found, acquires(entries)[0]["arrived"], to_panda, acted_at)

    def _no_ops(self) -> None:
        short_cpu = [self._first(self._run(NO_OP)).ended.cpu_s for _ in range(self.sizes.short_runs)]
        stored = self.yard.log_requests()
        long = self._run(NO_OP, self.sizes.jobs)
        self.values["log requests"].append((self.yard.log_requests() - stored) / self.sizes.jobs)
        self._series(long, "", _median(short_cpu))
        self.values["requests"].append(long.requests / self.sizes.jobs)
        self.values["next"] += [turn.next_asked_at - _acknowledged(turn) for turn in long.turns if turn.next_asked_at]
        logs_s = {job["panda_id"]: job["stages_s"]["log"] for job in long.ended.jobs}
        self.values["beyond logs"] += [_overhead(turn) - logs_s[turn.panda_id] for turn in long.turns]
        for kind, image in self.images.items():
            jobs, with_image = max(3, self.sizes.jobs // 2), ("--image", str(image))
            one = self._run(NO_OP, 1, *with_image)
            self._series(self._run(NO_OP, jobs, *with_image), f" {kind.split()[0]}", one.ended.cpu_s)

    def _first(self, run: _Run) -> _Run:
        self.values["start"].append(run.first_asked_at - run.ended.started_at)
        self.values["exit"].append(run.ended.ended_at - _acknowledged(run.turns[-1]))
        return run

    def _series(self, run: _Run, suffix: str, short_cpu_s: float) -> None:
        jobs = len(run.turns)
        last = _acknowledged(run.turns[-1])
        self.values["rate" + suffix].append(60 * jobs / (last - run.first_asked_at))
        self.values["cpu" + suffix].append((run.ended.cpu_s - short_cpu_s) / (jobs - 1))
        self.values["overhead" + suffix] += [_overhead(turn) for turn in run.turns]
        for turn in run.turns:
            payload_at = self._payload_at(turn.panda_id)
            self.values["running" + suffix].append(payload_at - turn.acquired_at)
            if not suffix:
                self.values["end"].append(_acknowledged(turn) - payload_at)

    def _payload_at(self, panda_id: int) -> float:
        """When the payload ran, by its own word in its public log. Its clock has steps of 10 ms."""
        up_s = float(self.yard.public(panda_id, "payload.stdout"))
        return up_s + time.time() - float(Path("/proc/uptime").read_text().split()[0])

    def _failing(self) -> None:
        run = self._run(FAILING, max(3, self.sizes.jobs // 4))
        for turn in run.turns:
            self.values["failed"].append(_acknowledged(turn) - self._payload_at(turn.panda_id))

    def _terminated(self) -> None:
        def act(pilot: RunningPilot, panda_id: int) -> float:
            self._one_second_in(panda_id)
            return pilot.signal(signal.SIGTERM)

        run = self._run("sleep 60", act=act)
        self.values["terminated"].append(_acknowledged(run.turns[0]) - (run.acted_at or 0.0))

    def _killed(self) -> None:
        def act(_pilot: RunningPilot, panda_id: int) -> float:
            self._one_second_in(panda_id)
            self.yard.world.sandbox.kill(panda_id)
            return time.time()

        turn = self._run("sleep 60", 1, "--heartbeat", "1", act=act).turns[0]
        if turn.kill_told_at is None:
            raise BenchError(f"job {turn.panda_id} was never told to be killed")
        self.values["killed"].append(_acknowledged(turn) - turn.kill_told_at)

    def _one_second_in(self, panda_id: int) -> None:
        self.yard.world.sandbox.wait_for(panda_id, {"running"}, 30)
        time.sleep(1.0)

    # heartbeats

    def _beats(self, key: str, command: str, keys: dict[str, str]) -> None:
        run = self._run(command, 1, "--heartbeat", f"{BEAT_S:g}", keys=keys)
        turn = run.turns[0]
        if turn.state != "finished":
            raise BenchError(f"{key}: the job is {turn.state}: {run.ended.jobs}")
        late_s = lateness_s(turn.told_at[:-1], BEAT_S, JITTER)  # the final report comes when the job ends
        self.values[f"{key} p95"].append(percentile(late_s, 0.95))
        self.values[key].append(max(late_s, default=0.0))

    # minutes without work

    def _quiet(self) -> None:
        if not can_watch():
            trouble = "not measured: no PID namespace can be made here, which needs root"
            self.troubles |= {row.key: trouble for row in ROWS if row.key.split()[0] in ("quiet", "idle", "job")}
            return
        length_s = self.sizes.window_s + SETTLED_S + 3
        content: dict[str, Any] = {**self.yard.google_input("small.dat", bytes(1000))}
        (panda_id,) = self.yard.submit(QUIET.format(f"{length_s:g}"), **content)
        at_work = self.yard.start("--max-jobs", "1", watched=True)
        self.yard.world.sandbox.wait_for(panda_id, {"running"}, 30)
        waiting = self.yard.start("--max-empty", "1000", "--lifetime", f"{length_s:g}", watched=True)
        for pilot in (at_work, waiting):
            pilot.end()
        self._window(at_work, "quiet", "job")
        self._window(waiting, "idle", "idle")

    def _window(self, pilot: RunningPilot, used: str, held: str) -> None:
        inside = samples(pilot, SETTLED_S, self.sizes.window_s)
        first, last = inside[0], inside[-1]
        minutes = (last["at"] - first["at"]) / 60
        self.values[f"{used} cpu"].append((last["cpu_s"] - first["cpu_s"]) / minutes)
        self.values[f"{used} made"].append((last["last_pid"] - first["last_pid"]) / minutes)
        self.values[f"{held} rss"].append(max(sample["rss_bytes"] for sample in inside) / 1e6)
        self.values[f"{held} threads"].append(max(sample["threads"] for sample in inside))


@dataclass(frozen=True)
class _Run:
    ended: Ended
    turns: list[Turn]
    first_asked_at: float
    requests: int
    acted_at: float | None


def _acknowledged(turn: Turn) -> float:
    if turn.acknowledged_at is None:
        raise BenchError(f"job {turn.panda_id} has no final report")
    return turn.acknowledged_at


def _overhead(turn: Turn) -> float:
    return _acknowledged(turn) - turn.acquired_at


def _median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few jobs and short minutes, to see that it works")
    parser.add_argument("--jobs", type=int, help="no-op jobs in the long plain run; with an image half as many")
    options = parser.parse_args()
    sizes = Sizes.quick() if options.quick else Sizes()
    if options.jobs:
        sizes = Sizes(**{**vars(sizes), "jobs": options.jobs})
    machine = Machine()
    # On the disk, as in a pod: the journal of each job is forced there, which costs nothing in memory.
    with scratch_folder(Path(tempfile.gettempdir())) as scratch:
        columns = _measured(scratch, sizes)
    about = {"machine": machine.record(), "quick": options.quick}
    text = f"{rows_table(ROWS, columns)}\n\n{machine.sentence()}"
    write_part(options.json, "turnaround", {**about, **record(ROWS, columns)}, text)
    return 0


def _measured(scratch: Path, sizes: Sizes) -> dict[str, tuple[dict[str, list[float]], dict[str, str]]]:
    """Values and troubles by row, for each column of the table."""
    images = {FOLDER: scratch / "tiny", SIF: scratch / "tiny.sif"}
    make = [str(REPOSITORY / "scripts/make-test-image"), str(images[SIF]), str(images[FOLDER])]
    subprocess.run(make, check=True, capture_output=True)
    with yard(scratch) as there:
        whole = Turnaround(there, sizes, images)
        whole.measure(watched=True)
        say(f"the same with {HALF:g} of a core")
        fewer = Sizes(**{**vars(sizes), "jobs": max(4, sizes.jobs // 2), "stops": min(3, sizes.stops)})
        part = Turnaround(there, fewer, images)
        try:
            with cpu_quota(HALF) as quota:
                part.prefix = quota.prefix
                part.measure(watched=False)
        except NoQuota as trouble:
            part.troubles = {row.key: f"not measured: {trouble}" for row in ROWS}
    return {"this pilot": (whole.values, whole.troubles), "with half a core": (part.values, part.troubles)}


if __name__ == "__main__":
    sys.exit(main())
