"""What the stores' answers to a download have in common: the object's size, checksums and version, and where its bytes begin."""

from __future__ import annotations

import re

from pilot.storage.checksum import from_goog_hash
from pilot.storage.store import Changed, Refused, Span, StoredObject, refusal
from pilot.storage.urls import shown
from pilot.storage.wire import Response

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Download:
    """An object, or a part of one, on its way (store.Incoming)."""

    def __init__(self, response: Response, announced: StoredObject, first: int) -> None:
        self.announced = announced
        self.first = first
        self.readinto = response.readinto


def described(response: Response) -> StoredObject:
    """Size, the crc32c of ``x-goog-hash``, and the ETag as version; of the whole object, also when a part of it comes."""
    headers = response.headers
    size_text = headers.get("content-length", "")
    part = _RANGE.fullmatch(headers.get("content-range", ""))
    if part or response.status == 206:
        size_text = part.group(3) if part else ""
    etag = headers.get("etag", "")
    version = "" if etag.startswith("W/") else etag
    return StoredObject(
        int(size_text) if size_text.isdecimal() else None, from_goog_hash(headers.get("x-goog-hash", "")), version
    )


def started(
    url: str, response: Response, span: Span, version: str, announced: StoredObject | None = None, said: str = ""
) -> Download:
    """The download whose answer this is; ``version``: what was asked for. Raises what the status means."""
    if response.status == 412 and version:
        raise Changed(f"{shown(url)} was replaced while it was being read")
    if response.status == 416 and span.first:
        raise Changed(f"{shown(url)} is shorter than it was")
    if response.status not in (200, 206):
        raise refusal(url, response.status, said, response.headers.get("retry-after"))
    part = _RANGE.fullmatch(response.headers.get("content-range", ""))  # rclone sends it with a status of 200
    if response.status == 206 and part is None:
        raise Refused(f"{shown(url)}: the store sends a part without saying which")
    return Download(response, announced or described(response), int(part.group(1)) if part else 0)
