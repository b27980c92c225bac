"""Who we are to the server: a certificate or proxy, a token, or both; read anew whenever the files change.

With both, the certificate's name counts and the token must be valid all the same (server rule, panda-wire section 3).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.panda.certificate import ends_of_chain
from pilot.runtime.clock import utc_now
from pilot.runtime.secret import MAX_SECRET_FILE_BYTES, Secret, SecretFile, came_to_know

FileStamp = tuple[int, int, int]

_MAX_TOKEN_CHARS = 16 << 10  # web servers cut header lines there or earlier
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")


class CredentialsUnusable(Exception):
    """A credential file cannot be used as it is now; one sentence: which, why, what to do."""

    exit_code = ExitCode.CREDENTIALS


class CredentialsTooShort(CredentialsUnusable):
    """The certificate or proxy is good now and will expire before a job could be run."""

    exit_code = ExitCode.PROXY_TOO_SHORT


@dataclass(frozen=True, slots=True)
class X509Credentials:
    """PEM files for the TLS client certificate. For a proxy both paths are the same file."""

    cert_path: Path
    key_path: Path

    def stamp(self) -> tuple[FileStamp, FileStamp]:
        """Changes when either file is replaced or rewritten. Raises CredentialsUnusable."""
        return _stamp(self.cert_path), _stamp(self.key_path)

    def check_readable(self) -> None:
        """Raises CredentialsUnusable unless OpenSSL can load both without asking anybody for a pass phrase."""
        _read_pem(self.cert_path, b"-----BEGIN CERTIFICATE-----", "certificate")
        key = _read_pem(self.key_path, b"PRIVATE KEY-----", "private key")
        came_to_know(Secret(key.decode("utf-8", "replace").strip()))  # OpenSSL will read the file itself
        if b"BEGIN ENCRYPTED PRIVATE KEY" in key or b"Proc-Type: 4,ENCRYPTED" in key:
            raise CredentialsUnusable(
                f"The private key in {self.key_path} is protected by a pass phrase, which a pilot cannot type: "
                "give a proxy or an unprotected key."
            )

    def check(self, min_lifetime_s: float) -> None:
        self.check_readable()
        end = _ends(self.cert_path)
        left_s = (end - utc_now()).total_seconds()
        if left_s <= 0:
            raise CredentialsUnusable(f"The certificate in {self.cert_path} expired on {_utc(end)}: renew it.")
        if left_s < min_lifetime_s:
            raise CredentialsTooShort(
                f"The certificate in {self.cert_path} expires on {_utc(end)}, in {left_s:.0f} s; "
                f"{min_lifetime_s:.0f} s are needed: renew it."
            )


class RenewedToken:
    """A token the server gave us in place of the file's. It is kept in this process only: the file may be a read-only mount."""

    def __init__(self) -> None:
        self.secret: Secret | None = None
        self.trusted = True


@dataclass(frozen=True, slots=True)
class TokenCredentials:
    """A bearer token in a file, and the Origin header (``<vo>``, ``<vo>.<role>`` or ``<vo>:<role>``) it is used with.

    Of the file's token and a renewed one that which ends later is used, until the server does not take it; then they are
    tried in turn. The file may be rotated at any time.
    """

    token: SecretFile
    origin: str
    renewed: RenewedToken = field(default_factory=RenewedToken, compare=False)

    def headers(self) -> dict[str, str]:
        """Authorization and Origin with the token as it is now. Raises CredentialsUnusable."""
        return {"Authorization": f"Bearer {self._text()}", "Origin": self.origin}

    def check(self) -> None:
        """Raises CredentialsUnusable for a token or origin that no server would take, an expired token included."""
        if not _ORIGIN.fullmatch(self.origin):
            raise CredentialsUnusable(
                f"The token's origin {self.origin!r} is not of the form <vo> or <vo>.<role>: the PanDA server needs it."
            )
        left_s = self.left_s()
        if left_s is not None and left_s <= 0:
            end = token_end(self._text())
            raise CredentialsUnusable(f"The token in {self.token.path} expired on {_utc(end or utc_now())}: renew it.")

    def left_s(self) -> float | None:
        """Seconds until the token in use ends; None when it does not say. Raises CredentialsUnusable."""
        end = token_end(self._text())
        return None if end is None else (end - utc_now()).total_seconds()

    def adopt(self, token: Secret) -> bool:
        """Use a renewed token from now on; False for what is none, or does not end later than the one in use."""
        text = token.reveal()
        end = token_end(text)
        if end is None or end <= utc_now() or not _usable(text):
            return False
        try:
            now = token_end(self._text())
        except CredentialsUnusable:
            now = None
        if now is not None and now >= end:
            return False
        self.renewed.secret, self.renewed.trusted = token, True
        return True

    def _text(self) -> str:
        renewed = self.renewed.secret
        try:
            text = self._of_file()
        except CredentialsUnusable:
            if renewed is None:
                raise
            return renewed.reveal()
        if renewed is None or not self.renewed.trusted:
            return text
        end, renewed_end = token_end(text), token_end(renewed.reveal())
        return renewed.reveal() if end is not None and renewed_end is not None and renewed_end > end else text

    def _of_file(self) -> str:
        path = self.token.path
        try:
            text = self.token.read().reveal()
        except OSError as error:
            raise CredentialsUnusable(_cannot_read(path, "token", error)) from error
        if not text:
            raise CredentialsUnusable(f"The token file {path} is empty: put the bare token (a JWT) into it.")
        if not _usable(text):
            raise CredentialsUnusable(f"The file {path} does not hold a bare token (a JWT) but something else.")
        return text


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything a call needs to say who we are; either part may be absent."""

    x509: X509Credentials | None = None
    token: TokenCredentials | None = None

    @classmethod
    def given(
        cls, x509_proxy: Path | None, cert: Path | None, key: Path | None, token_file: Path | None, origin: str | None
    ) -> Credentials:
        """Proxy or certificate, token, or both, as a person names them: a proxy before a certificate. Nothing is read yet."""
        x509, token = None, None
        if x509_proxy is not None:
            x509 = X509Credentials(x509_proxy, x509_proxy)
        elif cert is not None and key is not None:
            x509 = X509Credentials(cert, key)
        if token_file is not None and origin is not None:
            token = TokenCredentials(SecretFile(token_file), origin)
        return cls(x509, token)

    def client_cert(self) -> tuple[str, str] | None:
        """Certificate and key paths, as the TLS layer wants them."""
        return (str(self.x509.cert_path), str(self.x509.key_path)) if self.x509 else None

    def stamp(self) -> tuple[FileStamp, FileStamp] | None:
        return self.x509.stamp() if self.x509 else None

    def headers(self) -> dict[str, str]:
        return self.token.headers() if self.token else {}

    def try_the_other_token(self) -> None:
        """The server did not take our token: where there is a renewed one besides the file's, the other one is next."""
        if self.token:
            self.token.renewed.trusted = not self.token.renewed.trusted

    def check_readable(self) -> None:
        if self.x509:
            self.x509.check_readable()

    def check(self, min_lifetime_s: float = 0.0) -> None:
        """To be called at the start and before each job. ``min_lifetime_s`` is for certificates: tokens are renewed under us.

        Raises PilotCannotWork with exit code 68 (unusable) or 80 (too short).
        """
        if not self.x509 and not self.token:
            raise PilotCannotWork(
                ExitCode.CREDENTIALS,
                "no credentials for the PanDA server: give --x509-proxy FILE, or --cert FILE --key FILE, or --token-file FILE "
                "--origin VO (or try it all on this machine with --sandbox)",
            )
        try:
            if self.x509:
                self.x509.check(min_lifetime_s)
            if self.token:
                self.token.check()
        except CredentialsUnusable as error:
            raise PilotCannotWork(error.exit_code, str(error)) from error


def remaining_lifetime_s(path: Path) -> float:
    """Seconds until the first certificate of a PEM chain expires; negative when it has. Raises CredentialsUnusable."""
    return (_ends(path) - utc_now()).total_seconds()


def _usable(text: str) -> bool:
    return len(text) <= _MAX_TOKEN_CHARS and _TOKEN.fullmatch(text) is not None


def token_end(token: str) -> datetime | None:
    """``exp`` of a JWT, read without verifying anything; None for other tokens and unreadable claims."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _MAX_TOKEN_CHARS:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (binascii.Error, ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None


def _ends(path: Path) -> datetime:
    pem = _read_pem(path, b"-----BEGIN CERTIFICATE-----", "certificate")
    try:
        return min(ends_of_chain(pem))
    except ValueError as error:
        raise CredentialsUnusable(f"The certificate in {path} is damaged: {_first_words(error)}.") from error


def _read_pem(path: Path, marker: bytes, what: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise CredentialsUnusable(f"The {what} file {path} is not a regular file.")
        with path.open("rb") as file:
            pem = file.read(MAX_SECRET_FILE_BYTES)
    except OSError as error:
        raise CredentialsUnusable(_cannot_read(path, what, error)) from error
    if marker not in pem:
        raise CredentialsUnusable(f"The file {path} holds no {what} in PEM form.")
    return pem


def _stamp(path: Path) -> FileStamp:
    try:
        status = path.stat()
    except OSError as error:
        raise CredentialsUnusable(_cannot_read(path, "certificate", error)) from error
    return status.st_ino, status.st_mtime_ns, status.st_size


def _cannot_read(path: Path, what: str, error: OSError) -> str:
    return f"The {what} file {path} cannot be read: {error.strerror or error}."


def _first_words(error: Exception) -> str:
    return str(error).split("\n")[0][:100]


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
