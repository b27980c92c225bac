"""The sink's own sums agree with the bytes put together, and with what is known of the algorithm."""

from __future__ import annotations

import base64
import hashlib

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.sums import Sum, combined_crc32c


def summed(content: bytes, **how: bool) -> Sum:
    made = Sum(**how)
    for first in range(0, len(content), 7):
        made.update(content[first : first + 7])
    return made


def test_the_checksum_of_the_standards_nine_digits() -> None:
    assert f"{summed(b'123456789').crc32c:08x}" == "e3069283"


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_texts_together_have_the_combined_checksum(first: bytes, second: bytes) -> None:
    combined = combined_crc32c(google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert combined == google_crc32c.value(first + second)


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_parts_put_together_are_as_the_whole(parts: list[bytes]) -> None:
    whole = Sum(keep=True)
    for part in parts:
        whole.append(summed(part, keep=True))
    content = b"".join(parts)
    assert (whole.size_bytes, whole.crc32c) == (len(content), google_crc32c.value(content))
    assert b"".join(whole.content) == content


def test_md5_is_known_only_where_it_was_asked_for_and_of_no_parts() -> None:
    assert summed(b"abc", md5=True).md5 == hashlib.md5(b"abc", usedforsecurity=False).hexdigest()
    assert summed(b"abc").md5 is None
    whole = Sum(md5=True)
    whole.append(summed(b"abc", md5=True))
    assert whole.md5 is None


def test_google_writes_the_checksum_in_base64() -> None:
    assert base64.b64decode(summed(b"123456789").crc32c_text).hex() == "e3069283"
