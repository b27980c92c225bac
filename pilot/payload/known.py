"""What was found out about containers on this node, kept on the work volume: a restarted pilot need not try it again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pilot.payload import procfs
from pilot.payload.apptainer import Mode
from pilot.payload.rungs import effective_capabilities
from pilot.runtime.files import replace_atomically

NAME = "containers.json"


class KnownModes:
    """How containers start here, by "is the image a folder". Valid for this boot, this runtime and this pilot's rights."""

    def __init__(self, volume: Path, runtime: Path) -> None:
        self._path = volume / NAME
        status = runtime.stat()
        # a new version is a new file; asking the runtime itself would take as long as a probe of plain programs
        version = f"{runtime} {status.st_size} {status.st_mtime_ns}"
        self._valid_for = f"{procfs.boot_id()} {version} {os.geteuid()} {effective_capabilities():x}"

    def read(self) -> dict[bool, Mode]:
        """Empty when nothing is known, or nothing that is still valid."""
        try:
            kept = json.loads(self._path.read_bytes()[:4096])
            if kept["valid_for"] != self._valid_for:
                return {}
            return {name == "folder": Mode(bool(m[0]), bool(m[1])) for name, m in kept["modes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return {}

    def write(self, modes: dict[bool, Mode]) -> None:
        """A volume that takes nothing is no reason to fail."""
        named = {"folder" if folder else "SIF": [m.user_namespace, m.own_proc] for folder, m in modes.items()}
        text = json.dumps({"valid_for": self._valid_for, "modes": named})
        try:
            replace_atomically(self._path, text.encode(), mode=0o600)
        except OSError:
            return
