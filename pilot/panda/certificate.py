"""When certificates end: read from their DER form, without a library.

``cryptography`` does this too, for 85 ms of every pilot's start and 8 MB of memory for as long as it idles. Nothing is
verified here: OpenSSL does that with the whole chain when a connection is made. Tests compare with ``cryptography``.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


class _Element(NamedTuple):
    """One DER element: its tag, and where its content lies."""

    tag: int
    first: int
    end: int


def ends_of_chain(pem: bytes) -> list[datetime]:
    """When each certificate in a PEM file ends (notAfter), in the file's order. Raises ValueError with what is wrong."""
    blocks = _PEM.findall(pem)
    if not blocks:
        raise ValueError("no certificate ends")
    return [_not_after(binascii.a2b_base64(block)) for block in blocks]


def _not_after(der: bytes) -> datetime:
    """RFC 5280, 4.1: Certificate { tbsCertificate { version?, serial, signature, issuer, validity { .., notAfter } ..."""
    certificate = _expect(der, _element(der, 0, len(der)), _SEQUENCE)
    if certificate.end != len(der):
        raise ValueError("bytes follow the certificate")
    signed = _expect(der, next(_elements(der, certificate), None), _SEQUENCE)
    fields = [field for field in _elements(der, signed) if field.tag != _VERSION]
    if len(fields) < 4 or fields[0].tag != _INTEGER:
        raise ValueError("it has no validity")
    dates = list(_elements(der, _expect(der, fields[3], _SEQUENCE)))
    if len(dates) != 2:
        raise ValueError("its validity has no end")
    return _moment(dates[1].tag, der[dates[1].first : dates[1].end].decode("ascii"))


def _moment(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME and re.fullmatch(r"\d{12}Z", text):
        century = "19" if text[:2] >= "50" else "20"
        return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    if tag == _GENERALIZED_TIME and re.fullmatch(r"\d{14}Z", text):
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    raise ValueError("its end is no date")


def _expect(der: bytes, element: _Element | None, tag: int) -> _Element:
    if element is None or element.tag != tag:
        raise ValueError(f"it is no certificate ({len(der)} bytes)")
    return element


def _elements(der: bytes, within: _Element) -> Iterator[_Element]:
    at = within.first
    while at < within.end:
        element = _element(der, at, within.end)
        yield element
        at = element.end


def _element(der: bytes, at: int, end: int) -> _Element:
    """The element at ``at``, which must end within ``end``. Raises ValueError."""
    if end - at < 2:
        raise ValueError("it is cut off")
    length, first = der[at + 1], at + 2
    if length & 0x80:  # so many bytes of length follow
        count = length & 0x7F
        length, first = int.from_bytes(der[first : first + count], "big"), first + count
        if not 1 <= count <= 4 or first > end:
            raise ValueError("a length in it is wrong")
    if first + length > end:
        raise ValueError("it is cut off")
    return _Element(der[at], first, first + length)
