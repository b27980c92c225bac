"""A payload's processes: wait, stop for certain, reap, account. It ends only what belongs to the job.

What belongs to a job is found by four marks: descent from the payload, its session, the tracking variable in its
environment, and, for processes that shed all three, adoption: this process is a child subreaper, so an orphan of the
payload becomes its child, recognised by a session that is not the pilot's own (no process can join an existing one).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from pilot.job.errors import PayloadError, PilotError
from pilot.payload import procfs
from pilot.payload.environment import TRACKING_NAME
from pilot.payload.procfs import Process
from pilot.payload.programs import DEFAULT_PATH
from pilot.payload.rungs import Account
from pilot.payload.start import Launch, queue_mark_bytes, start
from pilot.runtime.clock import monotonic_s
from pilot.runtime.pulse import wait_for
from pilot.runtime.stop import Deadline, Stop, StopKind, StopReason

_PR_SET_CHILD_SUBREAPER = 36
KILL_WAIT_S = 5.0  # for a process to vanish after SIGKILL; only one stuck in the kernel takes longer
INIT_WAIT_S = 2.0
# What carries a container: not the payload's, and not to be ended before it.
CONTAINER_COMMS = frozenset(
    {"appinit", "starter", "starter-suid", "squashfuse_ll", "fuse-overlayfs", "apptainer", "singularity"}
)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Enough to know a process again after the pilot itself has died: a pid alone may be another's by then."""

    pid: int
    started: int
    boot_id: str
    pid_namespace: int


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How it ended: exactly one of exit code and signal, CPU seconds of the tree, what had to be killed afterwards."""

    exit_code: int | None
    signal: int | None
    cpu_s: float
    max_single_rss_bytes: int
    wall_s: float
    stopped_by: StopReason | None
    swept: int
    survivors: tuple[int, ...]


# Sleeps until the pilot lets go of its pipe. "done": the job has ended. End of file: the pilot died (SIGKILL, crash), so
# everything that carries the job's tracking variable is killed. A parent-death signal alone would not do: a container
# runtime loses it when it enters its user namespace, and it reaches one process only. Where the payload has a user of its
# own ($2) whose environments are closed to us, that user is the mark.
_GUARD = """
read -r word
[ "$word" = done ] && exit 0
rounds=0
while [ $rounds -lt 50 ]; do
    found=$(printf '%s\\0' /proc/[0-9]*/task/*/environ | xargs -0 grep -lzxF -- "$1" 2>/dev/null)
    closed=
    [ -z "$2" ] || for file in $(find /proc -maxdepth 1 -uid "$2" -name '[0-9]*' 2>/dev/null); do
        head -c 1 "$file/environ" >/dev/null 2>&1 || closed="$closed $file/environ"
    done
    [ -n "$found$closed" ] || exit 0
    for file in $found $closed; do
        pid=${file#/proc/}
        kill -KILL "${pid%%/*}" 2>/dev/null
    done
    rounds=$((rounds + 1))
    sleep 0.05
done
"""

_own_children: set[int] = set()
_own_children_lock = threading.Lock()


def register_child(pid: int) -> None:
    """Declare a child that another part started in a session of its own, so that it is neither killed nor reaped here."""
    with _own_children_lock:
        _own_children.add(pid)


def release_child(pid: int) -> None:
    with _own_children_lock:
        _own_children.discard(pid)


def become_subreaper() -> None:
    """Let orphans of our descendants become our children (Linux ``PR_SET_CHILD_SUBREAPER``); done once, costs nothing."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopted(process: Process) -> bool:
    """True for a child we did not start: ours are registered, or share our session (subprocess without a new one)."""
    with _own_children_lock:
        return process.pid not in _own_children and process.session != os.getsid(0)


def collect(pid: int) -> float | None:
    """CPU seconds of a dead child, now reaped; None when it is not dead or not ours."""
    try:
        done, _status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return usage.ru_utime + usage.ru_stime if done else None


class Guard:
    """A small shell that outlives a dead pilot just long enough to end the payload it leaves behind."""

    def __init__(self, tracking: str, account: Account | None = None) -> None:
        shell = shutil.which("sh", path=DEFAULT_PATH) or "/bin/sh"
        read_end, self._write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                (shell, "-c", _GUARD, "pilot-guard", tracking, str(account.uid) if account else ""),
                env={"PATH": DEFAULT_PATH},
                cwd="/",
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                close_fds=True,
            )
        except BaseException:
            os.close(self._write_end)
            raise
        finally:
            os.close(read_end)
        register_child(self._process.pid)

    def dismiss(self) -> None:
        """The job has ended as it should: let the guard go."""
        try:
            os.write(self._write_end, b"done\n")
        except OSError:
            pass
        os.close(self._write_end)
        try:
            self._process.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        release_child(self._process.pid)


class PayloadProcess:
    """A running payload; to be made on the main thread."""

    def __init__(self, launch: Launch) -> None:
        self._tracking = f"{TRACKING_NAME}={launch.tracking_id}".encode()
        self._seen: set[tuple[int, int]] = set()
        self._seen_lock = threading.Lock()
        self._adopted_cpu_s = 0.0
        self._exited, self._watched = threading.Event(), False
        self._account = launch.account
        self.started_at_s = monotonic_s()
        self._guard = Guard(f"{TRACKING_NAME}={launch.tracking_id}", launch.account)
        try:
            self._process = start(launch)
        except BaseException:
            self._guard.dismiss()
            raise
        self.pid = self._process.pid
        register_child(self.pid)
        me = procfs.read_process(self.pid)
        self.started = me.started if me else 0

    @property
    def exited(self) -> bool:
        """True once the main process has ended by itself or by our hand."""
        return self._exited.is_set()

    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started, procfs.boot_id(), procfs.pid_namespace())

    # --- whose is it --------------------------------------------------------------------------------------------------

    def members(self, processes: Mapping[int, Process] | None = None) -> list[Process]:
        """Every living or dead-but-uncollected process of this job that can be seen now, and remember them."""
        if processes is None:
            processes = procfs.all_processes()
        roots = {self.pid} | {p.pid for p in processes.values() if self._marked(p)}
        found = [p for p in procfs.descendants(roots, processes) if p.pid != os.getpid()]
        with self._seen_lock:
            self._seen = {key for key in self._seen if key[0] in processes} | {p.key for p in found}
        return found

    def _marked(self, process: Process) -> bool:
        if process.session == self.pid or process.key in self._seen:
            return True
        if process.started < self.started or process.session == os.getsid(0):
            return False
        return (process.ppid == os.getpid() and self._ours_by_adoption(process)) or (
            procfs.environment_holds(process.pid, self._tracking)
        )

    def _ours_by_adoption(self, process: Process) -> bool:
        """A subreaper adopts descendants alone. PID 1 adopts strangers too, so there a second mark is needed.

        Where the whole pod has no new privileges that mark is a limit, which can be lowered further and never raised again.
        """
        if not adopted(process):
            return False
        if os.getpid() != 1:
            return True
        if self._account is not None:
            return procfs.owner(process.pid) == self._account.uid
        if not procfs.no_new_privileges(1):
            return procfs.no_new_privileges(process.pid)
        limit_bytes = procfs.message_queue_limit_bytes(process.pid)
        return limit_bytes is not None and limit_bytes <= queue_mark_bytes()

    def collect_orphans(self, members: list[Process]) -> None:
        """Reap the job's dead orphans that became our children, and count their CPU time."""
        for process in members:
            if process.zombie and process.ppid == os.getpid() and process.pid != self.pid:
                self._adopted_cpu_s += collect(process.pid) or 0.0

    # --- to the end ---------------------------------------------------------------------------------------------------

    def watch(self, scope: Stop) -> threading.Thread:
        """Start the thread that stops ``scope`` with PAYLOAD_DONE the moment the payload's main process has ended."""

        def wait_for_exit() -> None:
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            finally:
                self._exited.set()
                scope.request(StopReason(StopKind.PAYLOAD_DONE))

        thread = threading.Thread(target=wait_for_exit, name="payload-exit", daemon=True)
        thread.start()
        self._watched = True
        return thread

    def _ends_within(self, bound_s: float) -> bool:
        """Wait for the main process's end, also where no thread could be started to watch it."""
        if self._watched:
            return self._exited.wait(bound_s)
        patience, pause = Deadline(bound_s), threading.Event()
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if patience.passed():
                return False
            pause.wait(0.01)
        self._exited.set()
        return True

    def stop_all(self, grace_s: float) -> None:
        """SIGTERM, ``grace_s`` seconds of patience, then SIGKILL: container init first, so that nothing is orphaned."""
        patience = Deadline(grace_s)
        if grace_s > 0:
            self._ask_all()
            if wait_for(self._exited, patience.left_s()):
                self._let_the_rest_finish(patience)
                return
        for process in self.members():
            if process.comm == "appinit":
                _send(process, signal.SIGKILL)
        if not self._ends_within(INIT_WAIT_S if self._contained() else 0):
            self._signal_group(signal.SIGKILL)
            self._ends_within(KILL_WAIT_S)

    def _ask_all(self) -> None:
        """SIGTERM to the process group, and to members that left it; never to what carries the container itself."""
        self._signal_group(signal.SIGTERM)
        for process in self.members():
            if process.pgrp != self.pid and process.comm not in CONTAINER_COMMS:
                _send(process, signal.SIGTERM)

    def _contained(self) -> bool:
        return any(process.comm == "appinit" for process in self.members())

    def _let_the_rest_finish(self, patience: Deadline) -> None:
        """The main process obeyed SIGTERM; its children may still be writing their last lines."""
        pause = threading.Event()
        while not patience.passed() and any(not p.zombie for p in self.members() if p.pid != self.pid):
            wait_for(pause, 0.02)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._exited.is_set() and procfs.read_process(self.pid) is None:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def finish(self, stopped_by: StopReason | None) -> ProcessEnd:
        """Collect the exit status, end and reap whatever the job has left behind, and account for all of it."""
        wall_s = monotonic_s() - self.started_at_s
        swept, survivors = self._sweep()
        if not self._ends_within(KILL_WAIT_S):
            text = f"process {self.pid} does not end although it was killed (stuck in the kernel)"
            raise PayloadError(PilotError.INTERNAL, text)
        _pid, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        release_child(self.pid)
        self._guard.dismiss()
        return ProcessEnd(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            cpu_s=usage.ru_utime + usage.ru_stime + self._adopted_cpu_s,
            max_single_rss_bytes=usage.ru_maxrss * 1024,
            wall_s=wall_s,
            stopped_by=stopped_by,
            swept=swept,
            survivors=survivors,
        )

    def _sweep(self) -> tuple[int, tuple[int, ...]]:
        """Kill and reap until nothing of the job is left, within KILL_WAIT_S. Returns how many, and who is still there."""
        limit, pause, killed, delay_s = Deadline(KILL_WAIT_S), threading.Event(), set[tuple[int, int]](), 0.002
        while True:
            members = [p for p in self.members() if p.pid != self.pid]
            self.collect_orphans(members)
            living = [p for p in members if not p.zombie]
            waiting = [p for p in members if p.zombie and p.ppid == os.getpid()]
            if not living and not waiting:
                return len(killed), ()
            if limit.passed():
                return len(killed), tuple(p.pid for p in living)
            for process in living:
                _send(process, signal.SIGKILL)
                killed.add(process.key)
            pause.wait(delay_s)
            delay_s = min(delay_s * 2, 0.05)


def _send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: a handle is opened first and the start time compared, so no reused pid is hit."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = procfs.read_process(process.pid)
        if now is not None and now.key == process.key:
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(handle)
