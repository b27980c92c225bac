"""Who we are, to the PanDA server and to the stores: there, readable, fitting, and for how much longer."""

from __future__ import annotations

import json
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pilot.check.finding import Finding, ok, refused, warning, wrong
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.panda.auth import Credentials, CredentialsUnusable, TokenCredentials, X509Credentials, remaining_lifetime_s
from pilot.runtime.secret import SecretFile
from pilot.storage.store import StoreError

SHORT_CERTIFICATE_S = 6 * 3600.0  # of a job of half a day it would not see the end, unless somebody renews it
SHORT_TOKEN_S = 600.0


def none_at_all() -> Finding:
    """Neither certificate nor token."""
    try:
        Credentials().check()
    except PilotCannotWork as refusal:
        return refused("credentials", refusal)
    raise AssertionError("nobody may work without credentials")


def certificate(x509: X509Credentials, least_s: float) -> Finding:
    """A certificate or proxy and its key."""
    name = "proxy" if x509.cert_path == x509.key_path else "certificate"
    try:
        x509.check(least_s)
        left_s = remaining_lifetime_s(x509.cert_path)
    except CredentialsUnusable as error:
        return wrong(name, str(error).rstrip("."), f"renew {x509.cert_path}", error.exit_code)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(x509.cert_path, x509.key_path)
    except (ssl.SSLError, OSError) as error:
        words = getattr(error, "reason", "") or str(error)
        detail = f"TLS cannot use {x509.cert_path} with {x509.key_path}: {words}"
        return wrong(name, detail, "give a certificate with its own key", ExitCode.SERVER_COMMUNICATION)
    detail = f"{x509.cert_path}, {_for(left_s)}"
    if left_s < SHORT_CERTIFICATE_S:
        return warning(name, detail, "see to it that it is renewed: the file is read anew for every connection")
    return ok(name, detail)


def token(credentials: TokenCredentials, key_file: Path | None) -> list[Finding]:
    """A bearer token, and the key it can be renewed with."""
    try:
        credentials.check()
        left_s = credentials.left_s()
    except CredentialsUnusable as error:
        remedy = f"put a valid token into {credentials.token.path}, and give its origin (--origin VO.role)"
        return [wrong("token", str(error).rstrip("."), remedy, error.exit_code)]
    path, origin = credentials.token.path, credentials.origin
    detail = f"{path} as {origin}, {'it does not say how long' if left_s is None else _for(left_s)}"
    if left_s is not None and left_s < SHORT_TOKEN_S and key_file is None:
        remedy = "see to it that the file is replaced in time: it is read anew for every request"
        found = [warning("token", detail, remedy)]
    else:
        found = [ok("token", detail)]
    if key_file is not None:
        found.append(_token_key(key_file))
    return found


def _token_key(path: Path) -> Finding:
    try:
        present = bool(SecretFile(path).read())
    except OSError as error:
        return warning(
            "token key", f"{path} cannot be read: {error.strerror}", "the token is not renewed by the server"
        )
    if not present:
        return warning("token key", f"{path} is empty", "the token is not renewed by the server")
    return ok("token key", f"{path}, present")


def google(key_file: Path | None, metadata_url: str, ca_path: str | None, *, needed: bool) -> Finding:
    """Whether Google gives us an access token. ``needed``: the logs go to a Google bucket."""
    if not needed and key_file is None:
        return ok("Google", "no key file is given, and the queue's logs need none")
    from pilot.storage.google_credentials import Bearer

    whose = f"key {key_file} of {_account(key_file)}" if key_file else f"Workload Identity at {metadata_url}"
    try:
        Bearer(key_file, metadata_url, ca_path).headers(whose)
    except StoreError as error:
        remedy = (
            "give a valid key with --google-application-credentials, and let the pod reach its token endpoint (--storage-ca)"
            if key_file
            else "name a service account's key with --google-application-credentials, or let the pod have Workload Identity"
        )
        return wrong("Google", str(error), remedy) if needed else warning("Google", str(error), remedy)
    return ok("Google", f"an access token for {whose}")


def _account(key_file: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(SecretFile(key_file).read().reveal())["client_email"])
    return "an unknown account"


def s3_key(key_file: Path) -> Finding:
    """The key of the pilot's own S3 transfers."""
    from pilot.storage.s3 import read_key

    try:
        read_key(SecretFile(key_file))
    except StoreError as error:
        return wrong("S3 key", str(error), "give a file with access_key and secret_key (--s3-key-file)")
    return ok("S3 key", f"{key_file}, present")


def _for(left_s: float) -> str:
    """``good for 11 h 20 min, until 2026-11-27 02:00 UTC``."""
    minutes = max(0, int(left_s // 60))
    hours, left_min = divmod(minutes, 60)
    days, left_h = divmod(hours, 24)
    words = f"{days} days {left_h} h" if days else f"{hours} h {left_min} min" if hours else f"{minutes} min"
    end = datetime.fromtimestamp(datetime.now(UTC).timestamp() + left_s, UTC)
    return f"good for {words}, until {end:%Y-%m-%d %H:%M} UTC"
