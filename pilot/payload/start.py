"""A payload's first process: what it is, and how it comes into being. From then on ``process.py`` has it.

Where Landlock closes it in, nothing of ours runs in its place first: a thread closes itself in and starts it, and what a thread
starts is as restricted as the thread. (A Python that restricts itself, then becomes the payload, took 16 ms of CPU a job.)
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pilot.job.errors import PayloadError, PilotError
from pilot.payload.landlock import Closed
from pilot.payload.programs import DEFAULT_PATH
from pilot.payload.rungs import Account
from pilot.runtime.stop import Deadline

USUAL_QUEUE_BYTES = 819_200  # the kernel's own bound for message queues
OOM_SCORE_STEP, MAX_OOM_SCORE = 500, 1000
THREAD_END_WAIT_S = 5.0
SCORE_WAIT_S = 0.2  # for the kernel to be through with an exec
# A shell that reads a line, or finds that the pilot is dead; then it becomes the program, without what shells export.
_GATE = 'read -r _ && exec "$@" </dev/null'
_OF_SHELLS = ("PWD", "OLDPWD", "SHLVL", "_")
_OWN_THREADS = Path("/proc/self/task")

Begin = Callable[[], subprocess.Popen[bytes]]


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to be started: argv (no secret in it), the exact environment, the work folder, the two output files.

    ``account``: the user it runs as, where that is another than the pilot's; ``closed``: what Landlock leaves it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    stdout: Path
    stderr: Path
    tracking_id: str
    umask: int = 0o077
    account: Account | None = None
    closed: Closed | None = None

    @property
    def whole_argv(self) -> tuple[str, ...]:
        """An argv that closes itself in, for whoever starts it by other means than ``start``."""
        return (*self.closed.program(), *self.argv) if self.closed else self.argv


def guarded(argv: tuple[str, ...], account: Account | None = None, max_processes: int = 0) -> tuple[str, ...]:
    """``argv`` so that it dies with the pilot, can gain no privileges and leaves no core file (util-linux does it).

    With an ``account`` it runs as that user, who may have ``max_processes`` processes and threads at once (0: any number).
    """
    setpriv, prlimit = (shutil.which(name, path=DEFAULT_PATH) for name in ("setpriv", "prlimit"))
    if not setpriv or not prlimit:
        raise PayloadError(PilotError.SETUP_FAILURE, "setpriv and prlimit are missing here; install util-linux")
    user = account.launcher()[1:] if account else ("--no-new-privs", "--")
    mark_bytes = queue_mark_bytes()
    marks = (f"--msgqueue={mark_bytes}:{mark_bytes}",) if mark_bytes >= 0 else ()
    bounds = (
        "--core=0:0",
        *marks,
        *((f"--nproc={max_processes}:{max_processes}",) if account and max_processes else ()),
    )
    return (setpriv, "--pdeathsig", "KILL", *user, prlimit, *bounds, "--", *argv)


def queue_mark_bytes() -> int:
    """A payload's bound for POSIX message queues: a byte below the pilot's own, as an orphan is known by it; -1: no room."""
    _soft, hard_bytes = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    return (USUAL_QUEUE_BYTES if hard_bytes == resource.RLIM_INFINITY else min(hard_bytes, USUAL_QUEUE_BYTES)) - 1


def start(launch: Launch) -> subprocess.Popen[bytes]:
    """Start it, from the main thread: the parent-death signal fires when the *thread* ends whose child it is.

    It comes into being behind a gate, which opens when everything is as it has to be. Raises PayloadError (it cannot be closed
    in, or not be run), OSError (its output files).
    """
    argv = (*_gate(), *launch.argv)
    stdout, stderr = _open_texts(launch)
    gate, opener = os.pipe()
    try:
        begin = partial(_popen, launch, argv, gate, stdout, stderr)
        # its texts it may open again by name
        texts = (f"/proc/self/fd/{stdout}", f"/proc/self/fd/{stderr}")
        process = _by_a_closed_thread(launch.closed, texts, begin) if launch.closed else begin()
        _make_likelier_victim(process.pid)
        os.write(opener, b"go\n")
        return process
    except OSError as error:
        text = f"{launch.argv[0]} could not be started: {error.strerror or error}"
        raise PayloadError(PilotError.SETUP_FAILURE, text) from error
    finally:
        for descriptor in (stdout, stderr, gate, opener):
            os.close(descriptor)


def _gate() -> tuple[str, ...]:
    shell, env = (shutil.which(name, path=DEFAULT_PATH) or f"/usr/bin/{name}" for name in ("sh", "env"))
    return (shell, "-c", _GATE, "payload", env, *(word for name in _OF_SHELLS for word in ("-u", name)))


def _open_texts(launch: Launch) -> tuple[int, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    stdout = os.open(launch.stdout, flags, 0o600)
    try:
        stderr = os.open(launch.stderr, flags, 0o600)
    except OSError:
        os.close(stdout)
        raise
    if launch.account is not None:  # it may open /dev/stdout by name
        for descriptor in (stdout, stderr):
            os.fchown(descriptor, -1, launch.account.gid)
            os.fchmod(descriptor, 0o660)
    return stdout, stderr


def _popen(launch: Launch, argv: tuple[str, ...], stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        env=dict(launch.environment),
        cwd=launch.folder,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        umask=launch.umask,
        close_fds=True,
    )


def _by_a_closed_thread(closed: Closed, texts: tuple[str, ...], begin: Begin) -> subprocess.Popen[bytes]:
    """What ``begin`` starts, on a thread that is gone when this returns.

    A payload of the pilot's own user might signal that thread, and so the pilot: Landlock lets pass what stays in one domain.
    And its child is then the main thread's, as the parent-death signal needs it.
    """

    def work() -> tuple[subprocess.Popen[bytes], int]:
        closed.close_in(*texts)
        return begin(), threading.get_native_id()

    with ThreadPoolExecutor(1, "payload-start") as threads:
        started, thread_id = threads.submit(work).result()
    patience, pause = Deadline(THREAD_END_WAIT_S), threading.Event()
    while (_OWN_THREADS / str(thread_id)).exists():  # to the kernel it ends a little after it does to us
        if patience.passed():
            raise TimeoutError("the thread that started it does not end")
        pause.wait(0.0005)
    return started


def _make_likelier_victim(pid: int) -> None:
    """Where the kernel must kill a process of the pod for memory, it is to be the payload's, and not the pilot.

    Kubernetes gives each pod a score of its own, from -997 (guaranteed) over 2 to 999 (burstable) to 1000, and lowering one
    needs a capability; so the payload's is reckoned from the pilot's.
    """
    patience, pause = Deadline(SCORE_WAIT_S), threading.Event()
    with suppress(OSError, ValueError):  # no /proc, or closed: the kernel chooses by size alone
        score = int(Path("/proc/self/oom_score_adj").read_text())
        theirs = Path(f"/proc/{pid}/oom_score_adj")
        while True:
            try:
                theirs.write_text(str(min(score + OOM_SCORE_STEP, MAX_OOM_SCORE)))
                return
            except (
                PermissionError
            ):  # for an instant it is still closed as the pilot is, whose copy it was (hide_memory)
                if patience.passed():
                    raise
                pause.wait(0.001)
