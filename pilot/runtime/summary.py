"""The summary: what a pilot did, as one JSON document that is replaced whole after each job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.runtime.files import replace_atomically


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Replace the file atomically. Raises OSError."""
    replace_atomically(path, (json.dumps(summary, indent=1) + "\n").encode())
