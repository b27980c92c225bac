"""What the control group says of memory: the limit, what is used of it, and how often the kernel struck. Versions 1 and 2.

Read only: in a pod the tree is not ours to write, and shows the whole container, pilot and payload together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED_BYTES = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group with a memory limit, in bytes: our own or the one above it that is tighter."""

    folder: Path
    limit_bytes: int

    def used_bytes(self) -> int | None:
        """What counts against the limit and cannot be dropped at once: usage without inactive file pages. None: unreadable.

        The kernel kills when it can reclaim no more; file pages nobody uses it reclaims first (kubelet counts alike).
        """
        used, dropped = _number(f"{self.folder}/memory.current"), "inactive_file"
        if used is None:
            used, dropped = _number(f"{self.folder}/memory.usage_in_bytes"), "total_inactive_file"
        if used is None:
            return None
        return max(0, used - (_counter(f"{self.folder}/memory.stat", dropped) or 0))


def memory_group(root: Path = ROOT, membership: Path = MEMBERSHIP) -> MemoryGroup | None:
    """The group whose memory limit binds this process; None: no limit, or none that can be read."""
    limited = []
    for folder in _memory_folders(root, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(f"{folder}/{name}")
            if limit is not None and limit < UNLIMITED_BYTES:
                limited.append(MemoryGroup(Path(folder), limit))
    return min(limited, key=lambda group: group.limit_bytes, default=None)


def memory_limit_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """The memory limit that binds this process, in bytes; None: no limit, or it cannot be read."""
    group = memory_group(root, membership)
    return group.limit_bytes if group else None


def oom_kill_count(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Processes of our own control group the kernel has killed for want of memory so far; 0 where it does not say.

    Version 1 counts in the group of the killed process alone, version 2 in those above it too: the own group has it in both.
    """
    for folder in _memory_folders(root, membership):
        for name in ("memory.events", "memory.oom_control"):
            count = _counter(f"{folder}/{name}", "oom_kill")
            if count is not None:
                return count
    return 0


def _memory_folders(root: Path, membership: Path) -> Iterator[str]:
    """Our group and those above it, by its path; inside a cgroup namespace, as pods have it, that is the root alone.

    In a pod without such a namespace the path is the node's, the tree is mounted at our own group, and only the root exists.
    """
    for line in _text(str(membership)).splitlines():
        _hierarchy, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers == "":
            base = str(root)
        elif "memory" in controllers.split(","):
            base = f"{root}/memory"
        else:
            continue
        names = [name for name in path.split("/") if name]
        if ".." not in names:
            yield from ("/".join((base, *names[:depth])) for depth in range(len(names), 0, -1))
        yield base


def _counter(path: str, name: str) -> int | None:
    """The number behind a word in a file of ``word number`` lines."""
    for line in _text(path).splitlines():
        word, _, number = line.partition(" ")
        if word == name and number.strip().isdigit():
            return int(number)
    return None


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: str) -> str:
    """What a file says; nothing where there is none. Asked often: plain calls, no Path and no text layer."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall().decode("ascii", "replace")
    except OSError:
        return ""
