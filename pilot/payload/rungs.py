"""How far a payload is kept from the pilot: four rungs, and which of them this node permits. docs/isolation.md has the table.

A: a container. B: another user, without any capability, and Landlock where the kernel has it. C: the pilot's user, closed in
by Landlock, the pilot's memory hidden. D: the pilot's user and nothing else. A payload without a container runs on the
highest of B, C and D.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from pilot.job.errors import PayloadError, PilotError
from pilot.payload import landlock
from pilot.payload.programs import DEFAULT_PATH

DEFAULT_USER = "payload"
DEFAULT_UID = 65532  # where no such user exists: the "nonroot" of many images, and nobody's on a node
OPENING_TIMEOUT_S = 120.0
_PR_SET_DUMPABLE = 4
CAPABILITIES = {"KILL": 5, "SETGID": 6, "SETUID": 7}
_SETPCAP = 8
# Where programs, libraries and their data are found; read-only for a payload on rung C, credentials among them left out.
PROGRAM_PLACES = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt", "/cvmfs", "/sys", "/proc",
    "/run/systemd/resolve",
)  # fmt: skip
DEVICES = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm",  # noqa: S108
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class Level(IntEnum):
    """The rungs, to be compared."""

    D = 0
    C = 1
    B = 2
    A = 3


def level_named(word: str) -> Level:
    """What ``--require-isolation`` says: A, B, C or none."""
    return Level.D if word == "none" else Level[word]


@dataclass(frozen=True, slots=True)
class Account:
    """The user payloads run as on rung B: never root, and no other program's."""

    uid: int
    gid: int

    @contextmanager
    def eyes(self) -> Iterator[None]:
        """This thread sees files and ``/proc`` as the payload does: its private folders, its memory, and nothing more."""
        group, user = _libc.setfsgid(self.gid), _libc.setfsuid(self.uid)
        try:
            yield
        finally:
            _libc.setfsuid(user)
            _libc.setfsgid(group)

    def launcher(self) -> tuple[str, ...]:
        """The argv in front of a program that this user is to run."""
        setpriv = shutil.which("setpriv", path=DEFAULT_PATH) or "setpriv"
        bounded = ("--bounding-set", "-all") if 1 << _SETPCAP & effective_capabilities() else ()
        identity = ("--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups")
        return (setpriv, *identity, *bounded, "--inh-caps=-all", "--no-new-privs", "--")

    def hand_over(self, *folders: Path) -> None:
        """Let the payload write in these folders of ours. Needs no more than membership in its group. Raises OSError."""
        join_group(self.gid)
        for folder in folders:
            os.chown(folder, -1, self.gid)
            folder.chmod(0o2770)

    def open_to_pilot(self, *folders: Path) -> None:
        """Open to its group what the payload made for itself alone, done as the payload's user; links are not followed."""
        chmod = shutil.which("chmod", path=DEFAULT_PATH) or "/bin/chmod"
        argv = (*self.launcher(), chmod, "-R", "-f", "g+rwX", "--", *map(str, folders))
        try:
            subprocess.run(
                argv, env={"PATH": DEFAULT_PATH}, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=OPENING_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return  # what stays closed is told by whoever needs it

    @classmethod
    def recorded(cls, mark: Mapping[str, object]) -> Account | None:
        """The account a journal names."""
        uid, gid = mark.get("uid"), mark.get("gid")
        return cls(uid, gid) if isinstance(uid, int) and isinstance(gid, int) else None


def payload_account(name: str | None) -> Account:
    """The payload's user: the one named in the settings (a name or a number), else ``payload``, else 65532. Raises ValueError."""
    try:
        found = pwd.getpwuid(int(name)) if name and name.isdigit() else pwd.getpwnam(name or DEFAULT_USER)
        account = Account(found.pw_uid, found.pw_gid)
    except KeyError:
        if name and not name.isdigit():
            raise ValueError(f"there is no user {name!r} here") from None
        account = Account(int(name or DEFAULT_UID), int(name or DEFAULT_UID))
    if account.uid == 0 or account.gid == 0:
        raise ValueError("the payload's user must not be root, nor of root's group")
    return account


@dataclass(frozen=True, slots=True)
class Node:
    """What the kernel grants this process."""

    uid: int
    capabilities: int
    landlock: int

    @classmethod
    def of_this_process(cls) -> Node:
        return cls(os.geteuid(), effective_capabilities(), landlock.version())


@dataclass(frozen=True, slots=True)
class Plain:
    """The rung of payloads without a container; ``lacks`` says of each higher one why the node does not permit it.

    ``landlock``: the file system is closed too; on B that keeps the payload from writing anywhere but in its own folders.
    """

    level: Level
    word: str
    account: Account | None = None
    landlock: bool = False
    lacks: Mapping[Level, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.level.name}:{self.word}"

    @property
    def umask(self) -> int:
        """On B the pilot reads the payload's files as a member of its group."""
        return 0o007 if self.account else 0o077


def plain_rung(
    node: Node, account: Account, volume: Path, private: tuple[Path, ...], *, own_containers: bool = False
) -> Plain:
    """The highest of B, C and D. ``private``: the pilot's credential files; ``own_containers``: payloads start their own."""
    lacks = {Level.B: _lacks_other_user(node, account, volume, private)}
    closed = _lacks_landlock(node, own_containers)
    if not lacks[Level.B] and closed:
        lacks[Level.B] = _lacks_safe_folders(account, volume)
    if not lacks[Level.B]:
        return Plain(Level.B, "uid" if closed else "uid+landlock", account, not closed, {})
    if not closed:
        word = "landlock" if node.landlock >= landlock.SIGNALS_SINCE else "landlock-files"
        return Plain(Level.C, word, None, landlock=True, lacks=lacks)
    lacks[Level.C] = closed
    return Plain(Level.D, "none", None, lacks=lacks)


def _lacks_other_user(node: Node, account: Account, volume: Path, private: tuple[Path, ...]) -> str:
    if node.uid != 0:
        return "another user for the payload needs a pilot that runs as root (pod: securityContext.runAsUser: 0)"
    missing = [name for name, bit in CAPABILITIES.items() if not 1 << bit & node.capabilities]
    if missing:
        wanted = "capabilities: {drop: [ALL], add: [SETUID, SETGID, KILL]}"
        return f"another user for the payload needs the capabilities {', '.join(missing)} (pod: {wanted})"
    closed = next((path for path in volume.resolve().parents if not permits(path, account, 0o1)), None)
    if closed is not None:
        return (
            f"{closed} is closed to uid {account.uid}, so its work folder below cannot be reached (--workdir elsewhere)"
        )
    for path in private:
        if readable_by(path, account):
            return f"{path} can be read by every user (pod: defaultMode: 0400 of its secret volume; else chmod 0400)"
    return ""


def _lacks_safe_folders(account: Account, volume: Path) -> str:
    """Without Landlock, whoever may write in our volume, or in a folder above it, may put another in a folder's place."""
    own = volume.resolve()
    for path in (own, *own.parents):
        if permits(path, account, 0o2) and not path.stat().st_mode & stat.S_ISVTX:
            return f"uid {account.uid} may rename what is in {path} (make the mount itself the work folder: --workdir {path})"
    return ""


def _lacks_landlock(node: Node, own_containers: bool) -> str:
    if node.landlock < 1:
        return (
            "the kernel or the pod's seccomp profile offers no Landlock (pod: seccompProfile: {type: RuntimeDefault})"
        )
    if own_containers:
        return "own_containers is set for the queue, and Landlock forbids the mounts that containers need"
    return ""


def permits(path: Path, account: Account, right: int) -> bool:
    """Whether the account has ``right`` (4 read, 2 write, 1 enter) on this very path, by its mode."""
    try:
        status = path.stat()
    except OSError:
        return False
    if status.st_uid == account.uid:
        return bool(status.st_mode >> 6 & right)
    return bool((status.st_mode >> 3 if status.st_gid == account.gid else status.st_mode) & right)


def readable_by(path: Path, account: Account) -> bool:
    """Whether the account could open this file: the file's mode and those of all folders above it."""
    try:
        real = path.resolve(strict=True)
    except OSError:
        return False
    return permits(real, account, 0o4) and all(permits(folder, account, 0o1) for folder in real.parents)


def readable_places(private: tuple[Path, ...], volume: Path, binds: tuple[str, ...] = ()) -> list[str]:
    """What a payload on rung C may read: programs and declared binds, without the pilot's credentials and volume.

    Landlock only grants. A folder that holds something private is granted by its other entries.
    """
    secrets = (Path("/run/secrets"), Path("/var/run/secrets"))
    hidden = {path.resolve() for path in (*private, volume, *secrets)}
    holding = {folder for path in hidden for folder in path.parents}
    own = [path for path in (sys.prefix, sys.base_prefix) if path not in ("/", "/usr")]
    return [path for place in (*PROGRAM_PLACES, *own, *binds) for path in _without(Path(place), hidden, holding)]


def _without(place: Path, hidden: set[Path], holding: set[Path]) -> Iterator[str]:
    """The place, or what in it is neither hidden nor holds (``holding``) anything that is."""
    real = place.resolve()
    if real in hidden or not hidden.isdisjoint(real.parents):
        return
    if real not in holding:
        yield str(real)
        return
    try:
        entries = sorted(real.iterdir())
    except OSError:
        return
    for entry in entries:
        yield from _without(entry, hidden, holding)


def refusal(required: Level, plain: Plain, container: str) -> str:
    """Why a payload may not run here, or nothing. ``container``: what keeps one from being started; empty: one will be."""
    if not container:
        return ""
    if plain.level >= required:
        return ""
    reasons = [container] if required is Level.A else [plain.lacks.get(required, "")]
    if required is not Level.A:
        reasons += [reason for level, reason in plain.lacks.items() if level > required and reason]
    why = "; ".join(reason for reason in reasons if reason)
    return (
        f"isolation {required.name} is required and payloads would run on {plain}: {why}. Give the pod what it lacks, name "
        "an image to run payloads in, or lower --require-isolation (none: take the risk; docs/isolation.md)"
    )


def require(required: Level, plain: Plain, container: str) -> None:
    """Raises PayloadError 1110 with the sentence of ``refusal``."""
    sentence = refusal(required, plain, container)
    if sentence:
        raise PayloadError(PilotError.SETUP_FAILURE, sentence)


def hide_memory() -> None:
    """Nobody of our own user may look into this process (memory, environment, descriptors), and it leaves no core file."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def join_group(gid: int) -> None:
    """Make this process a member of the payload's group. Raises OSError."""
    groups = os.getgroups()
    if gid not in groups:
        os.setgroups([*groups, gid])


def effective_capabilities() -> int:
    """The bits of this process's effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
