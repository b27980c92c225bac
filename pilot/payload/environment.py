"""The exact environment of a payload, as a pure function. Nothing of the pilot's own environment is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pilot.job.model import Job
from pilot.payload.programs import DEFAULT_PATH
from pilot.runtime.secret import Secret

TRACKING_NAME = "PILOT_PAYLOAD_ID"
PAYLOAD_LOG = "payload-log.json"  # what Rubin's payloads call their JSON log (ctrl_bps_panda)
MAX_VALUE_BYTES = 120_000  # the kernel takes 128 KiB per variable
# What each run is given anew.
OF_ONE_RUN = frozenset({"HOME", "TMPDIR", "PANDAID", "PanDA_TaskID", "REALTIME_LOGFILES", TRACKING_NAME})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# CRIC describes a queue; it does not put code into every program of it.
_LOADER_NAMES = frozenset({"BASH_ENV", "ENV", "PYTHONSTARTUP", "GCONV_PATH", "SHELLOPTS", "BASHOPTS", "IFS", "PS4"})


@dataclass(frozen=True, slots=True)
class EnvironmentInput:
    """Where variables come from, weakest first: CRIC's ``environ``, data credentials, ``payload_env_set``."""

    queue: Mapping[str, str]
    credentials: Mapping[str, str | Secret]
    added: Mapping[str, str]
    s3_endpoint_url: str | None = None
    realtime_logfiles: str = PAYLOAD_LOG


@dataclass(frozen=True, slots=True)
class PayloadEnvironment:
    """The variables, and a sentence for each one that was refused."""

    values: Mapping[str, str | Secret]
    refused: tuple[str, ...] = ()

    def revealed(self) -> dict[str, str]:
        """The plain texts, for the one call that starts the process."""
        return {name: v.reveal() if isinstance(v, Secret) else v for name, v in self.values.items()}


def payload_environment(job: Job, given: EnvironmentInput, home: str, tmp: str, tracking_id: str) -> PayloadEnvironment:
    """All a payload of this job may see. ``home`` and ``tmp``: its own folders, by the names it sees them under."""
    refused: list[str] = []
    values: dict[str, str | Secret] = {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8"}
    if given.s3_endpoint_url:
        values["S3_ENDPOINT_URL"] = given.s3_endpoint_url
    # Google's S3 interface refuses the checksums that newer AWS libraries add by themselves.
    values["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    values["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"
    values.update(_accepted(given.queue, "CRIC environ", refused, trusted=False))
    values.update(_accepted(given.credentials, "payload credentials", refused))
    values.update({"HOME": home, "TMPDIR": tmp})
    values.update(_accepted(given.added, "payload_env_set", refused))
    values["PANDAID"] = str(job.panda_id)
    if job.task_id is not None:
        values["PanDA_TaskID"] = str(job.task_id)
    values["REALTIME_LOGFILES"] = given.realtime_logfiles
    values[TRACKING_NAME] = tracking_id
    return PayloadEnvironment(values, tuple(refused))


def _accepted(
    given: Mapping[str, str | Secret] | Mapping[str, str], source: str, refused: list[str], trusted: bool = True
) -> dict[str, str | Secret]:
    accepted: dict[str, str | Secret] = {}
    for name, value in given.items():
        problem = _problem(name, value, trusted)
        if problem:
            refused.append(f"{source}: {name[:80]!r} {problem}, the payload does not get it")
        else:
            accepted[name] = value
    return accepted


def _problem(name: str, value: str | Secret, trusted: bool) -> str | None:
    if not _NAME.fullmatch(name):
        return "is not a variable name"
    if not trusted and (name in _LOADER_NAMES or name.startswith("LD_")):
        return "would load code into every program"
    text = value.reveal() if isinstance(value, Secret) else value
    if "\0" in text:
        return "holds a NUL byte"
    if len(text.encode("utf-8", "surrogateescape")) > MAX_VALUE_BYTES:
        return "is too long"
    return None
