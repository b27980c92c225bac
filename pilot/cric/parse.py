"""CRIC's answers, with their oddities, as typed values. Total: any JSON gives a value or one of the errors named here.

A queue or storage may come as ``{name: {...}}``, as the bare record (the PanDA server's ``.all.json``), or in a list. ``{}``
means that the name is unknown, ``{"error": ...}`` that the source says so in words. Fields come as numbers, numbers in
strings, null, ``"NULL"`` and ``"None"``, booleans in strings. A value that cannot be understood is treated as absent and
logged once, because a limit that silently vanishes is a surprise to whoever set it.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from pilot.job.endpoint import Door, Endpoint
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.queue import ContainerChoice, Queue, QueueStatus

LOG = logging.getLogger("pilot.cric")

MEGABYTE = 1 << 20  # CRIC's MB: Harvester makes Mi of them
MINUTE_S = 60
LARGEST_NUMBER = float(1 << 53)  # beyond it no size or time in CRIC means anything, and floats lose whole numbers
MAX_TEXT_CHARS = 16_384
EMPTY_WORDS = frozenset({"", "null", "none"})  # how CRIC and its clients write "nothing"
TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
DOOR_ENDPOINT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._-]+(:[0-9]{1,5})?/?", re.ASCII)
QUEUE_NAME_FIELDS = ("nickname", "name", "panda_resource", "siteid")
ENDPOINT_NAME_FIELDS = ("name", "rse", "ddm_name")
ALL_ACTIVITIES = ("read_lan", "read_wan", "write_lan", "write_wan")  # for doors that CRIC lists without activities

T = TypeVar("T")


class UnknownQueue(PilotCannotWork):
    """The source has no queue of this name (exit 71)."""

    def __init__(self, name: str, said: str = "") -> None:
        words = f" (it says: {said})" if said else ""
        super().__init__(
            ExitCode.NO_QUEUEDATA,
            f"CRIC knows no queue {name}{words}: check --queue, and that --cric names the right CRIC",
        )


class BadQueueData(PilotCannotWork):
    """What is said to be a queue cannot be used as one (exit 72)."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            ExitCode.BAD_QUEUEDATA, f"the data of queue {name} cannot be used, {problem}: check it in CRIC"
        )


class UnknownEndpoint(PilotCannotWork):
    """The source has no storage of this name (exit 71)."""

    def __init__(self, name: str, said: str = "") -> None:
        words = f" (it says: {said})" if said else ""
        super().__init__(
            ExitCode.NO_QUEUEDATA,
            f"CRIC knows no storage {name}{words}: check astorages of the queue, and that --cric names the right CRIC",
        )


class BadEndpointData(PilotCannotWork):
    """What is said to be a storage cannot be used as one (exit 72)."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            ExitCode.BAD_QUEUEDATA, f"the data of storage {name} cannot be used, {problem}: check it in CRIC"
        )


# --- queue ------------------------------------------------------------------------------------------------------------


def parse_queue(document: object, name: str) -> Queue:
    """The queue ``name`` out of a decoded JSON document. Raises UnknownQueue or BadQueueData, nothing else."""
    found = _find(document, name, QUEUE_NAME_FIELDS, ("state", "status"))
    if isinstance(found, _Unknown):
        raise UnknownQueue(name, found.said)
    if isinstance(found, str):
        raise BadQueueData(name, found)
    record = _Record(f"queue {name}", found)
    params = record.mapping("params")
    grace = _Record(f"queue {name}, params", params)
    resource = record.text("panda_resource") or record.text("siteid")
    return Queue(
        name=name,
        resource=resource or name,
        names_resource=bool(resource),
        site=record.text("atlas_site") or record.text("gstat") or record.text("site") or record.text("panda_site"),
        active=record.text("state").upper() == "ACTIVE",
        state=record.text("state"),
        status=_status(record, name),
        type=record.text("type") or "production",
        resource_type=record.text("resource_type") or "grid",
        capability=record.text("capability") or "score",
        core_count=record.limit("corecount") or 1,
        max_rss_bytes=record.limit("maxrss", MEGABYTE),
        min_rss_bytes=record.limit("minrss", MEGABYTE),
        max_workdir_bytes=record.limit("maxwdir", MEGABYTE),
        max_input_bytes=record.limit("maxinputsize", MEGABYTE),
        max_time_s=record.limit("maxtime"),
        min_time_s=record.limit("mintime"),
        time_floor_s=record.limit("timefloor", MINUTE_S) or 0,
        core_power=record.positive("corepower"),
        rss_grace=grace.factor("pilot_rss_grace", percent=100),
        workdir_grace=grace.factor("pilot_maxwdir_grace", percent=20),
        walltime_grace=grace.factor("pilot_walltime_grace", percent=0),
        containers=_containers(record),
        container_options=record.text("container_options"),
        environment=_environment(record),
        copytools=_copytools(record),
        copytool_schemes=_copytool_schemes(record),
        storages=record.name_lists("astorages"),
        allow_lan=record.flag("allow_lan", default=True),
        allow_wan=record.flag("allow_wan"),
        direct_access_lan=record.flag("direct_access_lan"),
        direct_access_wan=record.flag("direct_access_wan"),
        allow_alternative_stage_out=grace.flag("allow_altstageout"),
        has_cvmfs=record.flag("is_cvmfs"),
        workflow=record.text("workflow"),
        params=params,
        catchall=_catchall(record),
        last_modified=record.text("last_modified"),
    )


def _status(record: _Record, name: str) -> QueueStatus:
    """A status we do not know is refused: guessing that it means online would run jobs where nobody wants them."""
    word = record.text("status").lower()
    try:
        return QueueStatus(word)
    except ValueError:
        known = ", ".join(status.value for status in QueueStatus)
        raise BadQueueData(name, f"its status is {word[:40] or 'missing'} and not one of {known}") from None


def _containers(record: _Record) -> tuple[ContainerChoice, ...]:
    """``container_type``: ``name:user;name:user``; also as a list."""
    choices = []
    for entry in record.names("container_type", separators=";,"):
        runtime, _, user = entry.partition(":")
        if runtime.strip():
            choices.append(ContainerChoice(runtime.strip().lower(), user.strip().lower()))
    return tuple(choices)


def _environment(record: _Record) -> dict[str, str]:
    """``environ``: NAME=value, parted by commas, semicolons or blanks; a comma inside a value stays in it."""
    field = record.raw.get("environ")
    if isinstance(field, Mapping):
        pairs = [(_text(key), _text(value)) for key, value in field.items()]
    else:
        pairs = []
        for separator, piece in _pieces(record.text("environ"), ",; "):
            key, equals, value = piece.removeprefix("export ").partition("=")
            if equals and VARIABLE_NAME.fullmatch(key.strip()):
                pairs.append((key.strip(), value))
            elif pairs and separator == ",":
                pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{piece}")
            elif piece != "export":
                record.odd("environ", piece, "is not NAME=value, and is left out")
    return {key: _unquoted(value) for key, value in pairs if VARIABLE_NAME.fullmatch(key)}


def _catchall(record: _Record) -> dict[str, str]:
    """``catchall``: flags and key=value parted by commas, values perhaps in quotes. A flag has an empty value."""
    field = record.raw.get("catchall")
    if isinstance(field, Mapping):
        return {_text(key): _text(value) for key, value in field.items()}
    settings = {}
    for _separator, piece in _pieces(record.text("catchall"), ","):
        key, _, value = piece.partition("=")
        if key.strip():
            settings[key.strip()] = _unquoted(value.strip())
    return settings


def _copytools(record: _Record) -> dict[str, tuple[str, ...]]:
    """``acopytools``; a queue that has only the older ``copytools`` uses those for everything."""
    by_activity = record.name_lists("acopytools")
    tools = tuple(_text(tool) for tool in record.mapping("copytools"))
    return by_activity or ({"default": tools} if tools else {})


def _copytool_schemes(record: _Record) -> dict[str, dict[str, tuple[str, ...]]]:
    table = record.mapping("acopytools_schemas")
    return {
        activity: schemes
        for activity, tools in table.items()
        if (schemes := _Record(f"{record.what}, {activity}", {"tools": tools}).name_lists("tools"))
    }


# --- storage endpoint -------------------------------------------------------------------------------------------------


def parse_endpoint(document: object, name: str) -> Endpoint:
    """The storage ``name`` out of a decoded JSON document. Raises UnknownEndpoint or BadEndpointData, nothing else.

    Key names and secrets that CRIC may hold in a protocol's settings are not taken over: credentials are the pilot's own.
    """
    found = _find(document, name, ENDPOINT_NAME_FIELDS, ("arprotocols", "rprotocols"))
    if isinstance(found, _Unknown):
        raise UnknownEndpoint(name, found.said)
    if isinstance(found, str):
        raise BadEndpointData(name, found)
    record = _Record(f"storage {name}", found)
    resource = _Record(f"storage {name}, resource", record.mapping("resource"))
    doors = _doors(record)
    if not doors:
        raise BadEndpointData(name, "it has no door (no usable entry in arprotocols, rprotocols or se)")
    return Endpoint(
        name=name,
        active=record.text("state").upper() == "ACTIVE",
        state=record.text("state"),
        id=record.limit("id"),
        type=record.text("type"),
        site=record.text("site") or record.text("rc_site"),
        deterministic=record.flag("is_deterministic", default=True),
        is_object_store=record.flag("is_objectstore") or record.text("type").startswith("OS_"),
        is_tape=record.flag("is_tape"),
        is_cache=record.flag("is_cache"),
        is_volatile=record.flag("is_volatile"),
        token=record.text("token"),
        bucket=resource.text("name") or resource.text("endpoint"),
        bucket_id=resource.limit("bucket_id"),
        doors=doors,
    )


def _doors(record: _Record) -> dict[str, tuple[Door, ...]]:
    """``arprotocols``; without it the doors of ``rprotocols``, then ``se`` and ``endpoint``, for every activity."""
    doors = {}
    for activity, entries in record.mapping("arprotocols").items():
        listed = entries if isinstance(entries, list) else [entries]
        found = tuple(door for entry in listed if (door := _door(record, entry)) is not None)
        if found:
            doors[activity] = found
    if doors:
        return doors
    table = record.mapping("rprotocols")
    entries = [{"id": key} | dict(entry) for key, entry in table.items() if isinstance(entry, Mapping)]
    if not entries and record.text("se"):
        entries = [{"endpoint": record.text("se"), "path": record.text("endpoint")}]
    plain = tuple(door for entry in entries if (door := _door(record, entry)) is not None)
    return dict.fromkeys(ALL_ACTIVITIES, plain) if plain else {}


def _door(record: _Record, entry: object) -> Door | None:
    """One protocol entry; None, and a word in the log, for what is no scheme://host or climbs out of its path."""
    if not isinstance(entry, Mapping):
        record.odd("arprotocols", entry, "is not a protocol, and is left out")
        return None
    field = _Record(record.what, {str(key): value for key, value in entry.items()})
    endpoint, path = field.text("endpoint"), field.text("path")
    if not DOOR_ENDPOINT.fullmatch(endpoint) or ".." in path.split("/"):
        record.odd("arprotocols", f"{endpoint} {path}", "is not scheme://host and a path, and is left out")
        return None
    return Door(id=field.limit("id") or 0, flavour=field.text("flavour"), endpoint=endpoint.rstrip("/"), path=path)


# --- oddities ---------------------------------------------------------------------------------------------------------


class _Unknown:
    """The document says that there is nothing of this name; ``said`` are its own words, if any."""

    def __init__(self, said: str = "") -> None:
        self.said = said


def _find(
    document: object, name: str, name_fields: tuple[str, ...], own_fields: tuple[str, ...]
) -> Mapping[str, object] | _Unknown | str:
    """The record called ``name``: a mapping; _Unknown; or a text saying why the document is no such thing."""
    if isinstance(document, list):
        if not all(isinstance(entry, Mapping) for entry in document):
            return "it is a list of something else than records"
        return next((entry for entry in document if _is_named(entry, name, name_fields)), _Unknown())
    if not isinstance(document, Mapping):
        return f"it is a {_kind(document)} and not a record"
    if isinstance(document.get(name), Mapping):
        return _as_mapping(document[name])
    if document.get("error") and not any(field in document for field in own_fields):
        return _Unknown(_text(document["error"])[:200] or "error")
    if _is_named(document, name, name_fields):
        return document
    if any(field in document for field in own_fields) and not isinstance(document.get(own_fields[0]), Mapping):
        return _other_record(document, name_fields)
    return _in_values(document, name, name_fields)


def _in_values(
    document: Mapping[str, object], name: str, name_fields: tuple[str, ...]
) -> Mapping[str, object] | _Unknown | str:
    """Records keyed by something else than their name; a document without records is garbage."""
    records = [_as_mapping(value) for value in document.values() if isinstance(value, Mapping)]
    if document and not records:
        return "it holds no record"
    return next((record for record in records if _is_named(record, name, name_fields)), _Unknown())


def _other_record(document: Mapping[str, object], name_fields: tuple[str, ...]) -> Mapping[str, object] | str:
    """A bare record that is not called as we asked: without any name it is taken, another's is refused."""
    other = next((text for field in name_fields if (text := _text(document.get(field)))), "")
    return f"it is the data of {other[:100]}" if other else document


def _is_named(record: Mapping[str, object], name: str, name_fields: tuple[str, ...]) -> bool:
    """The first name field that is filled in decides."""
    return next((text for field in name_fields if (text := _text(record.get(field)))), None) == name


def _as_mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {str: "text", bool: "boolean", int: "number", float: "number", list: "list"}.get(type(value), "value")


def _text(value: object) -> str:
    """A field as one line of text; what CRIC means as nothing is empty. Control characters and surrogates become blanks."""
    if value is None or isinstance(value, Mapping | list):
        return ""
    try:
        line = "".join(char if char.isprintable() else " " for char in str(value)[:MAX_TEXT_CHARS]).strip()
    except ValueError:  # an integer with more digits than Python is willing to print
        return ""
    return "" if line.lower() in EMPTY_WORDS else line


def _number(value: object) -> float | None:
    """A finite number of a meaningful size, whether it came as one or in a string; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST_NUMBER else None


def _pieces(text: str, separators: str) -> Iterator[tuple[str, str]]:
    """The pieces of a list in one text, each with the separator before it. Separators within quotes part nothing."""
    piece, before, quote = "", "", ""
    for char in text:
        if char in separators and not quote:
            if piece.strip():
                yield before, piece.strip()
                before = ""
            piece = ""
            before = char if char != " " or not before else before
            continue
        if char in "'\"":
            quote = "" if char == quote else quote or char
        piece += char
    if piece.strip():
        yield before, piece.strip()


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


class _Record:
    """One CRIC record, read field by field; what cannot be understood is logged and treated as absent."""

    def __init__(self, what: str, raw: Mapping[str, object]) -> None:
        self.what = what
        self.raw = raw

    def odd(self, field: str, value: object, verdict: str) -> None:
        LOG.warning("%s: %s %.80r %s", self.what, field, _text(value) or _kind(value), verdict)

    def text(self, field: str) -> str:
        return _text(self.raw.get(field))

    def flag(self, field: str, default: bool = False) -> bool:
        word = self.text(field).lower()
        if word in TRUE_WORDS or word in FALSE_WORDS:
            return word in TRUE_WORDS
        if word:
            self.odd(field, word, f"is neither true nor false, taken as {str(default).lower()}")
        return default

    def positive(self, field: str) -> float | None:
        """A number above zero; None when CRIC sets none (null, absent, 0 or negative)."""
        value = self.raw.get(field)
        number = _number(value)
        if number is None and (_text(value) or isinstance(value, Mapping | list)):
            self.odd(field, value, "is not a number, taken as not set")
        return number if number is not None and number > 0 else None

    def limit(self, field: str, unit: int = 1) -> int | None:
        """A limit in whole units of one (bytes, seconds, pieces); ``unit`` is how many of them CRIC counts as one."""
        number = self.positive(field)
        return (int(number * unit) or None) if number is not None else None

    def factor(self, field: str, percent: float) -> float:
        """1 plus a grace given in percent."""
        value = self.raw.get(field)
        number = _number(value)
        if number is None and _text(value):
            self.odd(field, value, f"is not a percentage, taken as {percent}")
        if number is not None and number < 0:
            self.odd(field, value, f"is below zero, taken as {percent}")
        return 1 + (number if number is not None and number >= 0 else percent) / 100

    def mapping(self, field: str) -> Mapping[str, object]:
        value = self.raw.get(field)
        if isinstance(value, Mapping):
            return {str(key): entry for key, entry in value.items()}
        if _text(value) or (isinstance(value, list) and value):
            self.odd(field, value, "is not a table, taken as empty")
        return {}

    def names(self, field: str, separators: str = ",") -> tuple[str, ...]:
        """A list of words, as a list or in one text; trailing separators and empty entries are dropped."""
        value = self.raw.get(field)
        if isinstance(value, list):
            return tuple(word for entry in value if (word := _text(entry)))
        return tuple(word for _, piece in _pieces(self.text(field), separators) if (word := _text(piece)))

    def name_lists(self, field: str) -> dict[str, tuple[str, ...]]:
        """A table from activity to words; activities without any are dropped."""
        table = _Record(self.what, self.mapping(field))
        return {activity: words for activity in table.raw if (words := table.names(activity))}
