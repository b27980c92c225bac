"""Secrets: one type that shows itself to nobody, read from files and re-read when they change."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

MAX_SECRET_FILE_BYTES = 1 << 20


class Secret:
    """A text that must not appear in logs, reports or tracebacks; ``reveal`` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell two secrets apart in a log without telling either."""
        return hashlib.sha256(self._text.encode("utf-8", "surrogatepass")).hexdigest()[:8]

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


_told: list[Callable[[Secret], None]] = []


def tell_of_secrets(listener: Callable[[Secret], None]) -> None:
    """From now on ``listener`` (the redactor) hears of every credential that is read, renewed or received."""
    _told[:] = [listener]


def came_to_know(secret: Secret) -> None:
    """Announce a credential: the text of a file, or a token a server gave us."""
    for listener in _told:
        listener(secret)


class SecretFile:
    """A secret that lives in a file and may be rotated under us (kubelet replaces mounted secrets)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._secret = Secret("")

    def changed(self) -> bool:
        """True when the file is not the one last read (device, inode, mtime); OSError when it cannot be looked at."""
        status = self.path.stat()
        return (status.st_ino, status.st_mtime_ns, status.st_size) != self._seen

    def read(self) -> Secret:
        """The file's text without surrounding blanks, read anew when the file changed. Raises OSError."""
        if self.changed():
            # not waiting at a pipe that somebody named as the file
            with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(f"{self.path} is not a regular file")
                text = file.read(MAX_SECRET_FILE_BYTES).decode("utf-8", "replace").strip()
            self._secret = Secret(text)
            came_to_know(self._secret)
            self._seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        return self._secret
