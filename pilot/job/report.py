"""What the server is told: a job's facts -> the fields of an update, in both API generations.

Lengths and types are the server's (panda-wire, section 6): v1 refuses a whole update over one wrong type, a null where
a text is expected, or a pilotTiming of more than 100 characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.states import JobState

FieldValue = str | int | float | bool

PILOT_ID_MAX_CHARS = 200
PILOT_TIMING_MAX_CHARS = 100
JOB_METRICS_MAX_CHARS = 500
NODE_MAX_CHARS = 128
BATCH_ID_MAX_CHARS = 80
DIAG_MAX_CHARS = 500
PILOT_LOG_MAX_CHARS = 1024

# v1 name -> legacy name, where they differ.
LEGACY_NAMES: Mapping[str, str] = {
    "job_id": "jobId",
    "job_status": "state",
    "attempt_nr": "attemptNr",
    "site_name": "siteName",
    "scheduler_id": "schedulerID",
    "pilot_id": "pilotID",
    "batch_id": "batchID",
    "job_sub_status": "jobSubStatus",
    "start_time": "startTime",
    "end_time": "endTime",
    "core_count": "coreCount",
    "mean_core_count": "meanCoreCount",
    "cpu_consumption_time": "cpuConsumptionTime",
    "cpu_consumption_unit": "cpuConsumptionUnit",
    "max_rss": "maxRSS",
    "max_vmem": "maxVMEM",
    "max_swap": "maxSWAP",
    "max_pss": "maxPSS",
    "avg_rss": "avgRSS",
    "avg_vmem": "avgVMEM",
    "avg_swap": "avgSWAP",
    "avg_pss": "avgPSS",
    "job_metrics": "jobMetrics",
    "pilot_timing": "pilotTiming",
    "trans_exit_code": "transExitCode",
    "pilot_error_code": "pilotErrorCode",
    "pilot_error_diag": "pilotErrorDiag",
    "exe_error_code": "exeErrorCode",
    "exe_error_diag": "exeErrorDiag",
    "job_output_report": "xml",
    "meta_data": "metaData",
    "pilot_log": "pilotLog",
}


@dataclass(frozen=True, slots=True)
class FileReport:
    """One stored output or log, as the server's Adder wants it: guid, size, adler32 are required; surl is extra.

    ``took_s``: how long it took to store it; for people.
    """

    lfn: str
    guid: str
    size_bytes: int
    adler32: str
    surl: str | None = None
    took_s: float = 0.0

    def entry(self) -> dict[str, object]:
        entry: dict[str, object] = {"guid": self.guid, "fsize": self.size_bytes, "adler32": self.adler32}
        if self.surl:
            entry["surl"] = self.surl
        return entry


@dataclass(frozen=True, slots=True)
class StagedFile:
    """An input as it lies in the work folder, verified, and how long it took to fetch it."""

    lfn: str
    size_bytes: int
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it lies in a store, verified: the URL it was written to and what was measured on the way."""

    url: str
    size_bytes: int
    adler32: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reports: constant for the whole of a job (the server compares ``batch_id``)."""

    site_name: str
    node: str
    scheduler_id: str | None = None
    batch_id: str | None = None
    batch_system: str | None = None
    version_tag: str = "PR"
    pilot_version: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a payload consumed. Memory in bytes (sums over the process tree), CPU in seconds."""

    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    max_pss_bytes: int = 0
    max_vmem_bytes: int = 0
    max_swap_bytes: int = 0
    avg_rss_bytes: int = 0
    avg_pss_bytes: int = 0
    avg_vmem_bytes: int = 0
    avg_swap_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    pss_is_rss: bool = False


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds a job spent in each stage; pilotTiming and the summary are made of it."""

    acquire_s: float = 0.0
    setup_s: float = 0.0
    stage_in_s: float = 0.0
    payload_s: float = 0.0
    stage_out_s: float = 0.0
    log_s: float = 0.0
    report_s: float = 0.0

    def pilot_timing(self) -> str:
        """``getjob|stagein|payload|stageout|initial_setup|setup`` in whole seconds, as the monitor reads it."""
        parts = (self.acquire_s, self.stage_in_s, self.payload_s, self.stage_out_s + self.log_s, 0.0, self.setup_s)
        return "|".join(str(round(part)) for part in parts)[:PILOT_TIMING_MAX_CHARS]


def pilot_id(log_url: str, identity: Identity) -> str:
    """``<log URL>|<batch system>|<version tag>|<pilot version>``; the column holds 200 characters and the URL is never cut."""
    parts = [log_url, identity.batch_system, identity.version_tag, identity.pilot_version]
    text = "|".join(part for part in parts if part)
    shorter = f"{log_url}|{identity.pilot_version}"
    return next((fit for fit in (text, shorter) if len(fit) <= PILOT_ID_MAX_CHARS), log_url)


def update_fields(attempt: Attempt, state: JobState, identity: Identity, log_url: str) -> dict[str, FieldValue]:
    """The v1 fields that every update carries, heartbeats and the final report alike."""
    fields: dict[str, FieldValue] = {
        "job_id": attempt.panda_id,
        "job_status": state.value,
        "attempt_nr": attempt.attempt_nr,
        "site_name": identity.site_name,
        "node": identity.node[:NODE_MAX_CHARS],
        "pilot_id": pilot_id(log_url, identity),
    }
    if identity.scheduler_id:
        fields["scheduler_id"] = identity.scheduler_id[:NODE_MAX_CHARS]
    if identity.batch_id:
        fields["batch_id"] = identity.batch_id[:BATCH_ID_MAX_CHARS]
    return fields


def usage_fields(usage: Usage) -> dict[str, FieldValue]:
    """Memory in kB and CPU in whole seconds, as the server's columns want them; zeros are left out."""
    kilobytes = {
        "max_rss": usage.max_rss_bytes,
        "max_pss": usage.max_pss_bytes,
        "max_vmem": usage.max_vmem_bytes,
        "max_swap": usage.max_swap_bytes,
        "avg_rss": usage.avg_rss_bytes,
        "avg_pss": usage.avg_pss_bytes,
        "avg_vmem": usage.avg_vmem_bytes,
        "avg_swap": usage.avg_swap_bytes,
    }
    fields: dict[str, FieldValue] = {name: value // 1024 for name, value in kilobytes.items() if value}
    fields["cpu_consumption_time"] = round(usage.cpu_s)
    fields["cpu_consumption_unit"] = "s"
    return fields


def output_report(files: tuple[FileReport, ...]) -> str:
    """The report of stored files: a JSON text keyed by LFN (``job_output_report``, legacy ``xml``)."""
    return json.dumps({file.lfn: file.entry() for file in files}, sort_keys=True)


def metrics_text(metrics: Mapping[str, object]) -> str:
    """``key=value key=value``, at most 500 characters; a value that does not fit is left out, never cut."""
    text = ""
    for name, value in metrics.items():
        word = "_".join(f"{name}={value}".split())
        longer = f"{text} {word}" if text else word
        text = longer if len(longer) <= JOB_METRICS_MAX_CHARS else text
    return text


def for_generation(fields: Mapping[str, FieldValue], api: ApiGeneration) -> dict[str, Any]:
    """The same update in the names of the given API generation."""
    if api is ApiGeneration.V1:
        return dict(fields)
    return {LEGACY_NAMES.get(name, name): value for name, value in fields.items()}
