"""Several checksums of one stream in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache

from pilot.job.model import Checksum, ChecksumAlgorithm

ADLER_BASE = 65521
CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
COMBINABLE: frozenset[ChecksumAlgorithm] = frozenset({"adler32", "crc32c"})


class _Adler32:
    def __init__(self) -> None:
        from isal import isal_zlib  # 15 GB/s where zlib's comes to 3

        self._value = 1
        self._extend = isal_zlib.adler32

    def update(self, block: bytes) -> None:
        self._value = self._extend(block, self._value)

    def append(self, other: _Adler32, size_bytes: int) -> None:
        """As if ``size_bytes`` bytes, whose sum is ``other``, had been read next."""
        low, high = self._value & 0xFFFF, self._value >> 16
        other_low, other_high = other._value & 0xFFFF, other._value >> 16
        new_low = (low + other_low - 1) % ADLER_BASE
        new_high = (high + other_high + (low - 1) * size_bytes) % ADLER_BASE
        self._value = new_high << 16 | new_low

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Crc32c:
    def __init__(self) -> None:
        import google_crc32c

        self._value = 0
        self._extend = google_crc32c.extend

    def update(self, block: bytes) -> None:
        self._value = self._extend(self._value, block)

    def append(self, other: _Crc32c, size_bytes: int) -> None:
        """As if ``size_bytes`` bytes, whose sum is ``other``, had been read next."""
        self._value = _followed_by_zeros(self._value, size_bytes) ^ other._value

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _followed_by_zeros(crc: int, size_bytes: int) -> int:
    """The crc32c of the same bytes and ``size_bytes`` zeros behind them."""
    exponent = 0
    while size_bytes:
        if size_bytes & 1:
            crc = _product(_step(exponent), crc)
        exponent, size_bytes = exponent + 1, size_bytes >> 1
    return crc


@cache
def _step(exponent: int) -> tuple[int, ...]:
    """The step over 2 ** exponent bytes of zeros, by squaring the one before it. There are as many as a size has bits."""
    if exponent == 0:
        step = (CRC32C_POLYNOMIAL, *(1 << position for position in range(31)))  # over one bit
        for _doubling in range(3):
            step = _squared(step)
        return step
    return _squared(_step(exponent - 1))


def _product(matrix: tuple[int, ...], vector: int) -> int:
    """Over the field of two elements; ``matrix`` holds its columns."""
    found = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            found ^= column
        vector >>= 1
    return found


def _squared(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_product(matrix, column) for column in matrix)


class Checksums:
    """The running checksums of a stream. md5 costs 1.35 s per GB, adler32 and crc32c a tenth: ask only for what is needed."""

    def __init__(self, algorithms: Iterable[ChecksumAlgorithm]) -> None:
        self._running = {name: _start(name) for name in algorithms}

    def update(self, block: bytes) -> None:
        for running in self._running.values():
            running.update(block)

    def append(self, other: Checksums, size_bytes: int) -> None:
        """As if ``size_bytes`` bytes, whose sums are ``other``, had been read next. Only for sums of COMBINABLE kinds."""
        for name, running in self._running.items():
            running.append(other._running[name], size_bytes)  # type: ignore[union-attr, arg-type]  # both of one kind

    def get(self, algorithm: ChecksumAlgorithm) -> Checksum | None:
        """The checksum so far; None when it was not asked for."""
        running = self._running.get(algorithm)
        return Checksum(algorithm, running.hexdigest()) if running else None

    @property
    def adler32(self) -> str:
        """Eight hexadecimal digits; adler32 must have been asked for."""
        return self._running["adler32"].hexdigest()

    def mismatch(self, expected: Checksum) -> Checksum | None:
        """What was computed, when it differs from ``expected``; None when it agrees or was not asked for."""
        computed = self.get(expected.algorithm)
        if computed is None or computed.hexdigest == expected.hexdigest.lower():
            return None
        return computed


def _start(algorithm: ChecksumAlgorithm) -> _Adler32 | _Crc32c | hashlib._Hash:
    if algorithm == "adler32":
        return _Adler32()
    if algorithm == "crc32c":
        return _Crc32c()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha256()


def from_goog_hash(header: str) -> tuple[Checksum, ...]:
    """The crc32c of an ``x-goog-hash`` header (``crc32c=...,md5=...``); md5 is left out: it costs more to check than to move."""
    for part in header.split(","):
        algorithm, _equals, text = part.strip().partition("=")
        if algorithm == "crc32c" and (crc32c := from_base64("crc32c", text)):
            return (crc32c,)
    return ()


def from_base64(algorithm: ChecksumAlgorithm, text: str) -> Checksum | None:
    """A checksum as Google's stores write it (base64 of the big-endian bytes); None when it is not one."""
    import base64
    import binascii

    try:
        return Checksum(algorithm, base64.b64decode(text, validate=True).hex())
    except binascii.Error:
        return None
