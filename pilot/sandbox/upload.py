"""Form bodies, and the cache folder to which batch systems upload a worker's log (facts on Harvester, worker log).

Both generations answer a refusal with HTTP 200; the words are the servers' own, read in their sources.
"""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from pilot.sandbox.callers import Caller

LARGEST_LOG_BYTES = 100 * 1024 * 1024
LARGEST_OTHER_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of a form, and the size of the whole request: it is that which the server compares with its limit."""

    name: str
    content: bytes
    request_bytes: int


def form_fields(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a form body, url-encoded or multipart: texts, and UploadedFile for parts with a file name."""
    if not content_type.startswith("multipart/form-data"):
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        return {name: values[-1] for name, values in fields.items()}
    head = b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n"
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    found: dict[str, Any] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(content, bytes):
            continue
        file_name = part.get_filename()
        found[name] = UploadedFile(file_name, content, len(body)) if file_name else content.decode("utf-8", "replace")
    return found


class Uploads:
    """The server's cache folder. An existing name is refused, as is a limited proxy and a body that is too large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def store(self, fields: dict[str, Any], caller: Caller) -> str | None:
        """Keep the field `file`; None, or what follows ERROR in the words of a refusal."""
        file = fields["file"]
        if caller.dn is None:
            return "no HTTPS"
        if caller.is_limited:
            return "rejected due to the usage of limited proxy"
        if not isinstance(file, UploadedFile):
            return "cannot write file"
        largest = LARGEST_LOG_BYTES if file.name.endswith(".out") else LARGEST_OTHER_BYTES
        if file.request_bytes > largest:
            return f"upload failure. Exceeded size limit {file.request_bytes}>{largest}."
        path = self._folder / file.name.split("/")[-1]
        if not _safe(path.name):
            return "cannot write file"
        if path.exists() and file.name.split(".")[-1] != "__ow__":
            path.touch()
            return "cannot overwrite file"
        path.write_bytes(file.content)
        return None

    def read(self, name: str) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if _safe(name) and path.is_file() else None


def _safe(name: str) -> bool:
    return re.fullmatch(r"\w[\w.@+-]{0,199}", name, re.ASCII) is not None
