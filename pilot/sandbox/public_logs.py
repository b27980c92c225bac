"""What lies in the log bucket for a job, read straight from the store: past its front, its ledger and its faults."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit

from pilot.sandbox.cric_server import LOG_BUCKET

TIMEOUT_S = 5.0
MOST_OBJECTS = 200
LARGEST_OBJECT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LogObject:
    """One object beside a job's log: its plain name and size."""

    name: str
    size_bytes: int


class PublicLogs:
    """Reads the objects of one job after another. Nothing but the log bucket can be reached, whatever a job's URL says."""

    def __init__(self, port: int, ca: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca))

    def listing(self, log_url: str | None) -> tuple[LogObject, ...]:
        """The objects in the folder of a job's log, by name; none when the URL is not one of this bucket."""
        folder = folder_of(log_url)
        if folder is None:
            return ()
        query = urlencode({"prefix": folder, "delimiter": "/", "maxResults": MOST_OBJECTS})
        status, body = self._get(f"/storage/v1/b/{LOG_BUCKET}/o?{query}")
        if status != 200:
            return ()
        items = json.loads(body).get("items") or []
        found = [LogObject(str(item["name"]).removeprefix(folder), int(item["size"])) for item in items]
        return tuple(sorted((entry for entry in found if entry.name), key=lambda entry: entry.name))

    def read(self, log_url: str | None, name: str, last_bytes: int | None = None) -> bytes | None:
        """The object of that name beside a job's log, or its last bytes; None when there is none."""
        path = object_path(log_url, name)
        if path is None:
            return None
        headers = {} if last_bytes is None else {"Range": f"bytes=-{last_bytes}"}
        status, body = self._get(path, headers)
        if status not in (200, 206):
            return None
        return body if last_bytes is None else body[-last_bytes:]

    def _get(self, target: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        store = http.client.HTTPSConnection("localhost", self._port, timeout=TIMEOUT_S, context=self._context)
        try:
            store.request("GET", target, headers=headers or {})
            response = store.getresponse()
            return response.status, response.read(LARGEST_OBJECT_BYTES)
        except (OSError, http.client.HTTPException):
            return 502, b""
        finally:
            store.close()


def object_path(log_url: str | None, name: str) -> str | None:
    """The path at the store of the object of that name beside a log; None when that would not be in the log bucket."""
    folder = folder_of(log_url)
    if folder is None or "/" in name or name in ("", ".", ".."):
        return None
    return f"/{LOG_BUCKET}/{quote(folder + name)}"


def folder_of(log_url: str | None) -> str | None:
    """The folder of a log in the bucket, with its slash at the end; None for any other URL."""
    try:
        path = unquote(urlsplit(log_url or "").path)
    except ValueError:
        return None
    bucket, _, name = path.lstrip("/").partition("/")
    folder = name.rpartition("/")[0]
    if bucket != LOG_BUCKET or not folder or any(part in ("", ".", "..") for part in folder.split("/")):
        return None
    return f"{folder}/"
