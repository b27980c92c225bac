"""A payload in Apptainer (or Singularity): the argv, the environment, what the node allows, and whose failure it was.

Each option has its measured reason: without ``--containall`` the payload sees the pilot's processes and environment,
without ``--no-privs`` it fails in any pod with less than all capabilities, without ``--no-eval`` values of variables are
run as code, without ``--workdir`` /tmp is 64 MiB of memory.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pilot.job.errors import PayloadError, PilotError
from pilot.job.outcome import container_error
from pilot.payload import procfs
from pilot.payload.command import Command
from pilot.payload.environment import TRACKING_NAME, PayloadEnvironment
from pilot.payload.folder import PayloadPlaces
from pilot.payload.process import CONTAINER_COMMS, PayloadProcess
from pilot.payload.procfs import Process
from pilot.payload.programs import DEFAULT_PATH
from pilot.payload.start import Launch, guarded
from pilot.runtime.stop import Stop

PROBE_TIMEOUT_S = 60.0
CONTAINER_WORK = "/srv"
CONTAINER_TMP = "/tmp"  # noqa: S108 - the container's own, on disk in the job's folder
CONTAINER_HOME = "/tmp/home"  # noqa: S108
CONTROL_NAME = ".pilot"
MAX_MESSAGE_BYTES = 64 << 10

# Runs inside. It marks that the container works, runs the command with bash, and lets everybody finish on SIGTERM: were
# this first process to end at once, the kernel would kill all others of the PID namespace in the same moment.
_START = """#!/bin/sh
stopping=
trap 'stopping=1' TERM
here={control}
HOME={home}
export HOME
echo started >"$here/started"
shell=sh
command -v bash >/dev/null 2>&1 && shell=bash
"$shell" "$here/payload.sh"
code=$?
{{ echo "$code" >"$here/exitcode"; }} 2>/dev/null
if [ -n "$stopping" ]; then
    while kill -0 -1 2>/dev/null; do sleep 0.1 2>/dev/null || break; done
fi
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the node shown to the payload, writable unless ``read_only`` (as Apptainer has it)."""

    source: str
    target: str
    read_only: bool = False

    def options(self) -> tuple[str, ...]:
        """``--bind``, or ``--mount`` where a name holds a character that ``--bind`` would split at."""
        if not any(character in self.source + self.target for character in ':,"'):
            return ("--bind", f"{self.source}:{self.target}" + (":ro" if self.read_only else ""))
        fields = ["type=bind", _csv(f"source={self.source}"), _csv(f"destination={self.target}")]
        return ("--mount", ",".join(fields + (["ro"] if self.read_only else [])))

    def __str__(self) -> str:
        """As settings write it."""
        return f"{self.source}:{self.target}{':ro' if self.read_only else ''}"


def parse_bind(text: str) -> Bind:
    """``source[:target][:ro|:rw]`` as settings and CRIC write it. ValueError says what is wrong."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) > 1 and parts[-1] in ("ro", "rw") else "rw"
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise ValueError(f"{text!r} is no bind: source[:target][:ro|:rw] with absolute paths is")
    return Bind(parts[0], parts[-1], mode == "ro")


@dataclass(frozen=True, slots=True)
class Mode:
    """How containers can be started on this node. ``own_proc`` False: /proc is masked here and is bound instead."""

    user_namespace: bool = True
    own_proc: bool = True

    def options(self) -> tuple[str, ...]:
        first = ("--userns",) if self.user_namespace else ()
        return (*first, *ISOLATION, *(() if self.own_proc else ("--no-mount", "proc", "--bind", "/proc")), *_for_root())

    def __str__(self) -> str:
        return ("user namespace" if self.user_namespace else "root") + (
            ", own /proc" if self.own_proc else ", bound /proc"
        )


def _for_root() -> tuple[str, ...]:
    """A container that root starts is root to the files of /proc and /sys, whatever namespace it is in (measured: it could
    set the program that the node's kernel runs at a crash). What they rule is read-only for it, or not there.
    """
    if os.geteuid() != 0:
        return ()
    closed = [path for path in KERNEL_PLACES if Path(path).is_dir()]
    return ("--no-mount", "sys", *(word for path in closed for word in ("--bind", f"{path}:{path}:ro")))


KERNEL_PLACES = ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/sys/devices")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ISOLATION = ("--containall", "--no-privs", "--no-home", "--no-eval")
MODES = (Mode(), Mode(own_proc=False))
ROOT_MODES = (*MODES, Mode(user_namespace=False))


def probe(runtime: Path, image: Path, scratch: Path, stop: Stop) -> Mode:
    """The first way of starting containers from this image that works here.

    Raises PayloadError in the runtime's words, which name the obstacle; Stopped.
    """
    first_words = ""
    for mode in ROOT_MODES if os.geteuid() == 0 else MODES:
        words = _try(runtime, image, mode, scratch, stop)
        if words is None:
            return mode
        first_words = first_words or words
    raise PayloadError(container_error(first_words), f"{image.name}: {first_words}")


def _try(runtime: Path, image: Path, mode: Mode, scratch: Path, stop: Stop) -> str | None:
    """None when a container that does nothing can be started in this way; else what the runtime says.

    Started like a payload, for the sake of the end: a container that fails may leave its file system's helper behind.
    """
    tracking_id = f"probe.{secrets.token_hex(8)}"
    argv = (str(runtime), "--quiet", "exec", *mode.options(), "--pwd", "/", str(image), "/bin/sh", "-c", ":")
    environment = {**_runtime_environment(scratch), TRACKING_NAME: tracking_id}
    words = scratch / tracking_id
    launch = Launch(guarded(argv), environment, scratch, stdout=words, stderr=words, tracking_id=tracking_id)
    try:
        process = PayloadProcess(launch)
        with stop.child() as scope:
            watcher = process.watch(scope)
            scope.wait(PROBE_TIMEOUT_S)
            if not process.exited:
                process.stop_all(0)
            end = process.finish(scope.reason)
            watcher.join(1.0)
        stop.check()
        if end.exit_code == 0:
            return None
        ending = f"signal {end.signal}" if end.signal else f"exit code {end.exit_code}"
        return container_message(words) or f"the container did not start ({ending})"
    finally:
        words.unlink(missing_ok=True)


def container_launch(
    runtime: Path,
    mode: Mode,
    image: Path,
    command: Command,
    environment: PayloadEnvironment,
    places: PayloadPlaces,
    binds: tuple[Bind, ...],
    options: tuple[str, ...],
    tracking_id: str,
) -> Launch:
    """What to start. Secrets travel in the environment of the runtime, never in an argv."""
    control = places.tmp / CONTROL_NAME
    control.mkdir(mode=0o700, exist_ok=True)
    text = command.text + "\n"
    (control / "payload.sh").write_text(text, encoding="utf-8", errors="surrogateescape")
    inside = f"{CONTAINER_TMP}/{CONTROL_NAME}"
    (control / "start.sh").write_text(_START.format(control=inside, home=CONTAINER_HOME))
    work = Bind(str(places.work), CONTAINER_WORK)
    argv = (
        str(runtime),
        "--quiet",
        "exec",
        *mode.options(),
        *options,
        "--workdir",
        str(places.scratch),
        *work.options(),
        *(option for bind in binds for option in bind.options()),
        "--pwd",
        CONTAINER_WORK,
        str(image),
        "/bin/sh",
        f"{inside}/start.sh",
    )
    return Launch(
        argv=guarded(argv),
        environment=_launch_environment(runtime, environment, places, tracking_id),
        folder=places.work,
        stdout=places.stdout,
        stderr=places.stderr,
        tracking_id=tracking_id,
    )


def _runtime_environment(scratch: Path) -> dict[str, str]:
    """What the runtime itself is given: nothing of the pilot's, and folders of the job to keep its own things in."""
    return {"PATH": DEFAULT_PATH, "HOME": str(scratch), "APPTAINER_CONFIGDIR": str(scratch / "apptainer")}


def _launch_environment(
    runtime: Path, environment: PayloadEnvironment, places: PayloadPlaces, tracking_id: str
) -> dict[str, str]:
    prefix = "SINGULARITYENV_" if runtime.name == "singularity" else "APPTAINERENV_"
    inside = {name: value for name, value in environment.revealed().items() if name != "HOME"}  # it refuses that one
    return {
        **_runtime_environment(places.scratch),
        TRACKING_NAME: tracking_id,
        **{prefix + name: value for name, value in inside.items()},
    }


class Markers:
    """The files by which the inside says that it runs, and how its command ended. Held open: removing them hides nothing."""

    def __init__(self, places: PayloadPlaces) -> None:
        control = places.tmp / CONTROL_NAME
        control.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._started = os.open(control / "started", flags, 0o600)
        self._exit_code = os.open(control / "exitcode", flags, 0o600)

    def started(self) -> bool:
        return os.fstat(self._started).st_size > 0

    def exit_code(self) -> int | None:
        """What the command ended with, when it came to an end inside; None when it was killed before."""
        text = os.pread(self._exit_code, 16, 0).strip()
        return int(text) if text.isdigit() and int(text) < 256 else None

    def close(self) -> None:
        os.close(self._started)
        os.close(self._exit_code)


def message_in(text: bytes) -> str | None:
    """The runtime's last FATAL or ERROR line, without its prefix; the last line of all when there is none."""
    plain = _COLOURS.sub("", text.decode("utf-8", "replace"))  # it colours its words, also when nobody looks
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(("FATAL", "ERROR")):
            return _printable(line.partition(":")[2].strip())
    return _printable(lines[-1]) if lines else None


def container_message(stderr: Path) -> str | None:
    """The runtime's own words from the end of the file that its stderr went to."""
    try:
        with stderr.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_MESSAGE_BYTES))
            return message_in(file.read(MAX_MESSAGE_BYTES))
    except OSError:
        return None


def infrastructure(main_pid: int) -> Callable[[Process], bool]:
    """Tells the runtime's own processes from the payload's: their 50 MB are nobody's business but the runtime's.

    A payload may call itself by their names; it is within the container's PID namespace, they are not, but for its init.
    """
    own_depth = procfs.depth(os.getpid())

    def is_runtime(process: Process) -> bool:
        if process.pid == main_pid:
            return True
        if process.comm not in CONTAINER_COMMS:
            return False
        return procfs.depth(process.pid) <= own_depth or procfs.is_init(process.pid)

    return is_runtime


def accepted_options(text: str) -> tuple[tuple[Bind, ...], tuple[str, ...], tuple[str, ...]]:
    """CRIC's ``container_options`` -> binds, flags, and the words that are refused: what would open the container."""
    try:
        words = shlex.split(text)
    except ValueError:
        return (), (), (text,)
    binds: list[Bind] = []
    flags: list[str] = []
    refused: list[str] = []
    while words:
        word, _, value = words.pop(0).partition("=")
        if word in ("-B", "--bind"):
            value = value or (words.pop(0) if words else "")
            for one in value.split(","):
                try:
                    binds.append(parse_bind(one))
                except ValueError:
                    refused.append(f"{word} {one}")
        elif word in ("--nv", "--rocm", "--net"):
            flags.append(word)
        elif word == "--network" and (value or (words[0] if words else "")) == "none":  # closes, never opens
            if not value:
                words.pop(0)
            flags += ["--network", "none"]
        else:
            refused.append(word)
    return tuple(binds), tuple(flags), tuple(refused)


def missing_runtime() -> PayloadError:
    return PayloadError(
        PilotError.APPTAINER_NOT_INSTALLED,
        "an image is named, but neither apptainer nor singularity is on this machine (scripts/install-apptainer installs it)",
    )


def _csv(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:400]
