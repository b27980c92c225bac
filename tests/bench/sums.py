"""Size and checksums of what a sink takes, put together from parts that come in any order.

Written apart from the pilot's own: what checks the pilot must not share its mistakes.
"""

from __future__ import annotations

import base64
import hashlib

import google_crc32c

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed


def _times(left: int, right: int) -> int:
    """The product of two polynomials modulo Castagnoli's; bit 31 is the constant term."""
    product = 0
    for position in range(31, -1, -1):
        if left >> position & 1:
            product ^= right
        right = right >> 1 ^ (POLYNOMIAL if right & 1 else 0)
    return product


def combined_crc32c(first: int, second: int, second_bytes: int) -> int:
    """The crc32c of two texts one behind the other."""
    power, base, exponent = 1 << 31, 1 << 30, 8 * second_bytes  # 1 and x; x to as many bits as the second has
    while exponent:
        if exponent & 1:
            power = _times(power, base)
        base, exponent = _times(base, base), exponent >> 1
    return _times(power, first) ^ second


class Sum:
    """Of one body, or of an object. ``content`` is kept only where the sink was told to keep."""

    def __init__(self, keep: bool = False, md5: bool = False) -> None:
        self.size_bytes = 0
        self.crc32c = 0
        self.content: list[bytes] = []
        self._keep = keep
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, block: bytes) -> None:
        self.size_bytes += len(block)
        self.crc32c = google_crc32c.extend(self.crc32c, block)
        if self._md5 is not None:
            self._md5.update(block)
        if self._keep:
            self.content.append(block)

    def append(self, other: Sum) -> None:
        """As if the other's bytes had come next. There is no md5 afterwards."""
        self.crc32c = combined_crc32c(self.crc32c, other.crc32c, other.size_bytes)
        self.size_bytes += other.size_bytes
        self.content += other.content
        self._md5 = None

    @property
    def md5(self) -> str | None:
        return self._md5.hexdigest() if self._md5 is not None else None

    @property
    def crc32c_text(self) -> str:
        """In base64, as Google writes it."""
        return base64.b64encode(self.crc32c.to_bytes(4, "big")).decode()
