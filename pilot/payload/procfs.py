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
    waited_user_s: float = 0.0  # of children that ended and were waited for, and theirs
    waited_system_s: float = 0.0

    @property
    def key(self) -> tuple[int, int]:
        return (self.pid, self.started)

    @property
    def zombie(self) -> bool:
        """Dead and not collected. One whose first thread has ended is shown in the same state, and its other threads go on."""
        return self.state in "ZX" and self.threads < 2


def read_process(pid: int) -> Process | None:
    """The process with this pid, or None when there is none (any more)."""
    text = _read(f"{PROC}/{pid}/stat")
    opened, closed = text.find(b"("), text.rfind(b")")
    fields = text[closed + 2 :].split()
    if opened < 0 or len(fields) < 22:
        return None
    user_s, system_s = int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S
    vmem_bytes, rss_pages = int(fields[20]), int(fields[21])
    if vmem_bytes == 0 and int(fields[17]) > 1:
        vmem_bytes, rss_pages = _memory_of_threads(pid)
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
        vmem_bytes=vmem_bytes,
        rss_bytes=rss_pages * PAGE_BYTES,
        waited_user_s=int(fields[13]) / TICKS_PER_S,
        waited_system_s=int(fields[14]) / TICKS_PER_S,
    )


def _memory_of_threads(pid: int) -> tuple[int, int]:
    """Virtual bytes and resident pages of a process whose first thread has ended: another thread shows them."""
    for thread in _other_threads(pid):
        text = _read(f"{thread}/stat")
        fields = text[text.rfind(b")") + 2 :].split()
        if len(fields) > 21 and int(fields[20]):
            return int(fields[20]), int(fields[21])
    return 0, 0


def _other_threads(pid: int) -> list[str]:
    try:
        names = os.listdir(f"{PROC}/{pid}/task")  # noqa: PTH208
    except OSError:
        return []
    return [f"{PROC}/{pid}/task/{name}" for name in names if name != str(pid)]


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
    return assignment in _of_its_memory(pid, "environ").split(b"\0")


def environment_closed(pid: int) -> bool:
    """True when a process lives whose environment may not be read."""
    for folder in (f"{PROC}/{pid}", *_other_threads(pid)):
        try:
            Path(folder, "environ").read_bytes()
        except PermissionError:
            return True
        except OSError:
            continue
    return False


def depth(pid: int) -> int:
    """How many PID namespaces a process is in, one within the other; 0 when it is gone."""
    return len(_pids_within(pid))


def is_init(pid: int) -> bool:
    """True for the first process of its PID namespace."""
    return _pids_within(pid)[-1:] == [b"1"]


def _pids_within(pid: int) -> list[bytes]:
    _, _, pids = _read(f"{PROC}/{pid}/status").partition(b"\nNSpid:")
    return pids.split(b"\n", 1)[0].split()


def message_queue_limit_bytes(pid: int) -> int | None:
    """The hard RLIMIT_MSGQUEUE of a process; None when it has none, or is gone."""
    _, _, line = _read(f"{PROC}/{pid}/limits").partition(b"\nMax msgqueue size")
    words = line.split(b"\n", 1)[0].split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


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
    for line in _of_its_memory(pid, "smaps_rollup").splitlines():
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


def _of_its_memory(pid: int, name: str) -> bytes:
    """A file that shows a process's memory; where its first thread has ended, another thread has it."""
    for folder in (f"{PROC}/{pid}", *_other_threads(pid)):
        if text := _read(f"{folder}/{name}"):
            return text
    return b""


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
