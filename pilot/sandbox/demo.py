"""``pilot-sandbox demo``: a real miniature production, from ``bps submit`` to the star count, with progress on a terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pilot.sandbox.production import QUEUE, Production
from pilot.sandbox.world import World

POLL_S = 0.3
OVER = frozenset({"finished", "failed", "cancelled", "closed"})
QUICK_JOBS = 2


def run_demo(image: Path, state_dir: Path, *, quick: bool = False, keep: bool = False) -> int:
    """The whole demo; 0 when every job finished and the stars were found. ``keep``: stay until interrupted."""
    if state_dir.exists():
        shutil.rmtree(state_dir)
    say(f"Starting a PanDA world in {state_dir}")
    with World(state_dir, adder_delay_s=0.2) as world:
        production = Production(world, image)
        with _step("publishing the payload image in the sandbox's containers bucket"):
            production.publish_image()
        with _step("making a Butler repository in the S3 server"):
            production.make_repository()
        with _step("bps submit"):
            jobs = production.submission()[: QUICK_JOBS if quick else None]
        ids = world.sandbox.submit(jobs)
        summary = state_dir / "summary.json"
        code = _run_pilot(production, ids, summary)
        good = _report(world, ids, summary) and code == 0
        if not quick:
            with _step("counting the stars in the coadds"):
                counted, words = production.count_stars()
            say(words)
            good = good and counted
        say("")
        say(f"monitor page  {world.monitor_url}")
        say(f"state         {state_dir}  (pilot-sandbox run --state {state_dir} serves it again)")
        if keep and good:
            _serve_until_interrupted()
    say("demo: all is well" if good else "demo: something went wrong; see above and " + str(state_dir / "pilot.log"))
    return 0 if good else 1


def _run_pilot(production: Production, ids: list[int], summary: Path) -> int:
    """``pilot-start`` until the jobs are done; one line for each state a job reaches."""
    state_dir = production.world.state_dir
    arguments = ["--queue", QUEUE, "--config", str(production.settings_file()), "--workdir", str(state_dir / "work")]
    arguments += ["--summary", str(summary), "--max-jobs", str(len(ids)), "--empty-wait-s", "0.5", "--max-empty", "6"]
    say(f"pilot-start {' '.join(arguments)}")
    program = Path(sys.executable).with_name("pilot-start")
    environment = {**os.environ, **production.credentials}
    with (state_dir / "pilot.log").open("wb") as log:
        pilot = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", str(program), *arguments],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _watch(production.world, ids, pilot)
        finally:
            if pilot.poll() is None:
                pilot.terminate()
            code = pilot.wait()
    _settle(production.world, ids)
    return code


def _watch(world: World, ids: list[int], pilot: subprocess.Popen[bytes]) -> None:
    seen: dict[int, str] = {}
    while pilot.poll() is None:
        _show_changes(world, ids, seen)
        time.sleep(POLL_S)
    _show_changes(world, ids, seen)


def _show_changes(world: World, ids: list[int], seen: dict[int, str]) -> None:
    for job in world.sandbox.jobs():
        panda_id, status = job["panda_id"], job["status"]
        if seen.get(panda_id) != status and status in OVER | {"running"}:
            done = sum(state in OVER for state in seen.values()) + (status in OVER)
            say(f"  [{done:2d}/{len(ids)}] {panda_id} {job['label']:15} {status}")
        seen[panda_id] = status


def _settle(world: World, ids: list[int], timeout_s: float = 10.0) -> None:
    """Give the server's Adder its moment for the last job."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if not any(job["status"] == "holding" for job in world.sandbox.jobs() if job["panda_id"] in ids):
            return
        time.sleep(POLL_S)


def _report(world: World, ids: list[int], summary: Path) -> bool:
    """The table; True when every job is finished on the server."""
    reported: dict[int, dict[str, Any]] = {}
    if summary.exists():
        reported = {job["panda_id"]: job for job in json.loads(summary.read_text())["jobs"]}
    say("")
    say(f"{'job':<11} {'label':<15} {'state':<10} {'wall s':>7} {'MB':>6}  log")
    good = True
    for job in (world.sandbox.job(panda_id) for panda_id in ids):
        mine = reported.get(job["panda_id"], {})
        wall = mine.get("stages_s", {}).get("payload", 0.0)
        memory = mine.get("max_pss_bytes", 0) / 1e6
        url = mine.get("log_url", "-")
        say(f"{job['panda_id']:<11} {job['label']:<15} {job['status']:<10} {wall:7.1f} {memory:6.0f}  {url}")
        if mine.get("pilot_error_diag"):
            say(f"{'':11} {mine['pilot_error_code']}: {mine['pilot_error_diag']}")
        good = good and job["status"] == "finished"
    say("")
    return good


def _serve_until_interrupted() -> None:
    say("The servers stay up, so that the links work. Press Ctrl-C to end.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        say("")


@contextmanager
def _step(words: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    say(f"{words}: {time.monotonic() - started_s:.1f} s")


def say(line: str) -> None:
    print(line, flush=True)
