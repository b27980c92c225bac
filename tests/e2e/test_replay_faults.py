"""Real pipetask quanta that fail, run again by ``pilot-replay``: the same diagnosis as their pilot reported.

``make replay-faults`` does it with each fault, from ``bps submit`` on; here three quanta of graphs made by hand stand for them,
as ``make test`` has not the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pilot.sandbox.production import BUTLER, REPO_INSIDE, Production
from pilot.sandbox.world import World
from tests.e2e.diagnoses import Replayed, replay_job, run_pilot
from tests.integration.pilot.pilotrun import log_url, shell_job

MODES = {"raise": 1305, "memoryerror": 1223, "kill": 1200}
AT_A_TIME = 2
# One graph of one quantum for each fault, in one process: what takes the time is importing the software.
GRAPHS = """
import sys
from lsst.ctrl.mpexec.cli.pipetask import cli
from minirc2.list_quanta import main as list_quanta

butler, folder, *modes = sys.argv[1:]
for mode in modes:
    graph = f"{folder}/{mode}.qg"
    where = ("-d", "instrument='MiniCam' AND exposure=1228 AND detector=0", "-p", "/opt/minirc2/pipelines/DRP.yaml#isr")
    runs = ("-i", "MiniCam/defaults", "--output-run", f"u/replay/{mode}", "--save-qgraph", graph, "--qgraph-datastore-records")
    cli(["--log-level", "ERROR", "qgraph", "-b", butler, *where, *runs, "-c", f"isr:fault.mode={mode}"], standalone_mode=False)
    list_quanta(graph)
"""
COMMAND = (
    "pipetask --long-log --log-level=VERBOSE --log-file payload-log.json"
    f" run-qbb {BUTLER} {REPO_INSIDE}/{{mode}}.qg --qgraph-node-id {{node}}"
)


@dataclass(frozen=True)
class Run:
    """Quanta that two pilots have run side by side, by their fault."""

    world: World
    production: Production
    folder: Path
    ids: dict[str, int]
    reported: dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def run(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("replay-faults")
    with World(folder / "world", adder_delay_s=0.0) as world:
        production = Production(world, image)
        production.make_repository()
        lines = production.inside("python3", "-c", GRAPHS, BUTLER, REPO_INSIDE, *MODES).splitlines()
        nodes = dict(zip(MODES, (line.split()[1] for line in lines), strict=True))
        jobs = [{"label": m, "job": shell_job(COMMAND.format(mode=m, node=node))} for m, node in nodes.items()]
        ids = dict(zip(MODES, world.sandbox.submit(jobs), strict=True))
        arguments = ("--image", str(image), "--max-jobs", "2", "--max-empty", "1", "--empty-wait-s", "0")
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            ends = list(pool.map(lambda name: run_pilot(production, folder / name, *arguments), ("one", "two")))
        reported = {job["panda_id"]: job for summary in ends for job in summary["jobs"]}
        yield Run(world, production, folder, ids, reported)


@pytest.mark.timeout(240)
def test_a_quantum_that_failed_comes_to_the_same_diagnosis_again(run: Run, image: Path) -> None:
    def again(mode: str) -> Replayed:
        folder = run.folder / f"replay-{mode}"
        return replay_job(run.production, log_url(run.world, run.ids[mode]), folder, "--image", str(image))

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        replayed = dict(zip(MODES, pool.map(again, MODES), strict=True))
    for mode, code in MODES.items():
        told, found = run.reported[run.ids[mode]], replayed[mode]
        assert (told["state"], told["pilot_error_code"]) == ("failed", code)
        assert found.same, found.stdout + found.stderr
        assert found.verdict == found.reported  # word for word
        assert told["pilot_error_diag"] in found.verdict
        assert found.exit_code == told["trans_exit_code"]
