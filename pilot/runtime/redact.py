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
    """What is secret in a credential file: the private keys of a PEM or JSON file, the values of a short mapping, else all."""
    text = file.reveal()
    if "-----BEGIN" in text and not text.startswith("{"):
        return [Secret(match) for match in re.findall(r"PRIVATE KEY-----\s(.+?)\s-----END", text, re.DOTALL)]
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            return [file]
        names = {"private_key", "private_key_id", "secret_key", "access_key"}
        return [Secret(value) for name, value in document.items() if name in names and isinstance(value, str)]
    pairs = re.findall(r"^\s*\w+\s*[:=]\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    return [Secret(value) for value in pairs] or [file]


def _forms(text: str) -> set[str]:
    """The text, its URL forms, and the part of its base64 form that is the same wherever it stands in a longer text."""
    forms = {text, quote(text, safe=""), quote_plus(text)}
    raw = text.encode()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode()
        start = (0, 2, 3)[offset]
        core = encoded[start : len(encoded) - 4 if len(raw) + offset > 3 else None].rstrip("=")
        if len(core) >= MIN_SECRET_CHARS:
            forms |= {core, core.replace("+", "-").replace("/", "_")}
    return forms
