"""A job that has run, for the tests of its logs."""

from __future__ import annotations

from pathlib import Path

from pilot.job.account import Account
from pilot.job.model import Attempt, FileSpec, Job, MalformedJob, Resources
from pilot.job.outcome import Outcome
from pilot.job.states import JobState
from pilot.runtime.workdir import JobFolder, WorkVolume

ATTEMPT = Attempt(4711, 2)
LOG = FileSpec("log.tgz", guid="guid-of-the-log")
MOVED = frozenset({"in.fits", "out.root"})


def job(log: FileSpec | None = LOG, outputs: tuple[FileSpec, ...] = (FileSpec("out.root"),)) -> Job:
    return Job(ATTEMPT, 9, "isr", "trf", "", "managed", Resources(), (FileSpec("in.fits"),), outputs, log)


def account(of: Job | MalformedJob, outcome: Outcome | None = None) -> Account:
    return Account(ATTEMPT, of, outcome or Outcome(JobState.FINISHED, trans_exit_code=0))


def ended_job(root: Path) -> JobFolder:
    volume = WorkVolume(root)
    volume.jobs.mkdir(parents=True)
    folder = volume.open_job(ATTEMPT)
    for path in (folder.pilot_log, folder.stdout, folder.stderr):
        path.write_text(f"this is {path.name}\n")
    (folder.work / "payload-log.json").write_text("{}")
    for name in MOVED:
        (folder.work / name).write_text("data")
    return folder
