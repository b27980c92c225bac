"""docs/diagnoses.md: what a scientist reads for each way a job can go wrong, taken from real runs of the miniature pipeline.

    PAYLOAD_IMAGE=$(scripts/build-payload-image) python -m tests.e2e.diagnoses [--only MODE ...] [--write] [--replay]

Each fault is built into the quantum graph by ``bps submit --extra-qgraph-options``, run by the real pilot in the real image
against the sandbox, and its final report is read from the server's ledger. ``--write`` renews the page; ``--replay`` runs each
job again with ``pilot-replay`` from its public logs and compares the verdicts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.sandbox.production import QUEUE, Production
from pilot.sandbox.world import World

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "diagnoses.md"
RUN_TIMEOUT_S = 240


@dataclass(frozen=True)
class Fault:
    """One way to go wrong: the pipeline's fault mode, what it stands for, and what a person does about it."""

    mode: str
    means: str
    advice: str
    config: tuple[str, ...] = ()
    max_walltime_s: int | None = None

    @property
    def options(self) -> str:
        """What builds it into a quantum graph."""
        return " ".join(f"-c {setting}" for setting in (f"isr:fault.mode={self.mode}", *self.config))


FAULTS = (
    Fault(
        "raise",
        "an exception in the task",
        "read the traceback in `payload-log.json`; mend the code or the configuration",
    ),
    Fault(
        "algorithm",
        "an error the algorithm itself expects (`AlgorithmError`)",
        "the data do not allow this step; trying again gives the same",
    ),
    Fault("nowork", "`NoWorkFound`: nothing to do for this data", "nothing: it is a success, and `noWork=1` says so"),
    Fault(
        "memory",
        "4000 MB allocated where the queue allows 1800 MB x 2",
        "ask for more memory (`requestMemory`), so that the job goes to a queue that has it",
        ("isr:fault.megabytes=4000",),
    ),
    Fault("memoryerror", "`MemoryError`: an allocation failed", "ask for more memory (`requestMemory`)"),
    Fault("segv", "a segmentation fault", "a bug in compiled code: run the quantum alone, under a debugger"),
    Fault(
        "kill",
        "SIGKILL from within, the kernel's memory guard had not struck",
        "nobody in PanDA did it; look at the end of `payload-log.json`",
    ),
    Fault("exit", "`os._exit(17)` in the middle of the work", "the code is the payload's own; look it up in the task"),
    Fault(
        "hang",
        "it sleeps for ever; here with `maxWalltime` 25 s",
        "ask for more time (`requestWalltime`), or find out why it waits",
        max_walltime_s=25,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What the server was told at the end, and how long the payload had run."""

    fault: Fault
    report: dict[str, Any]
    payload_s: float
    replayed: Replayed | None = None


@dataclass(frozen=True)
class Replayed:
    """What ``pilot-replay`` made of a job."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def same(self) -> bool:
        return "\n           the same verdict\n" in self.stdout

    @property
    def verdict(self) -> str:
        return self._line("replayed")

    @property
    def reported(self) -> str:
        return self._line("reported")

    def _line(self, what: str) -> str:
        found = re.search(rf"^{what} +(.*)$", self.stdout, re.MULTILINE)
        return found[1] if found else f"(no line {what!r}: {self.stderr.strip()})"


def replay_job(production: Production, log_url: str, folder: Path, *arguments: str) -> Replayed:
    """Run a job again from its logs, with what the production's own settings say of its queue."""
    config = ("--config", str(production.world.state_dir / "production.yaml"), "--into", str(folder))
    program = Path(sys.executable).with_name("pilot-replay")
    done = subprocess.run(
        [str(program), log_url, *config, "--image-cache", str(folder.parent.parent / "images"), *arguments],
        env={**os.environ, **production.credentials},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    return Replayed(done.returncode, done.stdout, done.stderr)


def run(fault: Fault, image: Path, folder: Path, *, replay: bool = False) -> Verdict:
    """Submit, run the two jobs (the graph's init and one isr quantum with the fault), and read the second's final report."""
    with World(folder / "world", adder_delay_s=0.1) as world:
        production = Production(world, image)
        production.publish_image()
        production.make_repository()
        jobs = production.submission("--extra-qgraph-options", fault.options)[:2]
        if fault.max_walltime_s is not None:
            jobs[1]["job"]["maxWalltime"] = fault.max_walltime_s
        _init, panda_id = world.sandbox.submit(jobs)
        # the node's image cache, so that only the first run fetches it
        cache = ("--image-cache", str(folder.parent / "images"))
        summary = run_pilot(production, folder, "--max-jobs", "2", "--empty-wait-s", "0.2", "--max-empty", "20", *cache)
        reported = {job["panda_id"]: job for job in summary["jobs"]}
        if panda_id not in reported:
            raise RuntimeError(
                f"{fault.mode}: the pilot never got the job; its log:\n{(folder / 'pilot.log').read_text()}"
            )
        told = reported[panda_id]
        again = replay_job(production, told["log_url"], folder / "replay") if replay else None
        return Verdict(fault, _final(world, panda_id), told["stages_s"]["payload"], again)


def run_pilot(production: Production, folder: Path, *arguments: str) -> dict[str, Any]:
    """A pilot of the production's queue, to its end; the summary it wrote."""
    folder.mkdir(exist_ok=True)
    config, summary = production.settings_file(), folder / "summary.json"
    own = ("--queue", QUEUE, "--config", str(config), "--workdir", str(folder / "work"), "--summary", str(summary))
    program = Path(sys.executable).with_name("pilot-start")
    with (folder / "pilot.log").open("wb") as log:
        subprocess.run(
            [str(program), *own, *arguments],
            env={**os.environ, **production.credentials},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=RUN_TIMEOUT_S,
        )
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def _final(world: World, panda_id: int) -> dict[str, Any]:
    bodies = [json.loads(e["body"]) for e in world.sandbox.ledger() if e["path"] == "/api/v1/pilot/update_job"]
    finals = [body for body in bodies if body["job_id"] == panda_id and body["job_status"] in ("finished", "failed")]
    found: dict[str, Any] = finals[-1]
    return found


def page(verdicts: list[Verdict]) -> str:
    """The page, in Markdown."""
    lines = [
        "# What you read when a job goes wrong",
        "",
        "Each line is a real run: the miniature pipeline with one fault built in, in the real payload image, by the real pilot.",
        "State, codes and sentence are what the server was told, word for word. `tests/e2e/diagnoses.py` renews this page.",
        "All codes: [scientist.md](scientist.md#reading-the-verdict).",
        "",
        "| fault | what it stands for | state | pilotErrorCode | transExitCode | pilotErrorDiag | what to do |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for verdict in verdicts:
        report, fault = verdict.report, verdict.fault
        words = report.get("pilot_error_diag") or f"(none; job metrics: `{report.get('job_metrics', '')}`)"
        cells = [fault.mode, fault.means, report["job_status"], report.get("pilot_error_code", 0)]
        cells += [report.get("trans_exit_code", "-"), words, fault.advice]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    lines += [
        "",
        "The figure in a sentence about a limit is what was measured, then what is allowed, then where the limit comes from.",
        "`pipetask` says 1 for every failed task unless it is run with `--fail-fast` (`extraRunQuantumOptions` of bps); then a",
        "repeatable error of an algorithm ends with 20, and trying again is useless.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[fault.mode for fault in FAULTS])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(PROJECT)}")
    parser.add_argument(
        "--replay", action="store_true", help="run each job again and compare; exit code 1: they differ"
    )
    arguments = parser.parse_args()
    image = Path(os.environ["PAYLOAD_IMAGE"])
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="pilot-diagnoses-") as root:
        for fault in FAULTS:
            if arguments.only and fault.mode not in arguments.only:
                continue
            folder = Path(root, fault.mode)
            folder.mkdir()
            verdict = run(fault, image, folder, replay=arguments.replay)
            verdicts.append(verdict)
            report = verdict.report
            words = re.sub(r"\s+", " ", str(report.get("pilot_error_diag", "")))
            print(f"{fault.mode:12} {report['job_status']:9} {report.get('pilot_error_code', 0)}  {words}", flush=True)
            if verdict.replayed is not None:
                verdict_again = verdict.replayed
                print(f"{'':12} {'the same' if verdict_again.same else 'DIFFERS'}: {verdict_again.verdict}", flush=True)
    if arguments.write:
        PAGE.write_text(page(verdicts))
    return 1 if any(verdict.replayed is not None and not verdict.replayed.same for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
