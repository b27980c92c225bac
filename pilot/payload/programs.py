"""The programs of this machine that payloads are started with."""

from __future__ import annotations

import shutil
from pathlib import Path

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUNTIME_NAMES = ("apptainer", "singularity")
NO_USER_NAMESPACES = (
    "the node forbids user namespaces (pod: seccompProfile: {type: Unconfined} and appArmorProfile: {type: Unconfined}; "
    "node: user.max_user_namespaces above 0)"
)


def find_runtime() -> Path | None:
    """The container runtime of this machine, under either of its names."""
    for name in RUNTIME_NAMES:
        found = shutil.which(name, path=DEFAULT_PATH)
        if found:
            return Path(found)
    return None


def lacking() -> str:
    """What keeps containers from being started on this node, as far as is known without an image; empty: nothing."""
    if find_runtime() is None:
        return "neither apptainer nor singularity is installed"
    return "" if user_namespaces_work() else NO_USER_NAMESPACES


def user_namespaces_work() -> bool:
    """Whether this process may make a user namespace, which every unprivileged container needs; asked in 2 ms."""
    import subprocess

    unshare = shutil.which("unshare", path=DEFAULT_PATH)
    if unshare is None:
        return True  # the runtime itself will tell
    argv = (unshare, "--user", "true")
    try:
        done = subprocess.run(
            argv, env={"PATH": DEFAULT_PATH}, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
