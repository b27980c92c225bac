"""The parameters of an update: their names in both API generations, the database column, type and limit.

Source: the wire contract's section 6. `cut` columns are shortened silently; a longer text in the others makes the
database refuse the whole update (StatusCode 30).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A number beyond 64 bits overflows its column, which the server reports as a database error.
LARGEST_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Column:
    v1: str
    legacy: str
    db: str
    kind: str  # "int", "number", "text", "time"
    limit: int | None = None
    cut: bool = False


def _column(line: str) -> Column:
    v1, legacy, db, kind, *rest = line.split()
    limit = int(rest[0].rstrip("c")) if rest else None
    return Column(v1, legacy, db, kind, limit, bool(rest) and rest[0].endswith("c"))


COLUMNS = tuple(
    _column(line)
    for line in """
    node                    node                    modificationhost        text 128c
    scheduler_id            schedulerID             schedulerid             text 128
    pilot_id                pilotID                 pilotid                 text 200c
    batch_id                batchID                 batchid                 text 80c
    job_sub_status          jobSubStatus            jobsubstatus            text 80c
    start_time              startTime               starttime               time
    end_time                endTime                 endtime                 time
    core_count              coreCount               actualcorecount         int
    mean_core_count         meanCoreCount           meancorecount           int
    cpu_consumption_time    cpuConsumptionTime      cpuconsumptiontime      int
    cpu_consumption_unit    cpuConsumptionUnit      cpuconsumptionunit      text 128
    cpu_conversion_factor   cpuConversionFactor     cpuconversion           number
    cpu_architecture_level  cpu_architecture_level  cpu_architecture_level  text 20c
    max_rss                 maxRSS                  maxrss                  number
    max_vmem                maxVMEM                 maxvmem                 number
    max_swap                maxSWAP                 maxswap                 number
    max_pss                 maxPSS                  maxpss                  number
    avg_rss                 avgRSS                  avgrss                  number
    avg_vmem                avgVMEM                 avgvmem                 number
    avg_swap                avgSWAP                 avgswap                 number
    avg_pss                 avgPSS                  avgpss                  number
    tot_rchar               totRCHAR                totrchar                number
    tot_wchar               totWCHAR                totwchar                number
    tot_rbytes              totRBYTES               totrbytes               number
    tot_wbytes              totWBYTES               totwbytes               number
    rate_rchar              rateRCHAR               raterchar               number
    rate_wchar              rateWCHAR               ratewchar               number
    rate_rbytes             rateRBYTES              raterbytes              number
    rate_wbytes             rateWBYTES              ratewbytes              number
    n_events                nEvents                 nevents                 int
    n_input_files           nInputFiles             ninputfiles             int
    job_metrics             jobMetrics              jobmetrics              text 500c
    pilot_timing            pilotTiming             pilottiming             text 100
    trans_exit_code         transExitCode           transexitcode           int
    pilot_error_code        pilotErrorCode          piloterrorcode          int
    pilot_error_diag        pilotErrorDiag          piloterrordiag          text 500c
    exe_error_code          exeErrorCode            exeerrorcode            int
    exe_error_diag          exeErrorDiag            exeerrordiag            text 500c
    pilot_log               pilotLog                pilotlog                text
    stdout                  stdout                  stdout                  text 2048c
    corrupted_files         corruptedFiles          corruptedfiles          text
    grid                    grid                    grid                    text 50c
    source_site             source_site             source_site             text 36c
    destination_site        destination_site        destination_site        text 36c
    """.strip().splitlines()
)

# Columns every job row has from the start.
INITIAL_FIELDS: dict[str, Any] = {
    "piloterrorcode": 0,
    "exeerrorcode": 0,
    "ddmerrorcode": 0,
    "superrorcode": 0,
    "jobdispatchererrorcode": 0,
    "taskbuffererrorcode": 0,
    "cpuconsumptiontime": 0,
    "nevents": 0,
    "noutputdatafiles": 0,
    "outputfilebytes": 0,
}


class ColumnError(ValueError):
    """A value its column cannot hold: the update as a whole is not stored."""


def fitted(column: Column, value: Any) -> Any:
    """The value as its column keeps it, or ColumnError; None for an empty value."""
    if value is None:
        return None
    if column.kind in ("text", "time"):
        text = str(value)
        if column.limit is not None and len(text) > column.limit:
            if not column.cut:
                raise ColumnError(column.db)
            text = text[: column.limit]
        return text or None
    if not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:
        raise ColumnError(column.db)
    # The exit code's column is a text column.
    return str(value) if column.db == "transexitcode" else value
