"""What the pod's control group says: how often the memory guard struck, and the memory limit. Versions 1 and 2, read only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
UNLIMITED_BYTES = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


def oom_kill_count(root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Processes of this control group the kernel has killed for want of memory so far; 0 where it does not say."""
    for folder in _memory_folders(root, membership):
        for name in ("memory.events", "memory.oom_control"):
            for line in _text(folder / name).splitlines():
                word, _, number = line.partition(" ")
                if word == "oom_kill" and number.strip().isdigit():
                    return int(number)
    return 0


def memory_limit_bytes(root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """The control group's memory limit in bytes; None: no limit, or it cannot be read."""
    for folder in _memory_folders(root, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name).strip()
            if text.isdigit() and int(text) < UNLIMITED_BYTES:
                return int(text)
    return None


def _memory_folders(root: Path, membership: Path) -> Iterator[Path]:
    """Where our group may be seen: by its path, or, inside a cgroup namespace as pods have it, at the root."""
    for line in _text(membership).splitlines():
        _number, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        below = path.lstrip("/")
        if controllers == "":
            yield root / below
        elif "memory" in controllers.split(","):
            yield root / "memory" / below
            yield root / "memory"
    yield root


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
