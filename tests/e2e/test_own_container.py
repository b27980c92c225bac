"""Jobs whose command starts its own Apptainer, as deployments do today: the pilot runs them plainly. And one that fails."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilot.sandbox.production import Production
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import PilotEnd, Pilots, log_url, public, updates

SAMPLE_PAUSE_S = 0.02
_HEX = re.compile(r"[0-9a-f]{100,}")


@dataclass
class Argvs:
    """Command lines that were seen on this machine while the pilot ran."""

    seen: set[bytes] = field(default_factory=set)

    @contextmanager
    def watched(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(done,), name="argv-watch")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(SAMPLE_PAUSE_S):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue


@dataclass(frozen=True)
class Run:
    """One pilot that has run pipetaskInit, an isr quantum, and the same quantum with its command spoilt."""

    world: World
    end: PilotEnd
    argvs: Argvs
    ids: dict[str, int]


def spoilt(job: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The job with a part of its encoded command replaced."""
    text = base64.b64decode(job["job"]["jobPars"].split()[0]).decode()
    found = _HEX.search(text)
    assert found is not None
    command = bytes.fromhex(found.group()).decode()
    assert old in command
    text = text.replace(found.group(), command.replace(old, new).encode().hex())
    changed = {**job["job"], "jobPars": base64.b64encode(text.encode()).decode()}
    return {"label": "spoilt", "job": changed, "pseudo_input": job.get("pseudo_input")}


@pytest.fixture(scope="module")
def run(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("own-container")
    with World(folder / "world", adder_delay_s=0.0) as world:
        production = Production(world, image, runner="apptainer")
        production.make_repository()
        jobs = production.submission()
        init, isr = jobs[:2]
        assert isr["label"].startswith("isr")
        labels = ("init", "isr", "no such option", "no such node")
        entries = [
            init,
            isr,
            spoilt(isr, "run-qbb ", "run-qbb --no-such-option "),
            spoilt(isr, "{qgraphNodeId}", "01a20555-dead-7a37-b5ae-b1203c9d30b2"),
        ]
        ids = dict(zip(labels, world.sandbox.submit(entries), strict=True))
        pilots, argvs = Pilots(world, folder), Argvs()
        arguments = ("--max-jobs", str(len(entries)), "--max-empty", "10", "--empty-wait-s", "0.2")
        try:
            with argvs.watched():
                end = pilots.run(
                    *arguments, config=production.settings_file(), env=production.credentials, timeout_s=200
                )
            yield Run(world, end, argvs, ids)
        finally:
            pilots.stop_all()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["init", "isr"])
def test_jobs_that_bring_their_own_container_finish(run: Run, name: str) -> None:
    panda_id = run.ids[name]
    assert run.end.exit_code == 0, run.end.stderr
    run.world.sandbox.wait_for(panda_id, {"finished"}, 5)
    told = run.end.jobs[panda_id]
    assert (told["state"], told["isolation"], told["trans_exit_code"]) == ("finished", "D:none", 0)
    assert told["max_pss_bytes"] > 50_000_000
    log = public(run.world, log_url(run.world, panda_id, "payload-log.json")).text
    assert all(json.loads(line)["message"] for line in log.splitlines()[:5])
    assert public(run.world, log_url(run.world, panda_id, "memory_monitor_summary.json")).json()["Max"]["pss"] > 50_000


def test_no_key_was_to_be_seen_in_a_command_line(run: Run) -> None:
    keys = yaml.safe_load((run.world.state_dir / "s3-key").read_text())
    everything = b"\n".join(run.argvs.seen)
    assert b"apptainer" in everything
    assert b"pipetask" in everything
    for word in keys.values():
        assert word.encode() not in everything


@pytest.mark.parametrize(
    ("name", "exit_code", "words"), [("no such option", 2, "No such option"), ("no such node", 1, "01a20555-dead-7a37")]
)
def test_a_quantum_that_fails_is_reported_with_its_own_words(run: Run, name: str, exit_code: int, words: str) -> None:
    panda_id = run.ids[name]
    job, told = run.world.sandbox.job(panda_id), run.end.jobs[panda_id]
    assert job["status"] == "failed"
    fields = job["fields"]
    assert (fields["piloterrorcode"], told["pilot_error_code"]) == (1305, 1305)
    assert (int(fields["transexitcode"]), fields["exeerrorcode"]) == (exit_code, exit_code)
    assert words in fields["piloterrordiag"]
    assert words in fields["exeerrordiag"]
    assert fields["piloterrordiag"].isprintable()
    assert updates(run.world, panda_id)[-1]["pilot_error_diag"] == told["pilot_error_diag"]
    assert words in public(run.world, log_url(run.world, panda_id)).text
