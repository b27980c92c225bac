"""``make bench PARTS=hostile``: what a payload may leave to stop or to lead the pilot, and how soon the pilot is through with it.

    python -m tests.bench.hostile [--quick] [--json FILE]

Outputs go to the stager as a job's would; work folders are bundled, measured for the disk limit and removed as after a job. A
row is right when the outcome is the expected one, nothing secret got out, and it took less than five seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from pilot.job.endpoint import Door, Endpoint
from pilot.job.errors import PilotError, StageOutError
from pilot.job.model import Attempt, FileSpec, Job, Resources
from pilot.job.queue import Queue, QueueStatus
from pilot.logs.bundle import BundlePlan, write_bundle
from pilot.payload.activity import folder_use
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.staging import JobStager
from tests.bench.measure import BenchError, Machine, say, scratch_folder
from tests.bench.tables import table, write_part

GOAL_S = 5.0
GIVEN_UP_S = 60.0
MANY = 100_000
QUICK_MANY = 5_000
DEEP = 3_000  # folders in folders: more than Python recurses, and a path longer than the kernel takes
SPARSE_BYTES = 2 << 40
NAME = "out.root"
SECRET = b"canary-5f1e0d\n"
Make = Callable[[Path], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """What happened. ``outcome``: the error's name, or what came of it."""

    what: str
    step: str
    outcome: str
    took_s: float
    right: bool


# --- outputs: each makes one where the job's only output should be


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def _link_to_pilot(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(SECRET)
    path.symlink_to(secret)


def _second_name(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(SECRET)
    path.hardlink_to(secret)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE_BYTES)


def _empty(path: Path) -> None:
    path.touch()


def _tree(path: Path) -> None:
    """Folders in folders, far below what a path can name."""
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY)
    for _level in range(DEEP):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


OUTPUTS: dict[str, tuple[Make, PilotError]] = {
    "a pipe nobody writes": (_fifo, PilotError.STAGE_OUT_FAILED),
    "a link to /etc/shadow": (_link, PilotError.STAGE_OUT_FAILED),
    "a link to a file of the pilot": (_link_to_pilot, PilotError.STAGE_OUT_FAILED),
    "a second name of a file of the pilot": (_second_name, PilotError.STAGE_OUT_FAILED),
    "a link to itself": (_loop, PilotError.STAGE_OUT_FAILED),
    "a socket": (_socket, PilotError.STAGE_OUT_FAILED),
    "a sparse file of 2 TiB": (_sparse, PilotError.OUTPUT_FILE_TOO_LARGE),
    "an empty file": (_empty, PilotError.EMPTY_OUTPUT_FILE),
    f"a tree {DEEP:,} folders deep": (_tree, PilotError.STAGE_OUT_FAILED),
    "nothing": (lambda _path: None, PilotError.MISSING_OUTPUT_FILE),
}


def outputs(scratch: Path, many: int) -> Iterator[Row]:
    """One hostile output each; then the first of them behind ``many`` good ones: nothing may be sent before it is seen."""
    for what, (make, expected) in OUTPUTS.items():
        with _folder(scratch) as root:
            make(root / "work" / NAME)
            yield _staged_out(what, root, (NAME,), expected)
    with _folder(scratch) as root:
        names = tuple(f"{number:06d}.root" for number in range(many))
        for name in names:
            (root / "work" / name).write_bytes(b"x")
        _fifo(root / "work" / NAME)
        yield _staged_out(f"{many:,} outputs, the last a pipe", root, (*names, NAME), PilotError.STAGE_OUT_FAILED)


def _staged_out(what: str, root: Path, names: Sequence[str], expected: PilotError) -> Row:
    disk = root / "disk"
    door = Door(1, "file", f"file://{disk}", "/rse")
    endpoint = Endpoint("DISK", True, doors={"write_lan": (door,)})
    queue = Queue("Q", "Q", "SITE", True, QueueStatus.ONLINE, storages={"write_lan": ("DISK",)})
    stager = JobStager(queue, lambda _name, _stop: endpoint, open_stores(StorageOptions()))
    files = tuple(FileSpec(name, "user.bench") for name in names)
    job = Job(Attempt(1, 1), 1, "job", "trf", "", "managed", Resources(), (), files)

    def store() -> PilotError | None:
        try:
            stager.stage_out(job, root / "work", Stop())
        except StageOutError as error:
            return error.diagnosis.error
        return None

    found, took_s = _timed(store)
    stored = [path for path in disk.rglob("*") if path.is_file()]
    outcome = "stored" if found is None else getattr(found, "name", str(found))
    return Row(what, "stage-out", outcome, took_s, found is expected and not stored and took_s < GOAL_S)


# --- work folders: what is left after the payload


def _many_files(work: Path, many: int) -> None:
    for number in range(many):
        (work / f"{number:06d}.txt").touch()


def _many_folders(work: Path, many: int) -> None:
    for number in range(many // 10):
        (work / f"{number:06d}").mkdir()
        for inner in range(9):
            (work / f"{number:06d}" / f"{inner}.txt").touch()


def _names_to_fool(work: Path, many: int) -> None:
    for number in range(many // 100):
        (work / f"\x1b]0;evil\x07\n-rf {number}\udcff").write_bytes(b"x")


def _poison(work: Path, _many: int) -> None:
    """Every kind of output that is refused, by the names of logs and by others."""
    for number, (make, _code) in enumerate(OUTPUTS.values()):
        make(work / f"poison-{number}")
    for name, make in (("payload-log.json", _link_to_pilot), ("memory_monitor_output.txt", _fifo)):
        make(work / name)
    _sparse(work / "memory_monitor_summary.json")


FOLDERS: dict[str, Callable[[Path, int], None]] = {
    "{many} files in one folder": _many_files,
    "{many} files and folders": _many_folders,
    "names with escapes, line ends and broken bytes": _names_to_fool,
    "pipes, links, sockets and sparse files as logs": _poison,
    f"a tree {DEEP:,} folders deep": lambda work, _many: _tree(work / "tree"),
}


def folders(scratch: Path, many: int) -> Iterator[Row]:
    """Each folder three times: into the bundle, measured, removed."""
    for name, fill in FOLDERS.items():
        what = name.format(many=f"{many:,}")
        with _folder(scratch) as root:
            folder = JobFolder(root)
            folder.logs.mkdir()
            for log in (folder.pilot_log, folder.stdout, folder.stderr):
                log.write_text("a line\n")
            fill(folder.work, many)
            yield _bundled(what, folder)
            use, took_s = _timed(lambda folder=folder: folder_use((folder.work,)))  # type: ignore[misc]
            there = _count(folder.work)
            counted = use if isinstance(use, str) else f"{use.entries:,} of {there:,} counted"
            yield Row(
                what,
                "disk limit",
                counted,
                took_s,
                not isinstance(use, str) and use.entries == there and took_s < GOAL_S,
            )
            found, took_s = _timed(folder.remove)
            outcome = found if isinstance(found, str) else "removed" if not root.exists() else "left behind"
            yield Row(what, "removal", outcome, took_s, outcome == "removed" and took_s < GOAL_S)


def _count(folder: Path) -> int:
    """By another program than ours: what lies below a folder."""
    found = subprocess.run(["find", str(folder), "-mindepth", "1", "-printf", "x"], capture_output=True, check=True)
    return len(found.stdout)


def _bundled(what: str, folder: JobFolder) -> Row:
    target = folder.root / "bundle.tgz"

    def bundle() -> int:
        with target.open("wb") as file:
            write_bundle(BundlePlan(folder, "PandaJob_1", frozenset()), file, lambda: None)
        return 1

    found, took_s = _timed(bundle)
    if isinstance(found, str):
        return Row(what, "bundle", found, took_s, right=False)
    leaked, members = _look_into(target)
    outcome = f"{members:,} members{', A SECRET' if leaked else ''}"
    return Row(what, "bundle", outcome, took_s, not leaked and took_s < GOAL_S)


def _look_into(bundle: Path) -> tuple[bool, int]:
    """Whether anything of the pilot's or the machine's is in it, and how many members it has."""
    members, leaked = 0, False
    with tarfile.open(bundle, "r:gz") as archive:
        for member in archive:
            members += 1
            content = archive.extractfile(member) if member.size < 1 << 20 else None
            text = content.read() if content else b""
            leaked |= not member.isfile() or SECRET in text or b"root:" in text
    return leaked, members


# --- both


@contextmanager
def _folder(scratch: Path) -> Iterator[Path]:
    """A folder with an empty ``work`` in it, gone afterwards whatever lies in it."""
    root = scratch / "job"
    (root / "work").mkdir(parents=True)
    try:
        yield root
    finally:
        if root.exists() and os.spawnvp(os.P_WAIT, "rm", ["rm", "-rf", str(root)]) != 0:
            raise BenchError(f"{root} cannot be removed")


def _timed(work: Callable[[], T]) -> tuple[T | str, float]:
    """What it gives, or in words why it gave nothing; and how long it took. Cut off after GIVEN_UP_S."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not through after {GIVEN_UP_S:.0f} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, GIVEN_UP_S)
    began_s = time.monotonic()
    found: T | str
    try:
        found = work()
    except Exception as error:  # noqa: BLE001 - whatever escapes is the row's outcome
        found = f"{type(error).__name__}: {error}"[:100]
    finally:
        took_s = time.monotonic() - began_s
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found, took_s


HEAD = ("what the payload left", "step", "outcome", "s", "as it should be")


def tables(rows: Sequence[Row], machine: Machine) -> str:
    """In Markdown."""
    cells = [(row.what, row.step, row.outcome, f"{row.took_s:.2f}", "yes" if row.right else "**no**") for row in rows]
    return f"{table(HEAD, cells)}\n\n{machine.sentence()} Goal: less than {GOAL_S:.0f} s each."


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a row is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MANY:,} names instead of {MANY:,}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    many, machine, rows = QUICK_MANY if options.quick else MANY, Machine(), list[Row]()
    with scratch_folder() as scratch:
        for measured in (outputs(scratch, many), folders(scratch, many)):
            for row in measured:
                say(f"{row.what}, {row.step}: {row.outcome}, {row.took_s:.2f} s")
                rows.append(row)
    write_part(
        options.json,
        "hostile",
        {"machine": machine.record(), "rows": [asdict(row) for row in rows]},
        tables(rows, machine),
    )
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
