"""A small work volume of its own: a tmpfs in a mount namespace that nobody else sees, filled and freed from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

SIZE_MIB = 64
_HOLD = 'mount -t tmpfs -o size=$1m,mode=0755 lab "$2" && echo mounted && exec cat'


class SmallVolume:
    """``with SmallVolume(folder) as volume``: ``folder`` is a tmpfs for what is started with ``volume.wrap`` before it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["unshare", *rootless, "--mount", "sh", "-c", _HOLD, "hold", str(SIZE_MIB), "."],
            cwd=folder,
            env={"PATH": os.defpath},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            self.close()
            raise OSError("a tmpfs cannot be mounted here: it takes root, or user namespaces")

    def __enter__(self) -> SmallVolume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def wrap(self) -> list[str]:
        """Put before a command, it lives on this volume."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._holder.pid), *user, "--mount"]

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def outside(self) -> Path:
        """The volume as it is reached from outside of the namespace."""
        return Path(f"/proc/{self._holder.pid}/root{self._folder}")

    def fill(self) -> None:
        """Take every byte that is left."""
        with (self.outside / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            free = os.statvfs(self.outside).f_bavail * 4096
            with contextlib.suppress(OSError):
                os.posix_fallocate(filler.fileno(), 0, free)
            while True:
                filler.write(b"x" * 4096)

    def free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.outside / "filler").unlink()

    def close(self) -> None:
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()
        try:
            self._holder.wait(5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
