"""Certificates of the sandbox: one authority, its server, the pilot's robot certificate, and RFC 3820 proxies.

The authority is trustme's. Client certificates are made here, since a grid name such as
`/DC=org/DC=example/OU=Robots/CN=Robot PanDA Pilot` has parts that trustme cannot write.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PILOT_DN = "/DC=org/DC=example/OU=Robots/CN=Robot PanDA Pilot"

_SHORT_NAMES = {
    "DC": NameOID.DOMAIN_COMPONENT,
    "C": NameOID.COUNTRY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}
_LONG_NAMES = {
    "domainComponent": "DC",
    "countryName": "C",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "commonName": "CN",
}
_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
_LIMITED = bytes.fromhex("300f300d060b2b060104019b5001010109")


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A certificate with its private key and the certificates between it and the authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def proxy_pem(self) -> bytes:
        """One file as grid tools write it: certificate, key, chain."""
        chain = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in self.chain)
        return self.certificate_pem + self.key_pem + chain


class Authority:
    """The sandbox's certificate authority, kept in the state folder so that a reused folder stays trusted."""

    def __init__(self, folder: Path) -> None:
        certificate, key = folder / "ca.pem", folder / "ca.key"
        if certificate.exists() and key.exists():
            self._ca = trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
        else:
            self._ca = trustme.CA(organization_name="PanDA sandbox")
            write_private(key, self._ca.private_key_pem.bytes())
            certificate.write_bytes(self._ca.cert_pem.bytes())
        self._certificate = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        self._key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)

    def write_server(self, certificate: Path, key: Path) -> None:
        """Write a server certificate for localhost, 127.0.0.1 and ::1."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1", "::1")
        write_private(key, issued.private_key_pem.bytes())
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def client(self, dn: str, lifetime: dt.timedelta = dt.timedelta(days=365)) -> Credential:
        """A client certificate with the given slash-separated name, valid from an hour ago for `lifetime`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_parse_dn(dn), self._certificate.subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_signing_only(), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())  # type: ignore[arg-type]
        )
        return Credential(certificate, key)


def make_proxy(
    parent: Credential, lifetime: dt.timedelta = dt.timedelta(hours=12), *, limited: bool = False
) -> Credential:
    """An RFC 3820 proxy of `parent` (itself a certificate or a proxy); its name ends in a new `/CN=<number>`."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = secrets.randbelow(2**31)
    subject = x509.Name(
        [
            *parent.certificate.subject,
            x509.NameAttribute(NameOID.COMMON_NAME, "limited proxy" if limited else str(serial)),
        ]
    )
    policy = x509.UnrecognizedExtension(_PROXY_CERT_INFO, _LIMITED if limited else _INHERIT_ALL)
    certificate = (
        _builder(subject, parent.certificate.subject, key.public_key(), lifetime)
        .add_extension(_signing_only(), critical=True)
        .add_extension(policy, critical=True)
        .sign(parent.key, hashes.SHA256())
    )
    return Credential(certificate, key, (parent.certificate, *parent.chain))


def dn_of_peer(peer: Mapping[str, Any]) -> str:
    """The slash-separated name of a certificate as `SSLSocket.getpeercert()` describes it."""
    parts: list[str] = []
    for attributes in peer.get("subject", ()):
        for name, value in attributes:
            parts.append(f"/{_LONG_NAMES.get(name, name)}={value}")
    return "".join(parts)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whatever the umask, replacing an older one at once."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(content)
    temporary.replace(path)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, lifetime: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    # A negative lifetime makes an expired certificate, which must still have begun before it ended.
    start = min(now, now + lifetime) - dt.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + lifetime)
    )


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _parse_dn(dn: str) -> x509.Name:
    pairs = [part.split("=", 1) for part in dn.strip("/").split("/")]
    return x509.Name([x509.NameAttribute(_SHORT_NAMES[name], value) for name, value in pairs])
