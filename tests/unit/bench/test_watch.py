"""A look at one process, by what the kernel tells of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.bench.pilots import WATCH
from tests.bench.watch import sample


def test_a_sample_tells_threads_memory_and_cpu_of_the_process_alone() -> None:
    before = sample(os.getpid())
    rest = threading.Event()
    other = threading.Thread(target=rest.wait)
    other.start()
    sum(number * number for number in range(2_000_000))
    after = sample(os.getpid())
    rest.set()
    other.join()
    assert after["threads"] == before["threads"] + 1
    assert after["cpu_s"] > before["cpu_s"]
    assert after["peak_rss_bytes"] >= after["rss_bytes"] > 10 << 20


def test_it_leaves_as_the_watched_one_does_and_its_samples_are_lines_of_json(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(WATCH), str(tmp_path / "samples"), "sh", "-c", "sleep 0.1; exit 7"]
    assert subprocess.run(command, check=False, timeout=30).returncode == 7
    first, *_ = [json.loads(line) for line in (tmp_path / "samples").read_text().splitlines()]
    assert first["last_pid"] > 0 and first["threads"] == 1
