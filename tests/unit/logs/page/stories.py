"""Jobs to make pages of: one for each way a job can end, told by the real builder from values such as a pilot has.

``python -m tests.unit.logs.page.stories FOLDER`` writes their pages, to be looked at in a browser.
"""

from __future__ import annotations

import base64
import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.history import UsagePoint
from pilot.job.limits import Limits, LimitSettings, limits_for
from pilot.job.model import Attempt, Checksum, FileSpec, Job, MalformedJob, Resources
from pilot.job.outcome import PayloadFacts, StopCause, failed, judge
from pilot.job.queue import Queue, QueueStatus
from pilot.job.report import FileReport, Identity, StageTimes, Usage
from pilot.logs.page.document import job_page
from pilot.logs.page.story import JobStory, LogStory, StoryEvent, cleaned
from pilot.logs.page.telling import Known, log_story, tell

GB = 1 << 30
MB = 1 << 20
TWELVE_HOURS_S = 43_200
ACQUIRED_AT_S = 1_795_744_854.0  # 2026-11-27 02:00:54 UTC
ATTEMPT = Attempt(6_100_000_017, 2)
LOG_URL = "https://storage.googleapis.com/drp-us-central1-logging/logs/DOMA_LSST_DEV/PandaJob_6100000017/pilotlog.txt"
COMMAND = (
    "pipetask --long-log --log-level=VERBOSE run-qbb s3://rubin-repo/butler.yaml s3://rubin-repo/qgraph.qg "
    "--qgraph-node-id 0190f1a2-5b7c-7d3e-8f90-1a2b3c4d5e6f --fail-fast"
)
QUEUE = Queue(
    "DOMA_LSST_DEV", "DOMA_LSST_DEV", "GOOGLE_DOMA", True, QueueStatus.ONLINE,
    max_rss_bytes=4000 * MB, max_workdir_bytes=20_000 * MB, max_time_s=86_400,
)  # fmt: skip
JOB = Job(
    attempt=ATTEMPT,
    task_id=166_512,
    name="u_jane_w_2026_48_DM-55555_20261127T010000Z_isr_characterize_1228_94",
    transformation="https://storage.googleapis.com/drp-us-central1-containers/bash-c-enc",
    parameters=base64.b64encode(COMMAND.encode()).decode(),
    prod_source_label="managed",
    resources=Resources(core_count=4, min_ram_bytes=4000 * MB, max_disk_bytes=10_000 * MB, max_walltime_s=50_000),
    inputs=(
        FileSpec("raw_MiniCam_1228_94.fits", "user.jane", size_bytes=73 * MB, checksum=Checksum("adler32", "0a1b2c3d")),
        FileSpec("calib_flat_i_94.fits", "user.jane", size_bytes=142 * MB, checksum=Checksum("adler32", "f0e1d2c3")),
    ),
    outputs=(FileSpec("calexp_1228_94.fits", "user.jane"), FileSpec("src_1228_94.fits", "user.jane")),
    log=FileSpec("log.tgz", "user.jane"),
    request_id=5_512,
)
IDENTITY = Identity(
    "DOMA_LSST_DEV",
    "gke-moderate-mem-7d9f-x2kq",
    "harvester-CERN_central_k8s",
    "grid-job-88123-abcde",
    "Kubernetes",
    "PR",
    "0.1.0",
)
OUTPUTS = (
    FileReport("calexp_1228_94.fits", "guid-1", 301 * MB, "11223344", "gs://rubin-data/user/jane/calexp_1228_94.fits"),
    FileReport(
        "src_1228_94.fits", "guid-2", 12 * MB, "55667788", "https://storage.googleapis.com/rubin-data/src_1228_94.fits"
    ),
)
TRACEBACK = """Traceback (most recent call last):
  File "/opt/stack/pipe_base/python/lsst/pipe/base/single_quantum_executor.py", line 412, in _execute
    task.runQuantum(butlerQC, inputRefs, outputRefs)
  File "/opt/stack/pipe_tasks/python/lsst/pipe/tasks/calibrateImage.py", line 688, in runQuantum
    self.run(exposures=exposures, result=result)
  File "/opt/stack/meas_algorithms/python/lsst/meas/algorithms/psfDeterminer.py", line 231, in determinePsf
    raise NoPsfStars(f"only {len(stars)} usable stars, {self.config.minStars} needed")
lsst.meas.algorithms.NoPsfStars: only 3 usable stars, 20 needed
"""


def series(
    seconds: float,
    peak_bytes: float,
    *,
    every_s: float = 1.0,
    shape: Callable[[float], float] = lambda x: 0.35 + 0.3 * math.sin(9 * x) ** 2,
    spike_at: float | None = 0.62,
    cores: float = 3.4,
) -> tuple[UsagePoint, ...]:
    """A day in the life of a payload: memory that wanders, one sharp peak, CPU that comes and goes, a growing folder."""
    noise, points = random.Random(7), []
    cpu_s, read, written, disk = 0.0, 0.0, 0.0, 40.0 * MB
    count = max(2, int(seconds / every_s))
    spike = None if spike_at is None else int(count * spike_at)
    for index in range(count):
        x = index / count
        memory = peak_bytes * min(1.0, shape(x) + 0.03 * noise.random())
        memory = peak_bytes if index == spike else memory
        busy = cores * (0.25 if 0.3 < x < 0.34 else 1.0) * (0.9 + 0.1 * noise.random())
        cpu_s += busy * every_s
        read += every_s * MB * (60 if x < 0.05 else 2 + 3 * noise.random())
        written += every_s * MB * (0.2 + (25 * noise.random() if int(x * 12) % 4 == 3 else 0))
        disk += every_s * 0.08 * MB * noise.random() * 43_200 / max(seconds, 1)
        points.append(
            UsagePoint(
                elapsed_s=(index + 1) * every_s,
                memory_bytes=int(memory),
                rss_bytes=int(memory * 1.1),
                container_bytes=int(memory * 1.05 + 90 * MB),
                disk_bytes=int(disk),
                cpu_s=cpu_s,
                read_bytes=int(read),
                written_bytes=int(written),
                disk_read_bytes=int(read * 0.7),
                disk_written_bytes=int(written * 0.9),
                processes=9,
                threads=31,
            )
        )
    return tuple(points)


def used(points: tuple[UsagePoint, ...]) -> Usage:
    last, peak = points[-1], max(point.memory_bytes for point in points)
    return Usage(
        cpu_s=last.cpu_s,
        max_rss_bytes=int(peak * 1.1),
        max_pss_bytes=peak,
        read_bytes=last.read_bytes,
        written_bytes=last.written_bytes,
    )


def logs(stderr: str, *, log_json: str = "") -> tuple[LogStory, ...]:
    stdout = "\n".join(f"isr: processed amplifier C{index:02d} in 0.4{index % 10} s" for index in range(40)) + "\n"
    pilot_log = "\n".join(f"2026-11-27T02:0{index}:54Z INFO pilot.job stage {index}" for index in range(9)) + "\n"
    records = log_json or (
        '{"asctime": "2026-11-27T02:01:10Z", "levelname": "INFO", "name": "lsst.ctrl.mpexec", '
        '"message": "Preparing execution of quantum for label=isr dataId={exposure: 1228, detector: 94}."}\n'
    )
    return (
        log_story("payload-log.json", len(records), records.encode()),
        log_story("payload.stderr", len(stderr.encode()), stderr.encode()),
        log_story("payload.stdout", 3 * GB, stdout.encode(), segments=("payload.stdout.0001", "payload.stdout.0002")),
        log_story("pilotlog.txt", len(pilot_log), pilot_log.encode()),
        LogStory("memory_monitor_summary.json", 1204),
        LogStory("memory_monitor_output.txt", 402_113),
        LogStory("log.tgz", 1_204_331, note="everything in one file"),
    )


def limits(container_bytes: int | None = 8 * GB, **changes: Any) -> Limits:
    return replace(limits_for(JOB, QUEUE, LimitSettings(container_memory_bytes=container_bytes)), **changes)


def known(payload_s: float, points: tuple[UsagePoint, ...], facts: PayloadFacts, **changes: Any) -> Known:
    times = StageTimes(acquire_s=0.42, stage_in_s=18.4, setup_s=6.1, payload_s=payload_s, stage_out_s=0.0, log_s=0.0)
    base = Known(
        attempt=ATTEMPT,
        written_at_s=ACQUIRED_AT_S + payload_s + 60,
        job=JOB,
        outcome=judge(facts),
        identity=IDENTITY,
        queue_name="DOMA_LSST_DEV",
        acquired_at_s=ACQUIRED_AT_S,
        times=times,
        begins_s={"stage_in_s": 0.6},
        usage=used(points) if points else Usage(),
        points=points,
        limits=limits(),
        isolation="A:apptainer",
        image="/cvmfs/sw.lsst.eu/containers/lsst_distrib-w_2026_48.sif",
        versions={"Apptainer": "1.5.0", "payload": "lsst_distrib w_2026_48"},
        took_s={"raw_MiniCam_1228_94.fits": 4.1, "calib_flat_i_94.fits": 12.9},
        logs=logs(""),
        log_url=LOG_URL,
        monitor_url=f"https://panda-doma.cern.ch/job?pandaid={ATTEMPT.panda_id}",
    )
    return replace(base, **changes)


def finished(every_s: float = 10.0) -> JobStory:
    """Twelve hours; with ``every_s`` 1 the largest page there is."""
    points = series(TWELVE_HOURS_S, 3.1 * GB, every_s=every_s)
    told = known(TWELVE_HOURS_S + 3.5, points, PayloadFacts(exit_code=0))
    times = replace(told.times, stage_out_s=11.2, log_s=0.0)
    return tell(
        replace(
            told,
            times=times,
            outputs=OUTPUTS,
            took_s={**told.took_s, "calexp_1228_94.fits": 9.4, "src_1228_94.fits": 0.8},
            begins_s={**told.begins_s, "log_s": TWELVE_HOURS_S + 40.0},
        )
    )


def payload_failed() -> JobStory:
    facts = PayloadFacts(exit_code=1, first_error="NoPsfStars: only 3 usable stars, 20 needed")
    points = series(380, 1.9 * GB, every_s=1.0)
    record = (
        '{"asctime": "2026-11-27T02:07:40Z", "levelname": "ERROR", "name": "lsst.pipe.base", "levelno": 40, '
        '"message": "Execution of task \'calibrateImage\' failed. Exception NoPsfStars: only 3 usable stars, 20 needed"}\n'
    )
    stderr = "lsst.pipe.base ERROR: Execution of task 'calibrateImage' failed.\nMPGraphExecutorError: One or more tasks failed\n"
    return tell(
        known(
            381.2,
            points,
            facts,
            first_error=facts.first_error or "",
            traceback=TRACEBACK,
            error_in="payload-log.json",
            logs=logs(stderr, log_json=record),
        )
    )


def killed_by_server() -> JobStory:
    points = series(5400, 2.2 * GB, every_s=5.0)
    facts = PayloadFacts(signal=15, stop=StopCause.SERVER_KILL)
    return tell(known(5404.0, points, facts, events=(StoryEvent(5424.0, "the server asks to kill the job"),)))


def out_of_memory() -> JobStory:
    points = series(610, 8.05 * GB, every_s=1.0, shape=lambda x: 0.1 + 0.9 * x**3, spike_at=None)
    told = limits()
    breach = Diagnosis(
        PilotError.PAYLOAD_EXCEEDED_MAX_MEM,
        f"the payload uses 8243 MB (PSS), 8000 MB allowed ({told.sources['memory_bytes']})",
    )
    facts = PayloadFacts(exit_code=137, oom_kills=1, breach=breach)
    return tell(known(612.0, points, facts, events=(StoryEvent(636.0, "above the memory limit: stopped"),)))


def preempted() -> JobStory:
    points = series(30_600, 3.0 * GB, every_s=5.0)
    facts = PayloadFacts(signal=15, stop=StopCause.PREEMPTED)
    return tell(known(30_604.0, points, facts, events=(StoryEvent(30_628.0, "the node is being taken away"),)))


def malformed() -> JobStory:
    """Nothing ran: the definition could not be read."""
    wrong = Diagnosis(PilotError.SETUP_FAILURE, "the job names no command: transformation and jobPars are empty")
    return tell(
        Known(
            attempt=ATTEMPT,
            written_at_s=ACQUIRED_AT_S + 1,
            job=MalformedJob(ATTEMPT, wrong),
            outcome=failed(wrong),
            identity=IDENTITY,
            queue_name="DOMA_LSST_DEV",
            acquired_at_s=ACQUIRED_AT_S,
            times=StageTimes(acquire_s=0.3),
            logs=(log_story("pilotlog.txt", None, b"2026-11-27T02:00:54Z ERROR pilot.job the job is malformed\n"),),
            log_url=LOG_URL,
        )
    )


def input_missing() -> JobStory:
    detail = "calib_flat_i_94.fits: not found at gs://rubin-data/user/jane/calib_flat_i_94.fits"
    told = known(0.0, (), PayloadFacts())
    return tell(
        replace(
            told,
            outcome=failed(Diagnosis(PilotError.MISSING_INPUT_FILE, detail)),
            times=StageTimes(acquire_s=0.4, stage_in_s=2.2),
            took_s={},
            isolation="",
            logs=told.logs[3:4],
        )
    )


def still_running() -> JobStory:
    points = series(3000, 2.4 * GB, every_s=5.0)
    told = known(0.0, points, PayloadFacts())
    return tell(replace(told, outcome=None, begins_s={"stage_in_s": 0.6, "payload_s": 25.0}))


def quick() -> JobStory:
    """A second's work without inputs, outputs or a container, on a node that hides PSS."""
    points = (
        UsagePoint(0.05, 3 * MB, 3 * MB, cpu_s=0.01),
        UsagePoint(0.14, 9 * MB, 9 * MB, cpu_s=0.05, disk_bytes=4096),
    )
    told = known(0.3, points, PayloadFacts(exit_code=0), isolation="D:none", image="", versions={}, took_s={})
    job = replace(JOB, inputs=(), outputs=(), resources=Resources(), name="hello")
    usage = Usage(cpu_s=0.05, max_rss_bytes=9 * MB, pss_is_rss=True)
    return tell(
        replace(told, job=job, usage=usage, times=StageTimes(acquire_s=0.2, setup_s=0.02, payload_s=0.3), begins_s={})
    )


STORIES: Mapping[str, Callable[[], JobStory]] = {
    "finished": finished,
    "failed": payload_failed,
    "killed": killed_by_server,
    "out-of-memory": out_of_memory,
    "preempted": preempted,
    "malformed": malformed,
    "input-missing": input_missing,
    "running": still_running,
    "quick": quick,
}


def poisoned(story: JobStory, poison: str) -> JobStory:
    """The story with every text of it replaced by ``poison``."""
    return cleaned(story, lambda _text: poison)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in STORIES.items():
        (folder / f"{name}.html").write_text(job_page(make()))
        print(folder / f"{name}.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
