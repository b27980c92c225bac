"""The one place where TLS is set up: always verified, no environment, nothing asked of whoever sits at the terminal."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

DEFAULT_CA = "/etc/ssl/certs/ca-certificates.crt"  # Debian's bundle; falls back to certifi's where it is absent

_Stamp = tuple[int, int, int]


def client_context(ca_path: str | None = None, client_cert: tuple[str, str] | None = None) -> ssl.SSLContext:
    """Trusts what is named and nothing else, and checks the host's name. A context is kept until one of its files changes:
    reading a system's bundle takes 20 ms.

    ``ca_path``: a bundle or a hashed folder, else the system's. ``client_cert``: certificate and key paths. Raises OSError
    (ssl.SSLError among it) with a file that cannot be used.
    """
    ca = ca_path or system_ca()
    return _context(ca, client_cert, tuple(_stamp(path) for path in (ca, *(client_cert or ()))))


def system_ca() -> str:
    """The system's CA bundle, without asking any environment variable."""
    if Path(DEFAULT_CA).exists():
        return DEFAULT_CA
    import certifi

    return certifi.where()


@lru_cache(maxsize=8)
def _context(ca: str, client_cert: tuple[str, str] | None, _stamps: tuple[_Stamp, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if Path(ca).is_dir():
        context.load_verify_locations(capath=ca)
    else:
        context.load_verify_locations(cafile=ca)
    if client_cert is not None:
        context.load_cert_chain(*client_cert, password=_no_password)
    return context


def _no_password() -> str:
    """A key with a password cannot be used by a program that nobody watches; OpenSSL would ask for it at the terminal."""
    raise ssl.SSLError("the key is protected by a password")


def _stamp(path: str) -> _Stamp:
    status = Path(path).stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
