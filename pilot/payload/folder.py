"""The payload's places in a job's folder (pilot/runtime/workdir.py has the rest)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pilot.job.errors import PayloadError, PilotError
from pilot.runtime.workdir import JobFolder


@dataclass(frozen=True, slots=True)
class PayloadPlaces:
    """``work`` is the payload's current folder (``/srv`` in a container): inputs are staged there, outputs found there."""

    folder: JobFolder

    @property
    def work(self) -> Path:
        return self.folder.work

    @property
    def stdout(self) -> Path:
        return self.folder.logs / "payload.stdout"

    @property
    def stderr(self) -> Path:
        return self.folder.logs / "payload.stderr"

    @property
    def control(self) -> Path:
        return self.folder.control

    @property
    def scratch(self) -> Path:
        """What a container sees as ``/tmp`` and ``/var/tmp`` lies here; removed with the folder, in no log archive."""
        return self.folder.root / "tmp"

    @property
    def tmp(self) -> Path:
        """The payload's TMPDIR; ``/tmp`` in a container."""
        return self.scratch / "tmp"

    @property
    def home(self) -> Path:
        return self.tmp / "home"

    def create(self) -> None:
        """Make the folders. Raises PayloadError 1199."""
        for path in (self.work, self.folder.logs, self.control, self.scratch, self.tmp, self.home):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise PayloadError(PilotError.MKDIR, f"{path}: {error.strerror}") from error
