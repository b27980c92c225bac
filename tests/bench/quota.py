"""A share of one core for a group of processes: a cgroup of our own below the present one, of either version."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PERIOD_US = 100_000
PROOF_S = 1.0
TOLERANCE = 0.15  # of a core, in one second of burning
_JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
_BURN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass\nprint(time.process_time())"


class NoQuota(RuntimeError):
    """This machine gives no CPU quota; the message says why."""


@dataclass(frozen=True)
class Quota:
    """A group with a share of a core; what is started with ``prefix`` before its command is in it."""

    folder: Path
    share: float

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("/bin/sh", "-c", _JOIN, str(self.folder))


@contextmanager
def cpu_quota(share: float) -> Iterator[Quota]:
    """The group, proven to hold what runs in it to its share. Raises NoQuota. Its processes must be gone at the end."""
    parent, version = _present_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    folder = parent / f"pilot-bench-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoQuota(f"no group can be made in {parent} ({error.strerror}): it needs root") from None
    try:
        try:
            _limit(folder, version, round(share * PERIOD_US))
        except OSError as error:
            raise NoQuota(f"the group {folder} takes no CPU limit ({error.strerror})") from None
        quota = Quota(folder, share)
        _prove(quota)
        yield quota
    finally:
        _remove(folder)


def _present_group(cgroup: str, mountinfo: str) -> tuple[Path, int]:
    """The folder of this process's group in the hierarchy with the cpu controller, and the hierarchy's version."""
    version, mounts = 0, ""
    path = ""
    for line in cgroup.splitlines():
        _id, controllers, group = line.split(":", 2)
        if "cpu" in controllers.split(","):
            version, path = 1, group
            break
        if controllers == "":
            version, path = 2, group
    if not version:
        raise NoQuota("this process is in no cgroup with a cpu controller")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _source, options = after.split(maxsplit=2)
        matches = kind == "cgroup" and "cpu" in options.split(",") if version == 1 else kind == "cgroup2"
        if matches:
            mounts = mount_point
            path = path.removeprefix(root) if root != "/" else path
            break
    if not mounts:
        raise NoQuota("the cpu controller's cgroups are not mounted")
    return Path(mounts) / path.lstrip("/"), version


def _limit(folder: Path, version: int, quota_us: int) -> None:
    if version == 1:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")


def _prove(quota: Quota) -> None:
    burn = [*quota.prefix, sys.executable, "-I", "-S", "-c", _BURN.format(PROOF_S)]
    done = subprocess.run(burn, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoQuota(f"nothing can be moved into {quota.folder}: {done.stderr.strip()[-200:]}")
    used = float(done.stdout) / PROOF_S
    if used > quota.share + TOLERANCE:
        raise NoQuota(f"the limit of {quota.share:g} cores in {quota.folder} does not hold: {used:.2f} were used")


def _remove(folder: Path) -> None:
    """Once its last process is reaped the kernel lets the group go, not always at once."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)
