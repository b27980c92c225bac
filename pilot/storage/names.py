"""Names that come from outside (job definitions) and become parts of paths and URLs: checked before anything else."""

from __future__ import annotations

import re

MAX_LFN_BYTES = 255  # the server's column and NAME_MAX alike
SCOPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


class NameTooLong(ValueError):
    """More than 255 bytes."""


def require_plain_lfn(lfn: str) -> None:
    """Raise ValueError unless ``lfn`` is one name, not a path: no slash, no control characters, no leading dash or dots alone.

    A leading dash would turn a name into an option of a payload's tool.
    """
    if lfn in ("", ".", ".."):
        raise ValueError("it is empty or a folder")
    if "/" in lfn or not lfn.isprintable():
        raise ValueError("it has a slash or a control character in it")
    if lfn.startswith("-"):
        raise ValueError("it begins with a dash")
    if len(lfn.encode("utf-8", "surrogatepass")) > MAX_LFN_BYTES:
        raise NameTooLong(f"it has more than {MAX_LFN_BYTES} bytes")


def require_plain_scope(scope: str) -> None:
    """Raise ValueError unless ``scope`` is empty or of letters, digits, ``_``, ``-`` and ``.`` (its dots become slashes)."""
    if scope and not SCOPE.fullmatch(scope):
        raise ValueError("it has other characters than letters, digits, '_', '-' and '.'")
