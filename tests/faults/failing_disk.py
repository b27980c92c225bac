"""A work volume whose writes fail to order: a file layer of its own, mounted in a namespace that nobody else sees.

``python -m tests.faults.failing_disk MOUNT BACKING RECORD [RULE]`` is the file layer: everything goes through to BACKING, each
write operation is noted in RECORD, and the one that RULE names fails with its error, as a broken disk's does.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PROJECT = Path(__file__).parents[2]
MOUNT_S = 20.0
_NUMBERS = re.compile(r"[0-9a-f]{8,}|[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class Site:
    """A place where something is written: the operation, and the path with its numbers and random parts starred."""

    operation: str
    path: str


@dataclass(frozen=True, slots=True)
class DiskRule:
    """The ``nth`` operation at a site fails with ``error`` (its name); ``always``: and every one of the volume after it."""

    site: Site
    nth: int
    error: str
    always: bool = False


def site_of(operation: str, path: str) -> Site:
    """The site of an operation on ``path``, which begins with a slash at the volume's root."""
    return Site(operation, _NUMBERS.sub("*", path.lstrip("/")))


class FailingDisk:
    """``with FailingDisk(folder, rule) as volume``: ``folder`` fails by ``rule`` for what is started with ``volume.wrap``."""

    def __init__(self, folder: Path, rule: DiskRule | None) -> None:
        self._folder = folder
        self._record = folder.with_name(f"{folder.name}.operations")
        self._words = folder.with_name(f"{folder.name}.layer")
        backing = folder.with_name(f"{folder.name}.backing")
        for path in (folder, backing):
            path.mkdir()
        arguments = [str(folder), str(backing), str(self._record)]
        arguments += [json.dumps(asdict(rule))] if rule else []
        with self._words.open("wb") as words:
            self._layer = subprocess.Popen(
                ["unshare", "--mount", sys.executable, "-m", __name__, *arguments],
                cwd=PROJECT,
                env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
            )
        assert self._layer.stdout is not None
        if self._layer.stdout.readline() != b"mounted\n":
            self.close()
            text = "the failing file layer cannot be mounted here (it takes root, libfuse3 and /dev/fuse)"
            raise OSError(f"{text}: {self._words.read_text()[-2000:]}")

    def __enter__(self) -> FailingDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def wrap(self) -> list[str]:
        """Put before a command, it lives on this volume."""
        return ["nsenter", "--target", str(self._layer.pid), "--mount"]

    @property
    def pid(self) -> int:
        return self._layer.pid

    @property
    def outside(self) -> Path:
        """The volume as it is reached from outside of the namespace."""
        return Path(f"/proc/{self._layer.pid}/root{self._folder}")

    def mend(self) -> None:
        """Nothing fails any more."""
        assert self._layer.stdin is not None
        assert self._layer.stdout is not None
        self._layer.stdin.write(b"mend\n")
        self._layer.stdin.flush()
        self._layer.stdout.readline()

    def operations(self) -> Counter[Site]:
        """How often something was written where so far."""
        lines = self._record.read_text().splitlines() if self._record.exists() else []
        return Counter(Site(*json.loads(line)) for line in lines)

    def close(self) -> None:
        for stream in (self._layer.stdin, self._layer.stdout):
            if stream is not None:
                stream.close()
        try:
            self._layer.wait(MOUNT_S)
        except subprocess.TimeoutExpired:
            self._layer.kill()
            self._layer.wait()


class _Rules:
    """Counts operations, and says which of them are to fail."""

    def __init__(self, record: Path, rule: DiskRule | None) -> None:
        self._lock = threading.Lock()
        self._record = record.open("a", buffering=1)
        self._rule = rule
        self._met = 0
        self._broken = False

    def meet(self, operation: str, path: str) -> None:
        """Note the operation. Raises OSError when it is to fail."""
        with self._lock:
            site, rule = site_of(operation, path), self._rule
            self._record.write(json.dumps([site.operation, site.path]) + "\n")
            if rule is None:
                return
            if site == rule.site:
                self._met += 1
            hit = site == rule.site and self._met == rule.nth
            self._broken = self._broken or (hit and rule.always)
            if hit or self._broken:
                raise OSError(getattr(errno, rule.error), rule.error)

    def mend(self) -> None:
        with self._lock:
            self._rule, self._broken = None, False


def _layer(backing: Path, rules: _Rules) -> Any:
    """The file system's operations; made in a function, because the library loads libfuse when it is imported."""
    import mfusepy

    class Layer(mfusepy.Operations):  # type: ignore[misc]  # an untyped base
        use_ns = True

        def _at(self, path: str) -> str:
            return f"{backing}{path}"

        def _write(self, operation: str, path: str, act: Callable[[], T]) -> T:
            rules.meet(operation, path)
            return act()

        def _made(self, path: str) -> None:
            """What was made belongs to who asked for it; the group of a set-group-ID folder stays."""
            uid, gid, _pid = mfusepy.fuse_get_context()
            status = os.lstat(os.path.dirname(self._at(path)))
            os.lchown(self._at(path), uid, -1 if status.st_mode & 0o2000 else gid)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            status = os.fstat(fh) if fh is not None else os.lstat(self._at(path))
            names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
            return {name: getattr(status, name) for name in names} | {
                f"st_{kind}": getattr(status, f"st_{kind}_ns") for kind in ("atime", "mtime", "ctime")
            }

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(self._at(path))]

        def readlink(self, path: str) -> str:
            return os.readlink(self._at(path))

        def statfs(self, path: str) -> dict[str, int]:
            status = os.statvfs(self._at(path))
            return {name: getattr(status, name) for name in dir(status) if name.startswith("f_") and name != "f_fsid"}

        def chmod(self, path: str, mode: int) -> int:
            return self._write("chmod", path, lambda: os.chmod(self._at(path), mode)) or 0

        def chown(self, path: str, uid: int, gid: int) -> int:
            def act() -> None:
                def same(number: int) -> int:
                    return -1 if number in (-1, 0xFFFFFFFF) else number

                os.lchown(self._at(path), same(uid), same(gid))

            return self._write("chown", path, act) or 0

        def mkdir(self, path: str, mode: int) -> int:
            def act() -> None:
                os.mkdir(self._at(path), mode)
                self._made(path)

            return self._write("mkdir", path, act) or 0

        def rmdir(self, path: str) -> int:
            return self._write("rmdir", path, lambda: os.rmdir(self._at(path))) or 0

        def unlink(self, path: str) -> int:
            return self._write("unlink", path, lambda: os.unlink(self._at(path))) or 0

        def rename(self, old: str, new: str) -> int:
            return self._write("rename", new, lambda: os.rename(self._at(old), self._at(new))) or 0

        def symlink(self, target: str, source: str) -> int:
            return self._write("symlink", target, lambda: os.symlink(source, self._at(target))) or 0

        def link(self, target: str, source: str) -> int:
            return self._write("link", target, lambda: os.link(self._at(source), self._at(target))) or 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            def act() -> None:
                os.utime(self._at(path)) if times is None else os.utime(self._at(path), ns=times)

            return self._write("utimens", path, act) or 0

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            target = fh if fh is not None else self._at(path)
            return self._write("truncate", path, lambda: os.truncate(target, length)) or 0

        def open(self, path: str, flags: int) -> int:
            return os.open(self._at(path), flags & ~os.O_APPEND & ~os.O_NOFOLLOW)  # the kernel has done these two

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            def act() -> int:
                descriptor = os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)
                self._made(path)
                return descriptor

            return self._write("create", path, act)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return self._write("write", path, lambda: os.pwrite(fh, data, offset))

        def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
            return self._write("fallocate", path, lambda: os.posix_fallocate(fh, offset, size)) or 0

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            return self._write("fsync", path, lambda: None) or 0

        def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
            return self._write("fsyncdir", path, lambda: None) or 0

        def flush(self, path: str, fh: int) -> int:
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    return Layer()


def _attend(mount: str, rules: _Rules) -> None:
    """Say when the layer is there; obey what comes in; unmount at the end of the input."""
    pause = threading.Event()
    while not os.path.ismount(mount):
        pause.wait(0.005)
    print("mounted", flush=True)
    for _line in sys.stdin:
        rules.mend()
        print("mended", flush=True)
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    library.umount2(os.fsencode(mount), 2)  # MNT_DETACH: whoever still holds a file in it keeps that


def main() -> int:
    import mfusepy

    mount, backing, record = sys.argv[1:4]
    given = json.loads(sys.argv[4]) if len(sys.argv) > 4 else None
    rule = DiskRule(**{**given, "site": Site(**given["site"])}) if given else None
    rules = _Rules(Path(record), rule)
    os.umask(0)
    threading.Thread(target=_attend, args=(mount, rules), daemon=True).start()
    mfusepy.FUSE(
        _layer(Path(backing), rules), mount, foreground=True, allow_other=True, default_permissions=True,
        attr_timeout=0, entry_timeout=0, negative_timeout=0, max_threads=8,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
