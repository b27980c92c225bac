"""JSON from outside, bounded in size and depth, and files read without being led astray."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import NoReturn

MAX_DOCUMENT_BYTES = 16 << 20  # one queue has 4 kB; all of an experiment's queues together some 10 MB
MAX_DEPTH = 32  # a queue has 4 levels


class BadDocument(Exception):
    """Not the JSON we can use: no JSON, too large, too deep, an error page. The text names the source."""


def decode(body: bytes, source: str) -> object:
    """The JSON value in ``body``; ``source`` is named in the BadDocument this may raise."""
    if len(body) > MAX_DOCUMENT_BYTES:
        raise BadDocument(f"{source} has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        document: object = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadDocument(f"{source} gave no JSON but {_beginning(body)}") from None
    if not _is_shallow(document):
        raise BadDocument(f"{source} gave JSON with more than {MAX_DEPTH} levels")
    return document


def read_file(path: Path) -> bytes:
    """The bytes of a regular file, one more than allowed at most. OSError as the system says it; never blocks on a pipe."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file", str(path))
        return file.read(MAX_DOCUMENT_BYTES + 1)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _beginning(body: bytes) -> str:
    start = body[:60].decode("utf-8", "replace").strip()
    if start[:1] == "<":
        return "a web page"
    return repr(start[:40]) if start else "nothing"


def _is_shallow(document: object) -> bool:
    level = [document]
    for _depth in range(MAX_DEPTH):
        level = [
            child
            for entry in level
            if isinstance(entry, dict | list)
            for child in (entry.values() if isinstance(entry, dict) else entry)
        ]
        if not level:
            return True
    return False
