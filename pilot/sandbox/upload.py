"""Form bodies, and the cache folder to which batch systems upload a worker's log (facts on Harvester, worker log)."""

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
    name: str
    content: bytes


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
        found[name] = UploadedFile(file_name, content) if file_name else content.decode("utf-8", "replace")
    return found


class Uploads:
    """The server's cache folder. An existing name is refused, as is a limited proxy and a body that is too large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def store(self, fields: dict[str, Any], caller: Caller) -> str | None:
        """Keep the field `file`; None, or the sentence of a refusal."""
        refusal = self._refusal(fields.get("file"), caller)
        if refusal is None:
            file: UploadedFile = fields["file"]
            (self._folder / file.name).write_bytes(file.content)
        return refusal

    def _refusal(self, file: object, caller: Caller) -> str | None:
        if caller.dn is None or caller.is_limited:
            return "SSL secure connection is required"
        if not isinstance(file, UploadedFile):
            return "Argument error: missing a required argument: 'file'"
        if not re.fullmatch(r"[\w.@+-]{1,200}", file.name) or file.name.startswith("."):
            return f"file name {file.name!r} is not allowed"
        largest = LARGEST_LOG_BYTES if file.name.endswith(".out") else LARGEST_OTHER_BYTES
        if len(file.content) > largest:
            return f"file {file.name} exceeds the limit of {largest} bytes"
        if (self._folder / file.name).exists() and not file.name.endswith("__ow__"):
            return f"file {file.name} exists already"
        return None

    def read(self, name: str) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if re.fullmatch(r"[\w.@+-]+", name) and path.is_file() else None
