"""What a dead pilot's payload left behind: its processes are ended, and the traces are read for the true cause."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pilot.job.errors import Diagnosis, PilotError
from pilot.payload import cgroup, procfs
from pilot.payload.environment import TRACKING_NAME
from pilot.payload.rungs import Account
from pilot.runtime.files import replace_atomically
from pilot.runtime.stop import Deadline, Stop
from pilot.runtime.workdir import JobFolder

KILL_WAIT_S = 5.0
NEAR_LIMIT = 0.9  # of the pod's memory limit: a pilot that vanished with its payload there was killed for memory
LAST_SAMPLE = "last-sample.json"


def mark(tracking_id: str, account: Account | None = None) -> dict[str, Any]:
    """What the journal keeps of a payload before it starts: JSON values. ``account``: the user it runs as, if not ours."""
    kept = {"tracking": tracking_id, "boot_id": procfs.boot_id(), "oom_kills": cgroup.oom_kill_count()}
    return kept | ({"uid": account.uid, "gid": account.gid} if account else {})


def write_last_sample(path: Path, used_bytes: int, limit_bytes: int) -> None:
    """Keep what the container uses of its memory limit; replaced, not fsynced: a killed process loses no page cache."""
    try:
        replace_atomically(
            path, json.dumps({"used_bytes": used_bytes, "limit_bytes": limit_bytes}).encode(), mode=0o600
        )
    except OSError:
        return  # a full disk; the diagnosis of a lost pilot is then less exact, and that is all


def lay_to_rest(left: Mapping[str, Any], folder: JobFolder) -> Diagnosis:
    """Kill every process that carries the payload's tracking variable, and say why its pilot is gone, as far as is known."""
    tracking = left.get("tracking")
    if isinstance(tracking, str) and tracking:
        account = Account.recorded(left)
        _kill_all(f"{TRACKING_NAME}={tracking}".encode(), account)
        if account is not None:
            account.open_to_pilot(folder.work, folder.scratch)
    return _cause(left, folder)


def _kill_all(variable: bytes, account: Account | None) -> None:
    """The tracking id is random, so nothing else can carry it. Where environments are closed to us, the user is the mark."""
    patience, pause = Deadline(KILL_WAIT_S), Stop()
    while not patience.passed():
        found = list(_carriers(variable, account))
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # gone, or a program that runs as another user
                continue
        pause.wait(0.02)


def _carriers(variable: bytes, account: Account | None) -> Iterator[int]:
    for pid, process in procfs.all_processes().items():
        if pid == os.getpid() or process.zombie:
            continue
        its_user = account is not None and procfs.owner(pid) == account.uid
        if procfs.environment_holds(pid, variable) or (its_user and procfs.environment_closed(pid)):
            yield pid


def _cause(left: Mapping[str, Any], folder: JobFolder) -> Diagnosis:
    kills = cgroup.oom_kill_count() - int(left.get("oom_kills", 0))
    if left.get("boot_id") == procfs.boot_id() and kills > 0:
        return Diagnosis(
            PilotError.PAYLOAD_OUT_OF_MEMORY,
            f"the pilot was gone and the kernel had killed {kills} of its container's processes for want of memory",
        )
    used_bytes, limit_bytes = _last_sample(folder)
    if limit_bytes and used_bytes >= NEAR_LIMIT * limit_bytes:
        return Diagnosis(
            PilotError.PAYLOAD_OUT_OF_MEMORY,
            f"pilot and payload vanished at {used_bytes >> 20} MiB of the container's limit of {limit_bytes >> 20} MiB",
        )
    return Diagnosis(PilotError.INTERNAL, "the pilot was killed while the payload was running")


def _last_sample(folder: JobFolder) -> tuple[int, int]:
    """Memory in use and its limit, in bytes, as the monitor last wrote them; zeros when it did not."""
    try:
        sample = json.loads((folder.control / LAST_SAMPLE).read_bytes()[:4096])
        return int(sample["used_bytes"]), int(sample["limit_bytes"] or 0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
