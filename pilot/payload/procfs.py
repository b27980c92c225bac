"""Processes as /proc shows them: who they are, whose children, what they use. Reading only; gone processes are no error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = "/proc"
READ_BYTES = 1 << 16
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One process from /proc/<pid>/stat. ``started`` is in clock ticks since boot and tells a reused pid apart."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    started: int
    cpu_s: float
    user_s: float
    system_s: float
    threads: int
    vmem_bytes: int
    rss_bytes: int

    @property
    def key(self) -> tuple[int, int]:
        return (self.pid, self.started)

    @property
    def zombie(self) -> bool:
        return self.state in "ZX"


def read_process(pid: int) -> Process | None:
    """The process with this pid, or None when there is none (any more)."""
    text = _read(f"{PROC}/{pid}/stat")
    opened, closed = text.find(b"("), text.rfind(b")")
    fields = text[closed + 2 :].split()
    if opened < 0 or len(fields) < 22:
        return None
    user_s, system_s = int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S
    return Process(
        pid=pid,
        comm=text[opened + 1 : closed].decode("utf-8", "replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        pgrp=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        cpu_s=user_s + system_s,
        user_s=user_s,
        system_s=system_s,
        threads=int(fields[17]),
        vmem_bytes=int(fields[20]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def all_processes() -> dict[int, Process]:
    """Every process this one can see, by pid."""
    found: dict[int, Process] = {}
    for name in os.listdir(PROC):  # noqa: PTH208 - a hundred Path objects per sample are not free
        if name.isdigit():
            process = read_process(int(name))
            if process is not None:
                found[process.pid] = process
    return found


def descendants(roots: Iterable[int], processes: Mapping[int, Process]) -> list[Process]:
    """The given processes and all below them, each once."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.ppid, []).append(process.pid)
    todo, seen, found = list(roots), set[int](), list[Process]()
    while todo:
        pid = todo.pop()
        if pid in seen:
            continue
        seen.add(pid)
        if pid in processes:
            found.append(processes[pid])
        todo += children.get(pid, [])
    return found


def environment_holds(pid: int, assignment: bytes) -> bool:
    """True when the process was started with exactly this ``NAME=value``; False also when it may not be read."""
    return assignment in _read(f"{PROC}/{pid}/environ").split(b"\0")


def command_line(pid: int) -> bytes:
    """The beginning of a process's argv, its words separated by zeros; empty for a dead one."""
    return _read(f"{PROC}/{pid}/cmdline", most_bytes=READ_BYTES)


def up_s() -> float:
    """Seconds since the machine started."""
    return float(_read(f"{PROC}/uptime").split()[0])


def owner(pid: int) -> int | None:
    """The user a process runs as; None when it is gone."""
    try:
        return Path(PROC, str(pid)).stat().st_uid
    except OSError:
        return None


def no_new_privileges(pid: int) -> bool:
    return b"\nNoNewPrivs:\t1" in _read(f"{PROC}/{pid}/status")


def pss_and_swap_bytes(pid: int) -> tuple[int, int] | None:
    """Proportional set size and swap of a process, or None where the kernel does not show them to us."""
    found = {}
    for line in _read(f"{PROC}/{pid}/smaps_rollup").splitlines():
        name, _, rest = line.partition(b":")
        if name in (b"Pss", b"Swap"):
            found[name] = int(rest.split()[0]) * 1024
    return (found[b"Pss"], found.get(b"Swap", 0)) if b"Pss" in found else None


def io_bytes(pid: int) -> tuple[int, int, int, int] | None:
    """rchar, wchar, read_bytes, write_bytes of a process, or None where the kernel does not show them to us."""
    values = {}
    for line in _read(f"{PROC}/{pid}/io").splitlines():
        name, _, rest = line.partition(b":")
        values[name] = int(rest)
    if b"write_bytes" not in values:
        return None
    return values[b"rchar"], values[b"wchar"], values[b"read_bytes"], values[b"write_bytes"]


def boot_id() -> str:
    return _read(f"{PROC}/sys/kernel/random/boot_id").decode().strip()


def pid_namespace() -> int:
    """The inode of this process's PID namespace."""
    return Path(PROC, "self/ns/pid").stat().st_ino


def _read(path: str, most_bytes: int | None = None) -> bytes:
    """A /proc file whole (or its beginning), or nothing: a process may end, or be hidden from us, at any moment."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        piece = os.read(descriptor, READ_BYTES)
        if (
            len(piece) < READ_BYTES or most_bytes is not None
        ):  # the kernel gives such a file in one piece: no second call to hear that it is over
            return piece
        pieces = [piece]
        while piece := os.read(descriptor, READ_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
