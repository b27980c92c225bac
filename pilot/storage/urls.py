"""URLs of objects: taking them apart, putting them together, showing them.

``s3://``, ``gs://`` and ``file://`` URLs hold the name of the object as it is, without percent-encoding (what gsutil, the
aws client and Rucio do); ``https://`` URLs are percent-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from pilot.job.endpoint import Door


def scheme_of(url: str) -> str:
    """``gs``, ``s3``, ``https``, ...; ``file`` for an absolute path; empty for what is neither."""
    if url.startswith("/"):
        return "file"
    scheme, separator, _rest = url.partition("://")
    return scheme.lower() if separator else ""


def shown(url: str) -> str:
    """The URL for messages: without user, password, query and fragment (a query may hold a signature), at most 300 chars."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        rest = rest.partition("?")[0].partition("#")[0]
        host, slash, path = rest.partition("/")
        rest = host.rpartition("@")[2] + slash + path
    text = f"{scheme}{separator}{rest}"[:300]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object of a bucket store."""

    bucket: str
    key: str


def object_name(url: str, endpoint: str = "") -> ObjectName | None:
    """Bucket and key of ``s3://bucket/key`` or ``gs://bucket/key``; None when either is missing.

    Some CRIC doors name the server and not the bucket (``s3://storage.googleapis.com:443/bucket/key``): when the first
    part is the host of ``endpoint``, the bucket is the next.
    """
    first, _slash, rest = url.partition("://")[2].partition("/")
    server = urlsplit(endpoint)
    if server.netloc and first in (server.netloc, server.hostname, f"{server.hostname}:443"):
        first, _slash, rest = rest.lstrip("/").partition("/")
    return ObjectName(first, rest) if first and rest else None


def local_path(url: str) -> str:
    """The absolute path of ``file:///path``, ``file://localhost/path`` or ``/path``; empty when it is none of them."""
    if url.startswith("/"):
        return url
    host, slash, path = url.partition("://")[2].partition("/")
    return f"/{path}" if slash and host in ("", "localhost") else ""


def door_url(door: Door, relative: str) -> str:
    """The URL of an object below a door of an RSE; ``relative`` is its plain name."""
    return door.url(quote(relative) if door.scheme in ("http", "https") else relative)
