"""What a process costs from outside, and figures over rounds: the median and the range, never a single run."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("launch.py")
MEMORY_FOLDER = Path("/dev/shm")
CLIENT_TIMEOUT_S = 600.0


class BenchError(RuntimeError):
    """What is measured did not do its work: a figure of it would be wrong."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One process from start to end, its children included; ``told``: what it printed as its last line in JSON."""

    wall_s: float
    cpu_s: float
    max_rss_bytes: int
    told: Mapping[str, float] = field(default_factory=dict)


def measured(command: Sequence[str], environment: Mapping[str, str], scratch: Path, cwd: Path = REPOSITORY) -> Cost:
    """Run a command in exactly this environment. Raises BenchError, with its last words, when it fails."""
    figures, output = scratch / "figures", scratch / "output"
    with output.open("wb") as stream:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(figures), *command],
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = launcher.wait(CLIENT_TIMEOUT_S)
        except BaseException:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            raise
    words = output.read_text(errors="replace")
    if code != 0:
        raise BenchError(f"{' '.join(command)[:200]} left with {code}: {words[-1500:]}")
    wall_s, cpu_s, max_rss_kib = figures.read_text().split()
    return Cost(float(wall_s), float(cpu_s), int(max_rss_kib) << 10, _told(words))


def _told(words: str) -> dict[str, float]:
    last = (words.strip().splitlines() or [""])[-1]
    try:
        told = json.loads(last)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure over the rounds of a run."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Raises statistics.StatisticsError when there are none."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])

    def text(self, digits: int = 0, scale: float = 1.0) -> str:
        """``585 (556-612)``; without the range when there was but one round."""
        shown = [f"{value * scale:,.{digits}f}" for value in (self.median, self.least, self.most)]
        return shown[0] if self.least == self.most else f"{shown[0]} ({shown[1]}–{shown[2]})"


def in_rounds(clients: Sequence[str], rounds: int, run: Callable[[str, int], None]) -> None:
    """Every client once a round, each round beginning with another, so that no one always has the machine at its best."""
    for number in range(rounds):
        first = number % len(clients) if clients else 0
        for client in (*clients[first:], *clients[:first]):
            run(client, number)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; 0 when there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def say(words: str) -> None:
    """Progress, for whoever waits; tables go to stdout."""
    print(words, file=sys.stderr, flush=True)


@contextmanager
def scratch_folder(parent: Path = MEMORY_FOLDER) -> Iterator[Path]:
    """A folder that is gone afterwards, also after a SIGTERM."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with tempfile.TemporaryDirectory(prefix="pilot-bench-", dir=parent) as folder:
            yield Path(folder)
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Machine:
    """Where and when a part was measured; ``load`` is the one-minute average before and after it."""

    cpu: str = field(default_factory=lambda: _cpu_name())
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    python: str = field(default_factory=platform.python_version)
    kernel: str = field(default_factory=platform.release)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    load: list[float] = field(default_factory=lambda: [round(os.getloadavg()[0], 2)])

    def record(self) -> dict[str, Any]:
        """For the JSON file, once the part is done."""
        self.load = [*self.load[:1], round(os.getloadavg()[0], 2)]
        return dict(vars(self))

    def sentence(self) -> str:
        """Below a table."""
        load = " to ".join(f"{value:.1f}" for value in self.load)
        return f"{self.date}, {self.cores} cores ({self.cpu}), Python {self.python}, load average {load}."


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()
