from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.model import Checksum, ChecksumAlgorithm
from pilot.storage.checksum import COMBINABLE, Checksums, from_base64

KNOWN: dict[ChecksumAlgorithm, str] = {
    "adler32": "091e01de",
    "crc32c": "e3069283",
    "md5": hashlib.md5(b"123456789").hexdigest(),
    "sha256": hashlib.sha256(b"123456789").hexdigest(),
}


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_blocks_give_the_checksum_of_the_whole(blocks: list[bytes]) -> None:
    piecewise, whole = Checksums(KNOWN), Checksums(KNOWN)
    for block in blocks:
        piecewise.update(block)
    whole.update(b"".join(blocks))
    assert [piecewise.get(name) for name in KNOWN] == [whole.get(name) for name in KNOWN]


@pytest.mark.parametrize("algorithm", list(KNOWN))
def test_the_known_checksum_is_computed(algorithm: ChecksumAlgorithm) -> None:
    sums = Checksums([algorithm])
    sums.update(b"123456789")
    assert sums.get(algorithm) == Checksum(algorithm, KNOWN[algorithm])
    assert sums.mismatch(Checksum(algorithm, KNOWN[algorithm].upper())) is None
    assert sums.mismatch(Checksum(algorithm, "0")) == Checksum(algorithm, KNOWN[algorithm])


def test_leading_zeros_are_kept() -> None:
    sums = Checksums(["adler32"])
    assert sums.adler32 == "00000001"


def test_what_was_not_asked_for_is_not_compared() -> None:
    sums = Checksums(["adler32"])
    assert sums.get("md5") is None
    assert sums.mismatch(Checksum("md5", "0")) is None


def test_a_checksum_in_base64_is_read() -> None:
    assert from_base64("crc32c", "4waSgw==") == Checksum("crc32c", "e3069283")
    assert from_base64("crc32c", "no base64!") is None


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_sums_of_parts_give_the_sum_of_the_whole(parts: list[bytes]) -> None:
    whole = Checksums(COMBINABLE)
    whole.update(b"".join(parts))
    joined = Checksums(COMBINABLE)
    for part in parts:
        of_part = Checksums(COMBINABLE)
        of_part.update(part)
        joined.append(of_part, len(part))
    assert [joined.get(name) for name in COMBINABLE] == [whole.get(name) for name in COMBINABLE]


def test_sums_of_large_parts_are_put_together_too() -> None:
    block = bytes(range(256)) * 4096
    whole, first, second = (Checksums(COMBINABLE) for _ in range(3))
    for _ in range(40):
        first.update(block)
        whole.update(block)
    for _ in range(37):
        second.update(block)
        whole.update(block)
    first.append(second, 37 * len(block))
    assert [first.get(name) for name in COMBINABLE] == [whole.get(name) for name in COMBINABLE]
