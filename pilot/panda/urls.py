"""The server's address as an operator may write it, brought to one form."""

from __future__ import annotations

from urllib.parse import urlsplit

from pilot.job.errors import SettingsError

# Paths that people paste along with the address; the client adds its own.
_PASTED_SUFFIXES = ("/server/panda", "/server", "/api/v1/pilot", "/api/v1", "/api")


def server_url(text: str) -> str:
    """``https://host[:port][/prefix]`` without a trailing slash. Raises SettingsError for anything a client must not use."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"The PanDA server {text!r} is not an address: {error}.") from error
    if parts.scheme == "http":
        raise SettingsError(f"The PanDA server {text!r} is plain http: credentials are sent over https only.")
    if parts.scheme != "https" or not parts.hostname:
        raise SettingsError(f"The PanDA server {text!r} is not an address: write it as https://host:25443.")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"The PanDA server's address for {parts.hostname} holds more than host, port and path.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}{'' if port is None else f':{port}'}{_prefix(parts.path)}"


def _prefix(path: str) -> str:
    bare = path.rstrip("/")
    for suffix in _PASTED_SUFFIXES:
        if bare.endswith(suffix):
            return bare.removesuffix(suffix).rstrip("/")
    return bare


def check_ca(path: str | None) -> None:
    """Raises SettingsError when ``--ca`` cannot hold certificate authorities.

    A folder must be hashed as OpenSSL wants it (``1a2b3c4d.0``), like /etc/grid-security/certificates.
    """
    import re
    from pathlib import Path

    if path is None:
        return
    place = Path(path)
    try:
        if place.is_dir():
            if not any(re.fullmatch(r"[0-9a-f]{8}\.\d+", entry.name) for entry in place.iterdir()):
                raise SettingsError(
                    f"The CA folder {path} holds no hashed names like 1a2b3c4d.0: run openssl rehash on it."
                )
        elif b"-----BEGIN" not in place.read_bytes():
            raise SettingsError(f"The CA file {path} holds no certificate in PEM form.")
    except OSError as error:
        raise SettingsError(f"The CA {path} cannot be read: {error.strerror or error}.") from error
