"""A job page by hand, from the files that lie beside a job's log and, where there is one, the pilot's summary.

``python -m tests.unit.logs.page.from_files FOLDER [SUMMARY.json PANDAID]`` writes FOLDER/job.html.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt, Job, Resources
from pilot.job.outcome import Outcome
from pilot.job.report import StageTimes, Usage
from pilot.job.states import JobState
from pilot.logs.page.document import PAGE_NAME, job_page
from pilot.logs.page.prmon import read_table
from pilot.logs.page.story import JobStory, LogStory
from pilot.logs.page.telling import Known, log_story, tell
from pilot.payload.diagnosis import read_words

TEXTS = ("payload-log.json", "payload.stderr", "payload.stdout", "pilotlog.txt")


def story_from_files(folder: Path, told: Mapping[str, Any], written_at_s: float) -> JobStory:
    """``told``: the job's entry in the pilot's summary; only its ``panda_id`` is needed."""
    table = folder / "memory_monitor_output.txt"
    words = read_words(folder, folder / "payload.stderr")
    attempt = Attempt(told["panda_id"], told.get("attempt", 0))
    job = Job(attempt, told.get("task_id"), f"job {attempt}", "bash-c", "", "managed", Resources())
    times = {f"{name}_s": seconds for name, seconds in told.get("stages_s", {}).items()}
    memory_bytes = told.get("max_pss_bytes", 0)
    return tell(
        Known(
            attempt,
            written_at_s,
            job=job,
            outcome=_outcome(told) if "state" in told else None,
            times=StageTimes(**times),
            usage=Usage(cpu_s=told.get("cpu_s", 0.0), max_pss_bytes=memory_bytes, max_rss_bytes=memory_bytes),
            points=read_table(table.read_text(errors="replace")) if table.exists() else (),
            isolation=told.get("isolation", ""),
            first_error=words.first_error or "",
            traceback=words.traceback,
            error_in="payload-log.json" if words.traceback else "payload.stderr",
            logs=tuple(_log(path) for path in sorted(folder.iterdir()) if path.name != PAGE_NAME),
            log_url=told.get("log_url", ""),
        )
    )


def _outcome(told: Mapping[str, Any]) -> Outcome:
    code, text = told["pilot_error_code"], told["pilot_error_diag"]
    error = next((e for e in PilotError if e.code == code), None)
    detail = text.removeprefix(error.text).removeprefix(": ") if error else text
    return Outcome(JobState(told["state"]), told["trans_exit_code"], Diagnosis(error, detail) if error else None)


def _log(path: Path) -> LogStory:
    size_bytes = path.stat().st_size
    return log_story(path.name, size_bytes, path.read_bytes() if path.name in TEXTS else b"")


def main(folder: str, summary: str = "", panda_id: str = "0") -> None:
    told: Mapping[str, Any] = {"panda_id": int(panda_id)}
    if summary:
        told = next(job for job in json.loads(Path(summary).read_text())["jobs"] if job["panda_id"] == int(panda_id))
    target = Path(folder) / PAGE_NAME
    target.write_text(job_page(story_from_files(Path(folder), told, Path(folder).stat().st_mtime)))
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:4])
