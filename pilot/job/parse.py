"""A server's job dictionary -> Job or MalformedJob. Total: whatever the server sends, a value comes back.

The dictionary is hostile input: names are checked, numbers are read from numbers or digits, and lists must fit together.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import MEGABYTE, Attempt, Checksum, ChecksumAlgorithm, FileSpec, Job, MalformedJob, Resources

LFN_MAX_CHARS = 255
TEXT_MAX_CHARS = 4 << 20  # a long jobPars is legal (long pseudo-file names); this is a bound, not a rule of the server
FILES_MAX = 10_000
INTEGER_MAX_BITS = 63
SECRET_KEYS = frozenset({"secrets", "pilotSecrets", "credname", "myproxy"})
SECRETS_MAX = 256
SECRET_MAX_CHARS = 64 << 10
# Of a job's secrets together: each is looked for in some forty forms, and a megabyte of them took minutes (measured).
SECRETS_TOTAL_CHARS = 256 << 10
_FILE_MARK = "___file___"  # of a secret's name: its value is a file in base64 (server rule)
# objects beside log.tgz
RESERVED_LOG_NAMES = frozenset({"pilotlog.txt", "payload.stdout", "payload.stderr", "replay.json"})
_NOTHING = frozenset({"", "null", "none"})
_LFN = re.compile(r"[A-Za-z0-9_.+:@#%=~-]+(?:[ A-Za-z0-9_.+:@#%=~,-]*[A-Za-z0-9_.+:@#%=~-])?", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{0,100}", re.ASCII)
_RSE = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)


class _Unfit(Exception):
    """A value of the definition does not fit; only parse_job sees this."""

    def __init__(self, detail: str, error: PilotError = PilotError.SETUP_FAILURE) -> None:
        self.diagnosis = Diagnosis(error, f"malformed job definition: {detail}")


def without_secrets(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition as it may be journalled and logged."""
    return {key: value for key, value in definition.items() if key not in SECRET_KEYS}


def secret_texts(definition: object) -> tuple[str, ...]:
    """The texts of ``secrets`` and ``pilotSecrets`` (a mapping, usually as JSON text), those in files too. Total and bounded.

    A job with more of them than are looked for is malformed, and never runs.
    """
    return tuple(_bounded(_all_secret_texts(definition)))


def _all_secret_texts(definition: object) -> Mapping[str, None]:
    if not isinstance(definition, Mapping):
        return {}
    found: dict[str, None] = {}
    for key in ("secrets", "pilotSecrets"):
        value = definition.get(key)
        if isinstance(value, str) and len(value) <= TEXT_MAX_CHARS:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass  # no JSON: the text itself is secret
        found |= dict.fromkeys(_texts_in(value, "", 8))
    return found


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    left, left_chars = SECRETS_MAX, SECRETS_TOTAL_CHARS
    for text in texts:
        if len(text) <= min(SECRET_MAX_CHARS, left_chars) and left:
            left, left_chars = left - 1, left_chars - len(text)
            yield text


def _texts_in(value: object, name: str, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if name.startswith(_FILE_MARK):
            try:
                yield base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape")
            except ValueError:
                return
    elif depth and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts_in(inner, str(key), depth - 1)
    elif depth and isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner, name, depth - 1)


def parse_job(definition: object) -> Job | MalformedJob:
    """The job of a dispatcher's dictionary (keys of panda-wire section 5), or what is wrong with it. Never raises."""
    if not isinstance(definition, Mapping):
        return MalformedJob(None, Diagnosis(PilotError.SETUP_FAILURE, "the job definition is not an object"))
    attempt = None
    try:
        attempt = _attempt(definition)
        return _job(definition, attempt)
    except _Unfit as unfit:
        return MalformedJob(attempt, unfit.diagnosis)


def _attempt(definition: Mapping[str, Any]) -> Attempt:
    panda_id = _integer(definition, "PandaID")
    if panda_id is None or not 0 < panda_id < 1 << 63:
        raise _Unfit("PandaID is missing or no positive number")
    try:
        attempt_nr = _integer(definition, "attemptNr") or 0
    except _Unfit:
        attempt_nr = 0
    return Attempt(panda_id, attempt_nr if 0 < attempt_nr < 1 << 31 else 0)


def _job(definition: Mapping[str, Any], attempt: Attempt) -> Job:
    transformation = _text(definition, "transformation")
    if not transformation:
        raise _Unfit("transformation is missing: there is no command to run")
    secrets = _all_secret_texts(definition)
    if len(secrets) > len(tuple(_bounded(secrets))):
        raise _Unfit(f"its secrets are too many or too long: {SECRETS_TOTAL_CHARS >> 10} kB of them can be kept secret")
    outputs, log = _outputs(definition)
    return Job(
        attempt=attempt,
        task_id=_integer(definition, "taskID"),
        name=_text(definition, "jobName"),
        transformation=transformation,
        parameters=_text(definition, "jobPars", keep=True),
        prod_source_label=_text(definition, "prodSourceLabel") or "managed",
        resources=_resources(definition),
        inputs=_inputs(definition),
        outputs=outputs,
        log=log,
        container_name=_text(definition, "container_name") or None,
        allow_no_output=frozenset(_list(definition, "allowNoOutput")),
        looping_check=_text(definition, "loopingCheck").lower() != "false",
        debug=_text(definition, "debug").lower() == "true",
        processing_type=_text(definition, "processingType"),
        request_id=_integer(definition, "reqID"),
    )


def _resources(definition: Mapping[str, Any]) -> Resources:
    def limit(key: str, unit: int = 1) -> int | None:
        value = _integer(definition, key)
        return value * unit if value and value > 0 else None

    return Resources(
        core_count=limit("coreCount") or 1,
        min_ram_bytes=limit("minRamCount", MEGABYTE),
        max_disk_bytes=limit("maxDiskCount", MEGABYTE),
        max_walltime_s=limit("maxWalltime"),
        max_cpu_s=limit("maxCpuCount"),
    )


def _inputs(definition: Mapping[str, Any]) -> tuple[FileSpec, ...]:
    lfns = _list(definition, "inFiles")
    column = _columns(definition, len(lfns), "scopeIn", "GUID", "fsize", "checksum", "ddmEndPointIn", "realDatasetsIn")
    return tuple(
        FileSpec(
            lfn=checked_lfn(lfn),
            scope=_scope(column("scopeIn", i)),
            guid=column("GUID", i) or None,
            size_bytes=_size(column("fsize", i), lfn),
            checksum=_checksum(column("checksum", i), lfn),
            rse=_rse(column("ddmEndPointIn", i)),
            dataset=column("realDatasetsIn", i) or None,
        )
        for i, lfn in enumerate(lfns)
    )


def _outputs(definition: Mapping[str, Any]) -> tuple[tuple[FileSpec, ...], FileSpec | None]:
    """The outputs, and the log apart: ``outFiles`` includes the log while ``scopeOut`` does not (server rule)."""
    lfns = _list(definition, "outFiles")
    log_lfn = _text(definition, "logFile")
    column = _columns(definition, len(lfns), "ddmEndPointOut", "realDatasets")
    scopes = _list(definition, "scopeOut", blanks=True)
    outputs: list[FileSpec] = []
    log: FileSpec | None = None
    for i, lfn in enumerate(lfns):
        scope = scopes[len(outputs)] if lfn != log_lfn and len(outputs) < len(scopes) else ""
        file = FileSpec(
            lfn=checked_lfn(lfn),
            scope=_scope(_text(definition, "scopeLog") if lfn == log_lfn else scope),
            guid=(_text(definition, "logGUID") or None) if lfn == log_lfn else None,
            rse=_rse(column("ddmEndPointOut", i)),
            dataset=column("realDatasets", i) or None,
        )
        if lfn == log_lfn:
            log = file
        else:
            outputs.append(file)
    if log_lfn and log is None:
        log = FileSpec(
            checked_lfn(log_lfn), _scope(_text(definition, "scopeLog")), guid=_text(definition, "logGUID") or None
        )
    if log_lfn in RESERVED_LOG_NAMES:
        raise _Unfit(f"logFile {log_lfn} is the name of one of the pilot's own logs", PilotError.BAD_OUTPUT_FILE_NAME)
    if any(scopes) and len(scopes) != len(outputs):
        raise _Unfit(f"scopeOut has {len(scopes)} entries for {len(outputs)} outputs")
    names = [file.lfn for file in outputs]
    if len(set(names)) != len(names):
        raise _Unfit("outFiles names a file twice")
    return tuple(outputs), log


def checked_lfn(lfn: str) -> str:
    """A file name that is safe as one component of a path; raises (inside parse_job) for anything else."""
    if len(lfn) > LFN_MAX_CHARS:
        raise _Unfit(f"LFN of {len(lfn)} characters", PilotError.LFN_TOO_LONG)
    if lfn in (".", "..") or lfn.startswith("-") or not _LFN.fullmatch(lfn):
        shown = lfn[:80].encode("unicode_escape").decode()
        raise _Unfit(f"LFN {shown!r} is not a plain file name", PilotError.BAD_OUTPUT_FILE_NAME)
    return lfn


def _columns(definition: Mapping[str, Any], rows: int, *keys: str) -> Any:
    """A look-up (key, row) over parallel lists; a list that is neither absent nor as long as the files is refused."""
    lists = {key: _list(definition, key, blanks=True) for key in keys}
    for key, values in lists.items():
        if any(values) and len(values) != rows:
            raise _Unfit(f"{key} has {len(values)} entries for {rows} files")

    def column(key: str, row: int) -> str:
        values = lists[key]
        return values[row] if row < len(values) else ""

    return column


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text) or ".." in text:
        raise _Unfit(f"scope {text[:60]!r} has illegal characters")
    return text


def _rse(text: str) -> str | None:
    if not text or text.lower() == "local":
        return None
    if not _RSE.fullmatch(text):
        raise _Unfit(f"storage endpoint {text[:60]!r} has illegal characters")
    return text


def _size(text: str, lfn: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise _Unfit(f"fsize of {lfn[:60]!r} is no number of bytes")
    return int(text)


def _checksum(text: str, lfn: str) -> Checksum | None:
    """``ad:<8 hex>``, ``md5:<32 hex>``, or the bare digits."""
    if not text:
        return None
    prefix, _, digits = text.rpartition(":")
    digits = digits.lower()
    if not re.fullmatch(r"[0-9a-f]+", digits):
        raise _Unfit(f"checksum of {lfn[:60]!r} is not hexadecimal", PilotError.UNKNOWN_CHECKSUM_TYPE)
    algorithm: ChecksumAlgorithm
    if prefix in ("ad", "adler32", "") and len(digits) <= 8:
        return Checksum("adler32", digits.zfill(8))
    if prefix in ("md5", "") and len(digits) == 32:
        algorithm = "md5"
        return Checksum(algorithm, digits)
    raise _Unfit(f"checksum of {lfn[:60]!r} is of an unknown kind", PilotError.UNKNOWN_CHECKSUM_TYPE)


def _text(definition: Mapping[str, Any], key: str, *, keep: bool = False) -> str:
    """A text; the server's ways of saying nothing (NULL, None, null) become the empty text."""
    value = definition.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float | bool):
        raise _Unfit(f"{key} is no text")
    if isinstance(value, int) and value.bit_length() > INTEGER_MAX_BITS:
        raise _Unfit(f"{key} is no sensible number")
    text = str(value)
    if len(text) > TEXT_MAX_CHARS:
        raise _Unfit(f"{key} is longer than {TEXT_MAX_CHARS} characters")
    if "\0" in text:
        raise _Unfit(f"{key} contains a NUL character")
    if not text.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise _Unfit(f"{key} is no valid Unicode text")  # a lone surrogate: it could be written to no file
    stripped = text.strip()
    if stripped.lower() in _NOTHING:
        return ""
    return text if keep else stripped


def _integer(definition: Mapping[str, Any], key: str) -> int | None:
    value = definition.get(key)
    if isinstance(value, bool):
        raise _Unfit(f"{key} is no number")
    if isinstance(value, float):
        if value != value or abs(value) > 1e15:
            raise _Unfit(f"{key} is no sensible number")
        return int(value)
    if isinstance(value, int):
        if value.bit_length() > INTEGER_MAX_BITS:
            raise _Unfit(f"{key} is no sensible number")
        return value
    text = _text(definition, key)
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,19}(\.0*)?", text):
        raise _Unfit(f"{key} is no number")
    return int(text.partition(".")[0])


def _list(definition: Mapping[str, Any], key: str, *, blanks: bool = False) -> tuple[str, ...]:
    """A comma-joined list. With ``blanks`` empty entries keep their place, so that parallel lists stay parallel."""
    text = _text(definition, key)
    if not text:
        return ()
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) > FILES_MAX:
        raise _Unfit(f"{key} has more than {FILES_MAX} entries")
    entries = ["" if entry.lower() in _NOTHING else entry for entry in entries]
    return tuple(entries if blanks else [entry for entry in entries if entry])
