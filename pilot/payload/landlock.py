"""Closes the file system and the other processes to a thread, and to all that it starts from then on.

The kernel keeps Landlock, no-new-privileges and capabilities for each thread by itself: the pilot's other threads lose nothing.
Where no pilot starts the payload (a replay's script), the same is done by this file as a program, which then becomes the payload:

    python -I -S landlock.py [-k] [-rPATH...] [-wPATH...] -- PROGRAM ARGUMENT...

``-k`` keeps the capabilities. What cannot be closed ends it with code 125: the payload is then not run at all.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from dataclasses import dataclass
from typing import Self

EXIT_CODE = 125
SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446  # the same on every architecture
PR_SET_NO_NEW_PRIVS = 38
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_CAPABILITY_VERSION_3 = 0x20080522
_EBADFD = 77

# linux/landlock.h: rights on files, by the interface version (ABI) that brought them
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ABI_1, _REFER, _TRUNCATE, _IOCTL_DEV = (1 << 13) - 1, 1 << 13, 1 << 14, 1 << 15
READING = EXECUTE | READ_FILE | READ_DIR
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
SIGNALS_SINCE = 6

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The kernel's Landlock interface; 0: none, or it is forbidden here."""
    return max(0, int(_libc.syscall(SYS_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))))


def file_rights(abi: int) -> int:
    """All rights on files that this interface version knows."""
    later = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
    return _ABI_1 | sum(right for since, right in later if abi >= since)


@dataclass(frozen=True, slots=True)
class Closed:
    """Below ``read`` a program may read and run, below ``write`` do anything; whatever else exists it cannot open.

    ``keep_capabilities``: for a program that will change its user first.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    keep_capabilities: bool = False

    def close_in(self, *also_write: str) -> None:
        """Restrict this thread for good. Paths that do not exist are passed over. Raises OSError."""
        _restrict(self.read, (*self.write, *also_write))
        if not self.keep_capabilities:
            _drop_capabilities()

    def program(self) -> tuple[str, ...]:
        """The argv in front of a payload that closes it in by itself."""
        kept = ("-k",) if self.keep_capabilities else ()
        words = (*kept, *(f"-r{path}" for path in self.read), *(f"-w{path}" for path in self.write))
        return (sys.executable, "-I", "-S", __file__, *words, "--")

    @classmethod
    def of_words(cls, words: list[str]) -> Self:
        """From the arguments of ``program``. Raises ValueError."""
        read = tuple(word[2:] for word in words if word.startswith("-r"))
        write = tuple(word[2:] for word in words if word.startswith("-w"))
        if len(read) + len(write) + words.count("-k") != len(words):
            raise ValueError(f"{words} is not understood")
        return cls(read, write, keep_capabilities="-k" in words)


def _restrict(read: tuple[str, ...], write: tuple[str, ...]) -> None:
    abi = version()
    if abi < 1:
        raise OSError(0, "the kernel offers no Landlock")
    rights = file_rights(abi)
    scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= SIGNALS_SINCE else 0
    ruleset = _Ruleset(rights, 0, scoped)
    size = 24 if abi >= SIGNALS_SINCE else 8
    rules = _checked(
        _libc.syscall(SYS_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    )
    try:
        for path in read:
            _allow(rules, path, READING & rights)
        for path in write:
            _allow(rules, path, rights)
        _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(SYS_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0)))
    finally:
        os.close(rules)


def _drop_capabilities() -> None:
    """Empty the three sets of this thread; with no-new-privileges on, no later exec brings any back."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(header, sets))


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= ON_FILES
        rule = _Beneath(rights, parent)
        call = (ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
        _checked(_libc.syscall(SYS_ADD_RULE, *call))
    except OSError as error:
        if error.errno != _EBADFD:  # a pipe lies in no file system, so there is nothing to allow
            raise
    finally:
        os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main(arguments: list[str]) -> None:
    """Close this program in, then become the payload; returns never, or by SystemExit."""
    try:
        end = arguments.index("--")
        payload = arguments[end + 1 :]
        Closed.of_words(arguments[:end]).close_in("/proc/self/fd/1", "/proc/self/fd/2")
        os.execv(payload[0], payload)  # noqa: S606
    except (OSError, ValueError, IndexError) as error:
        os.write(2, f"FATAL: the payload cannot be closed in: {error}\n".encode())
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    main(sys.argv[1:])
