"""When certificates end, compared with what cryptography reads from the same bytes."""

from __future__ import annotations

import base64
import datetime as dt
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pilot.panda.certificate import ends_of_chain

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
BEGIN = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ENDS = [
    dt.datetime(1999, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
    dt.datetime(2026, 2, 28, 0, 0, 0, tzinfo=dt.UTC),
    dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC),  # the last UTCTime
    dt.datetime(2050, 1, 1, tzinfo=dt.UTC),  # the first GeneralizedTime
    dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC),  # RFC 5280: no well-defined end
]


def certificate(end: dt.datetime, key: Key, name: str = "robot", serial: int = 4711) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(serial)
    builder = builder.public_key(key.public_key()).not_valid_before(BEGIN).not_valid_after(end)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 5), critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def from_der(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("end", ENDS, ids=str)
@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_the_end_is_what_cryptography_reads(end: dt.datetime, kind: str) -> None:
    keys: dict[str, Key] = {
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    made = certificate(end, keys[kind], name="n" * 60, serial=1 << 150)
    assert ends_of_chain(pem(made)) == [made.not_valid_after_utc] == [end]


def test_a_chain_has_an_end_for_each_and_keys_between_do_not_matter() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = [certificate(end, key) for end in ENDS]
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = b"Bag attributes\r\n" + pem(chain[0]).replace(b"\n", b"\r\n") + secret + pem(*chain[1:])
    assert ends_of_chain(text) == ENDS


def test_a_certificate_that_is_cut_off_anywhere_is_damaged() -> None:
    made = certificate(ENDS[1], ec.generate_private_key(ec.SECP256R1()))
    der = made.public_bytes(serialization.Encoding.DER)
    for size in range(len(der)):
        with pytest.raises(ValueError, match=r"\w"):
            ends_of_chain(from_der(der[:size]))
    with pytest.raises(ValueError, match="bytes follow"):
        ends_of_chain(from_der(der + b"\0"))


def test_whatever_the_bytes_are_it_is_a_date_or_a_value_error() -> None:
    made = certificate(ENDS[3], ec.generate_private_key(ec.SECP256R1()))
    der = made.public_bytes(serialization.Encoding.DER)
    dice = random.Random(7)
    read = 0
    for _ in range(20_000):
        changed = bytearray(der)
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(min(len(changed), 160))] = dice.randrange(256)
        try:
            (end,) = ends_of_chain(from_der(bytes(changed)))
        except ValueError:
            continue
        assert end.tzinfo is dt.UTC
        read += 1
    assert read > 100


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB", b"hello"])
def test_a_file_without_a_whole_certificate_is_damaged(text: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate ends"):
        ends_of_chain(text)
