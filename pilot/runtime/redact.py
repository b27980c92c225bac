"""Secrets are taken out of every text that leaves the pilot: as they are, in base64, and in URL form."""

from __future__ import annotations

import base64
import json
import re
import threading
from urllib.parse import quote, quote_plus

from pilot.runtime.secret import Secret

MIN_SECRET_CHARS = 6  # shorter ones would black out ordinary words
MASK = "***"
# The keys of JSON credential files (Google's kinds, S3) whose values are secret.
SECRET_NAMES = frozenset(
    (
        *("private_key", "private_key_id", "client_secret", "refresh_token", "access_token", "id_token", "token"),
        *("password", "secret_key", "access_key", "secret_access_key", "access_key_id"),
    )
)


class Redactor:
    """Knows the secrets of this process and removes them from texts. Thread-safe: needles only ever grow."""

    def __init__(self) -> None:
        self._needles: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def add(self, secret: Secret) -> None:
        """Remember a secret, and each line of one that has several (a PEM file)."""
        text = secret.reveal()
        lines = [text, *text.splitlines()]
        fresh = {form for line in lines if len(line.strip()) >= MIN_SECRET_CHARS for form in _forms(line.strip())}
        with self._lock:
            self._needles = tuple(sorted(fresh | set(self._needles), key=len, reverse=True))

    def clean(self, text: str) -> str:
        for needle in self._needles:
            if needle in text:
                text = text.replace(needle, MASK)
        return text


def secret_parts(file: Secret) -> list[Secret]:
    """What is secret in a credential file: the private keys of a PEM or JSON file, the text and the values of a short mapping."""
    text = file.reveal()
    if "-----BEGIN" in text and not text.startswith("{"):
        return [
            Secret(match) for match in re.findall(r"BEGIN [A-Z ]*PRIVATE KEY-----\s(.+?)\s-----END", text, re.DOTALL)
        ]
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            return [file]
        values = [Secret(v) for name, v in document.items() if name in SECRET_NAMES and isinstance(v, str)]
        return values or [file]
    pairs = re.findall(r"^\s*\w+\s*[:=]\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    return [file, *(Secret(value) for value in pairs)]  # also whole: a token may look like a mapping (padding)


def _forms(text: str) -> set[str]:
    """The text, its URL forms, and the part of its base64 form that is the same wherever it stands in a longer text."""
    raw = text.encode("utf-8", "surrogatepass")  # variables of the environment may hold any bytes
    forms = {text, quote(raw, safe=""), quote_plus(raw), json.dumps(text)[1:-1], repr(text)[1:-1]}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode()
        core = encoded[(0, 2, 3)[offset] : (len(raw) + offset) * 8 // 6]  # the characters no neighbour has a part in
        if len(core) >= MIN_SECRET_CHARS:
            forms |= {core, core.replace("+", "-").replace("/", "_")}
    return forms
