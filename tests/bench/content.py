"""The files that are moved, and what must arrive: sizes and checksums, known before anything is measured."""

from __future__ import annotations

import base64
import filecmp
import random
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import google_crc32c
from isal import isal_zlib

from tests.bench.measure import BenchError

PIECE_BYTES = 1 << 20
COMPARED_FILES = 5  # whose bytes are compared, besides the size of each


@dataclass(frozen=True, slots=True)
class Shape:
    """``count`` files of ``size_bytes`` each."""

    name: str
    count: int
    size_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.count * self.size_bytes


@dataclass(frozen=True, slots=True)
class Content:
    """One file: its key in a bucket (and path below a folder), size and checksums, as hexadecimal digits."""

    key: str
    size_bytes: int
    adler32: str
    crc32c: str

    @property
    def goog_hash(self) -> str:
        """As Google's stores write it."""
        return f"crc32c={base64.b64encode(bytes.fromhex(self.crc32c)).decode()}"


def make_files(shape: Shape, folder: Path, prefix: str) -> tuple[Content, ...]:
    """The shape's files below ``folder/prefix``: random bytes, no two pieces alike, the same in each run."""
    (folder / prefix).mkdir(parents=True, exist_ok=True)
    seed = random.Random(20).randbytes(2 * PIECE_BYTES)
    return tuple(
        _make(folder, f"{prefix}/{number:04d}.dat", shape.size_bytes, number, seed) for number in range(shape.count)
    )


def _make(folder: Path, key: str, size_bytes: int, number: int, seed: bytes) -> Content:
    adler, crc, left_bytes, step = 1, 0, size_bytes, number
    with (folder / key).open("wb") as file:
        while left_bytes:
            first = step * 4099 % PIECE_BYTES
            piece = (step.to_bytes(8, "big") + seed[first : first + PIECE_BYTES - 8])[:left_bytes]
            file.write(piece)
            adler, crc = zlib.adler32(piece, adler), google_crc32c.extend(crc, piece)
            left_bytes, step = left_bytes - len(piece), step + 7919
    return Content(key, size_bytes, f"{adler:08x}", f"{crc:08x}")


def check_files(contents: Sequence[Content], source: Path, arrived: Path) -> None:
    """Raises BenchError unless every file has arrived in its size, and some of them byte for byte."""
    for content in contents:
        path = arrived / content.key
        if not path.is_file() or path.stat().st_size != content.size_bytes:
            raise BenchError(f"{content.key} did not arrive whole in {arrived}")
    picked = contents[:: max(1, len(contents) // COMPARED_FILES)][:COMPARED_FILES]
    for content in picked:
        if not filecmp.cmp(source / content.key, arrived / content.key, shallow=False):
            raise BenchError(f"{content.key} arrived changed")


def checksum_rate_bytes_per_s(block: bytes, checksum: str) -> float:
    """Bytes a second of CPU time on one core, in the blocks the engine hashes (``adler32`` or ``crc32c``)."""
    compute = {"adler32": partial(isal_zlib.adler32, block, 1), "crc32c": partial(google_crc32c.extend, 0, block)}[
        checksum
    ]
    count, begun_s = 0, time.process_time()
    while (spent_s := time.process_time() - begun_s) < 0.2:
        for _ in range(50):
            compute()
        count += 50
    return count * len(block) / spent_s
