"""The summary: what a pilot did, as one JSON document that is replaced whole after each job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.runtime.files import replace_atomically


class Summary:
    """The file at ``path``, a line for each job. A line is made once: a pilot may do thousands of jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []

    def add(self, job: Mapping[str, Any]) -> None:
        """One more job, as JSON values."""
        self._lines.append(json.dumps(job))

    def write(self, about: Mapping[str, Any]) -> None:
        """Replace the file atomically; ``about`` the pilot are the keys beside ``jobs``. Raises OSError."""
        jobs = ",\n".join(self._lines)
        replace_atomically(self.path, f'{json.dumps(about)[:-1]}, "jobs": [\n{jobs}\n]}}\n'.encode())
