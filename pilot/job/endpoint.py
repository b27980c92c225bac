"""The storage endpoint (RSE) as a frozen value, and the path rules that follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from pilot.job.errors import ExitCode, PilotCannotWork

GOOGLE_PUBLIC_URL = "https://storage.googleapis.com"  # <this>/<bucket>/<object> is how a browser reads a public object
MAX_OBJECT_NAME_BYTES = 1024  # Google's and S3's limit alike
DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Door:
    """One protocol of an RSE (CRIC ``arprotocols``): ``endpoint`` is scheme and host or bucket, ``path`` the base path."""

    id: int
    flavour: str
    endpoint: str
    path: str

    @property
    def scheme(self) -> str:
        return self.endpoint.partition("://")[0].lower()

    def url(self, relative: str) -> str:
        """The full URL of an object below this door; doubled slashes between the parts are folded."""
        parts = [self.endpoint.rstrip("/"), self.path.strip("/"), relative.lstrip("/")]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One RSE (CRIC ``ddmendpoint``)."""

    name: str
    active: bool
    type: str = ""
    site: str = ""
    deterministic: bool = True
    is_object_store: bool = False
    is_tape: bool = False
    is_cache: bool = False
    token: str = ""
    is_volatile: bool = False
    bucket: str = ""  # resource.name of an object store
    bucket_id: int | None = None  # resource.bucket_id
    id: int | None = None  # CRIC's number of the storage
    state: str = ""  # CRIC's own word
    doors: Mapping[str, tuple[Door, ...]] = field(default_factory=dict)  # activity -> doors, in CRIC's order


READ_ACTIVITIES = ("read_lan", "pr", "read_wan")
WRITE_ACTIVITIES = ("write_lan", "pw", "write_wan")


def doors_for(endpoint: Endpoint, activities: tuple[str, ...], schemes: tuple[str, ...]) -> tuple[Door, ...]:
    """All doors that speak one of ``schemes``, in the order of ``activities`` and then of CRIC, each door once."""
    found: list[Door] = []
    for activity in activities:
        found += [d for d in endpoint.doors.get(activity, ()) if d.scheme in schemes and d not in found]
    return tuple(found)


def deterministic_path(scope: str, lfn: str) -> str:
    """Rucio's deterministic relative path: scope with slashes for dots, two levels of md5, name (CRIC ``is_deterministic``)."""
    digest = hashlib.md5(f"{scope}:{lfn}".encode(), usedforsecurity=False).hexdigest()
    return "/".join([*(p for p in scope.split(".") if p), digest[0:2], digest[2:4], lfn])


# --- the public address of a job's logs -------------------------------------------------------------------------------


class NoPublicDoor(PilotCannotWork):
    """The RSE of the logs has neither an https door nor a bucket, so the logs would have no public URL (exit 72)."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            ExitCode.BAD_QUEUEDATA,
            f"storage {endpoint.name} has no https door for read_wan and no bucket in CRIC, so its files have no public URL: "
            "add a door in CRIC, or set log_url_base",
        )


def log_object(queue_name: str, panda_id: int, file_name: str) -> str:
    """``<queue>/PandaJob_<id>/<file>``: where a job's file lies below the RSE's path (the monitor's rule for Rubin).

    ``file_name`` is a plain name of a payload's choosing. ValueError when it cannot be one object's name: empty, a dot
    directory, with a slash, a control character or lone surrogate in it, or too long.
    """
    for part in (queue_name, file_name):
        if (
            part in ("", ".", "..")
            or "/" in part
            or any(ord(char) < 32 or 0xD800 <= ord(char) <= 0xDFFF for char in part)
        ):
            raise ValueError(f"{part!r} cannot be part of the name of a log object")
    name = f"{queue_name}/PandaJob_{panda_id}/{file_name}"
    if len(name.encode()) > MAX_OBJECT_NAME_BYTES:
        raise ValueError(f"the name of log object {name[:80]!r}... has more than {MAX_OBJECT_NAME_BYTES} bytes")
    return name


def public_url(base: str, relative: str) -> str:
    """The URL of an object below ``base`` (see ``public_base``), its name quoted: ``#%? +`` and all that is not plain."""
    return f"{base.rstrip('/')}/{_quoted(relative)}"


def public_base(endpoint: Endpoint, override: str | None = None) -> str:
    """The URL below which ``log_object`` names are readable by the public; without a trailing slash.

    ``override`` (``log_url_base``) is the URL of the *bucket* as the public sees it; the object key's prefix, that is the
    path of the RSE's bucket door (``logs``), is appended to it. Else the RSE's first web door of ``read_wan``, then of the
    other read activities (https before http), its default port dropped; else Google's public URL of the bucket.
    """
    if override:
        return _joined(override, _quoted(object_prefix(endpoint)))
    for scheme in ("https", "http"):
        for door in doors_for(endpoint, ("read_wan", "read_lan", "pr"), (scheme,)):
            return _joined(_without_default_port(door.endpoint), _quoted(door.path))
    bucket = bucket_of(endpoint)
    if not bucket:
        raise NoPublicDoor(endpoint)
    return _joined(GOOGLE_PUBLIC_URL, _quoted(bucket), _quoted(object_prefix(endpoint)))


def bucket_of(endpoint: Endpoint) -> str:
    """The name of the RSE's bucket: its gs door's host, else CRIC's ``resource.name``; empty when it has none."""
    for door in doors_for(endpoint, WRITE_ACTIVITIES + READ_ACTIVITIES, ("gs",)):
        return urlsplit(door.endpoint).netloc
    return endpoint.bucket


def object_prefix(endpoint: Endpoint) -> str:
    """The part of an object's key before ``log_object``: the path of the bucket door, without slashes around it.

    A door that is no bucket's own (https, or s3 with a host) carries the bucket as the first part of its path; it is cut off.
    """
    doors = doors_for(endpoint, WRITE_ACTIVITIES + READ_ACTIVITIES, ("gs", "s3", "https", "http"))
    for door in sorted(doors, key=lambda door: ("gs", "s3", "https", "http").index(door.scheme)):
        path = door.path.strip("/")
        if door.scheme == "gs":
            return path
        first, _, rest = path.partition("/")
        return rest if first == bucket_of(endpoint) else path
    return ""


def _joined(*parts: str) -> str:
    return "/".join(part for part in (part.strip("/") for part in parts) if part)


def _quoted(path: str) -> str:
    return quote(path, safe="/~", errors="replace")


def _without_default_port(url: str) -> str:
    """``https://host:443`` is ``https://host`` to a browser, and to the monitor's links."""
    scheme = url.partition("://")[0].lower()
    return url.rstrip("/").removesuffix(f":{DEFAULT_PORTS[scheme]}") if scheme in DEFAULT_PORTS else url
