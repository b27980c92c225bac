"""A PanDA job as a frozen value: what the server asked for, with units in the names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pilot.job.errors import Diagnosis

MEGABYTE = 1 << 20  # a job definition's and the server's: minRamCount, maxDiskCount, disk_space_mb
ChecksumAlgorithm = Literal["adler32", "md5", "crc32c", "sha256"]


@dataclass(frozen=True, slots=True)
class Checksum:
    """A file's checksum: lower-case hexadecimal digits, leading zeros kept (adler32 and crc32c have 8 digits)."""

    algorithm: ChecksumAlgorithm
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexdigest}"


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One input, output or log file as the job definition declares it.

    ``rse`` is the storage endpoint to read from (``ddmEndPointIn``) or to write to (``ddmEndPointOut``); None when the
    definition says nothing or ``local``. ``size_bytes`` and ``checksum`` are known for inputs only.
    """

    lfn: str
    scope: str = ""
    guid: str | None = None
    size_bytes: int | None = None
    checksum: Checksum | None = None
    rse: str | None = None
    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What the job may use. None: the server set no limit."""

    core_count: int = 1
    min_ram_bytes: int | None = None
    max_disk_bytes: int | None = None
    max_walltime_s: int | None = None
    max_cpu_s: int | None = None


class ApiGeneration(Enum):
    """Which of the server's two pilot interfaces a job belongs to; it stays with the one it was acquired by."""

    V1 = "v1"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The identity of one attempt of one job, as every update must carry it."""

    panda_id: int
    attempt_nr: int

    def __str__(self) -> str:
        return f"{self.panda_id}.{self.attempt_nr}"


@dataclass(frozen=True, slots=True)
class Job:
    """A job definition the pilot can run.

    ``parameters`` is ``jobPars`` as sent (still base64 for ``bash-c-enc``); ``outputs`` excludes the log.
    ``allow_no_output`` names outputs that may be missing (server rule, ``allowNoOutput``).
    """

    attempt: Attempt
    task_id: int | None
    name: str
    transformation: str
    parameters: str
    prod_source_label: str
    resources: Resources
    inputs: tuple[FileSpec, ...] = ()
    outputs: tuple[FileSpec, ...] = ()
    log: FileSpec | None = None
    container_name: str | None = None
    allow_no_output: frozenset[str] = frozenset()
    looping_check: bool = True
    debug: bool = False
    processing_type: str = ""
    request_id: int | None = None

    @property
    def panda_id(self) -> int:
        return self.attempt.panda_id


@dataclass(frozen=True, slots=True)
class MalformedJob:
    """A definition that cannot be run. With an ``attempt`` it must be reported failed; without, there is nobody to report to."""

    attempt: Attempt | None
    diagnosis: Diagnosis
