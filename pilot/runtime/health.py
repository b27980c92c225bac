"""Is the pilot alive? Its conductor signs a file at every beat; ``pilot-start --healthcheck`` looks at the signature.

This is what a kubelet runs every minute in a busy container, so nothing but the standard library's smallest parts is
imported here, at the top or later (docs/adr/0007).

The signature is one line of JSON of constant length, written over itself: that needs no room on a full disk. Its time is the
monotonic clock, which all processes of a node share and nobody can step; the pilot's own start time tells it from another
process that got its pid later.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "alive"
STALE_AFTER_S = 45.0  # more than four beats; with PATIENCE_S still within a minute
PATIENCE_S = 2.0  # a pilot that was suspended, and goes on now, signs within this
LOOK_AGAIN_S = 0.05
CONFIG_PATHS = ("pilot.yaml", "/etc/pilot/pilot.yaml")
SUSPENDED = ("T", "t")  # stopped by a signal, or by a debugger


class Signature:
    """The file that says who the conductor is and when it last came back. Raises OSError where it cannot be made."""

    def __init__(self, workdir: str, stale_after_s: float = STALE_AFTER_S) -> None:
        self._path = os.path.join(workdir, NAME)
        self._stale_after_s = stale_after_s
        self._started = start_time(os.getpid())
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)
        self.trouble = ""  # why the last signature could not be written

    def sign(self) -> None:
        """Write that the conductor is alive now. Never raises: what is wrong stands in ``trouble``."""
        signature = {
            "pid": os.getpid(),
            "started": self._started,
            "stale_after_s": self._stale_after_s,
            "at_s": f"{time.monotonic():020.3f}",
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            os.pwrite(self._descriptor, json.dumps(signature).encode() + b"\n", 0)
        except OSError as error:
            self.trouble = str(error.strerror)
        else:
            self.trouble = ""

    def close(self) -> None:
        """The pilot leaves in good order: from now on there is none."""
        try:
            os.unlink(self._path)
            os.close(self._descriptor)
        except OSError:
            return  # a broken disk; the process is gone soon all the same


def look(workdir: str) -> tuple[bool, str]:
    """Whether the pilot of a work folder is healthy, and a sentence. Looks again for a moment before it says no."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        healthy, sentence, final = _look_once(workdir)
        if healthy or final or time.monotonic() >= end_s:
            return healthy, sentence
        time.sleep(LOOK_AGAIN_S)


def _look_once(workdir: str) -> tuple[bool, str, bool]:
    """Healthy or not, a sentence, and whether looking again is of no use."""
    path = os.path.join(workdir, NAME)
    try:
        with open(path, "rb") as file:
            signature: dict[str, Any] = json.loads(file.read(4096))
        pid, started = int(signature["pid"]), int(signature["started"])
        at_s, stale_after_s = float(signature["at_s"]), float(signature["stale_after_s"])
    except FileNotFoundError:
        return False, f"no pilot works in {workdir} (there is no {path})", True
    except OSError as error:
        return False, f"{path} cannot be read: {error.strerror}", True
    except (ValueError, KeyError, TypeError):
        return False, f"{path} is not readable: it is being written, or is no pilot's", False
    state = _state(pid)
    if state is None or start_time(pid) != started:
        return False, f"the pilot that worked in {workdir} (pid {pid}) is gone", True
    age_s = time.monotonic() - at_s
    if 0 <= age_s <= stale_after_s:
        return True, f"the main loop of the pilot (pid {pid}) came back {age_s:.0f} s ago", False
    if state in SUSPENDED:
        return True, f"the pilot (pid {pid}) is suspended", False
    return False, f"the main loop of the pilot (pid {pid}) has not come back for {age_s:.0f} s", False


def start_time(pid: int) -> int:
    """When a process started, in clock ticks after the node's own start; 0 when there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _state(pid: int) -> str | None:
    """``R``, ``S``, ``T`` ... as proc(5) has it; None when it is gone or dead."""
    fields = _stat(pid)
    return fields[0] if fields and fields[0] not in ("Z", "X") else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on: the second, a name, may hold anything."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


# --- the command ------------------------------------------------------------------------------------------------------


def healthcheck(arguments: Sequence[str]) -> int:
    """``pilot-start --healthcheck [--workdir DIR] [--config FILE]``: 0 when the pilot there is alive, else 1, and a sentence.

    Other options are passed over, so that a pod's own command line with ``--healthcheck`` added will do.
    """
    healthy, sentence = look(work_folder(arguments, os.environ))
    print(sentence if healthy else f"pilot-start: {sentence}", file=sys.stdout if healthy else sys.stderr)
    return 0 if healthy else 1


def work_folder(
    arguments: Sequence[str], environment: Mapping[str, str], config_paths: Sequence[str] = CONFIG_PATHS
) -> str:
    """The work folder a pilot with these arguments and variables has: the rule of settings.py, without its imports."""
    env = {name: value for name, value in environment.items() if value.strip() and value.strip() != f"${name}"}
    told = _flag(arguments, "--workdir") or env.get("PILOT_WORKDIR") or _of_file(arguments, env, config_paths)
    if told:
        return os.path.expanduser(told.strip())
    if "TMPDIR" in env:
        return os.path.join(env["TMPDIR"], "pilot")
    return os.path.join(env.get("HOME", "/nonexistent"), ".cache/pilot/work")


def _flag(arguments: Sequence[str], name: str) -> str | None:
    found = None
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            found = arguments[position + 1]
        elif argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
    return found


def _of_file(arguments: Sequence[str], env: Mapping[str, str], config_paths: Sequence[str]) -> str | None:
    """``workdir`` of the settings file; YAML is read only where the word is there at all."""
    named = _flag(arguments, "--config") or env.get("PILOT_CONFIG")
    paths = [os.path.expanduser(named)] if named else [path for path in config_paths if os.path.isfile(path)]
    for path in paths[:1]:
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:
            return None
        if b"workdir" not in text:
            return None
        import yaml

        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            return None
        workdir = document.get("workdir") if isinstance(document, dict) else None
        return workdir if isinstance(workdir, str) else None
    return None
