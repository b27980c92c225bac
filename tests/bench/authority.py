"""Certificates of the bench's own servers, and a hosts file by which they are Google's for those who look into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

GOOGLE_HOST = "storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM form; ``hosts`` replaces /etc/hosts in a mount namespace."""

    ca: Path
    certificate: Path
    key: Path
    hosts: Path


def make_certificates(folder: Path) -> Certificates:
    """A new authority and one certificate for localhost and for Google's store."""
    authority = trustme.CA(organization_name="pilot bench")
    issued = authority.issue_cert("localhost", "127.0.0.1", GOOGLE_HOST)
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key", folder / "hosts")
    made.ca.write_bytes(authority.cert_pem.bytes())
    made.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    made.key.touch(mode=0o600)
    made.key.write_bytes(issued.private_key_pem.bytes())
    made.hosts.write_text(f"127.0.0.1 localhost {GOOGLE_HOST}\n")
    return made


def seeing_google_here(hosts: Path, command: list[str]) -> list[str]:
    """The command in a mount namespace of its own, in which Google's host name is this machine's."""
    inside = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", inside, str(hosts), *command]
