"""Tokens: the OIDC-like bearer tokens of the PanDA server, and Google's OAuth endpoint and metadata server in small."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pilot.sandbox.certs import write_private
from pilot.sandbox.http_server import Answer, Request

PILOT_GROUPS = ("Rubin", "Rubin/production", "panda_dev/pilot", "panda_dev/production")
KNOWN_VOS = ("Rubin", "panda_dev", "wlcg", "osg")
PILOT_NAME = "robot pilot rubin"
TOKEN_LIFETIME_S = 24 * 3600.0
GOOGLE_TOKEN_LIFETIME_S = 3600
LARGEST_LOG_ENTRY_BYTES, LARGEST_LOG_REQUEST_BYTES = 256 * 1024, 10 * 1024 * 1024


class TokenRefused(Exception):
    """A bearer token or its Origin is not accepted; the message is the server's."""


class Issuer:
    """Signs and checks the bearer tokens of the PanDA server with a key kept in the state folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "oidc.key"
        if not path.exists():
            write_private(path, _new_rsa_key())
        self._key = path.read_text()
        self._public = _public_pem(self._key)
        self._not_before = 0.0

    def token(
        self,
        name: str | None = PILOT_NAME,
        groups: tuple[str, ...] = PILOT_GROUPS,
        user: str = "pilot1",
        lifetime_s: float = TOKEN_LIFETIME_S,
    ) -> str:
        """A new bearer token; a negative lifetime makes an expired one."""
        now = time.time()
        claims: dict[str, Any] = {
            "iss": "https://localhost/sandbox",
            "sub": user,
            "aud": "panda-sandbox",
            "iat": now,
            "exp": int(now + lifetime_s),
            "preferred_username": user,
            "groups": list(groups),
        }
        if name is not None:
            claims["name"] = name
        return jwt.encode(claims, self._key, algorithm="RS256")

    def expire_all(self) -> None:
        """From now on every token issued so far counts as expired."""
        self._not_before = time.time()

    def identity(self, token: str, origin: str | None) -> tuple[str, tuple[str, ...]]:
        """(DN, FQANs) of a token under an Origin header `<vo>`, `<vo>.<role>` or `<vo>:<role>`; TokenRefused otherwise."""
        if origin is None:
            raise TokenRefused(_NO_ORIGIN)
        vo, _, role = origin.replace(":", ".").partition(".")
        claims = self._claims(token)
        if vo not in KNOWN_VOS:
            raise TokenRefused(f"Unknown vo : {vo}")
        group = f"{vo}/{role}" if role else vo
        if group not in claims.get("groups", []):
            raise TokenRefused(f"Not a member of the {group} group")
        name = claims.get("name")
        dn = " ".join(word.capitalize() for word in name.split()) if name else claims["sub"]
        if name and claims.get("preferred_username"):
            dn += f"/CN=nickname:{claims['preferred_username']}"
        return dn, (f"/{vo}/Role={role}",) if role else (f"/{vo}",)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(token, self._public, algorithms=["RS256"], audience="panda-sandbox")
        except jwt.PyJWTError as error:
            raise TokenRefused(f"Invalid token. {error}") from None
        if float(claims.get("iat", 0)) < self._not_before:
            raise TokenRefused("Invalid token. Signature has expired")
        return claims


class Renewals:
    """Renewal of bearer tokens (`get_access_token`): refused to everybody who has not been given the right to it.

    The recorded servers gave nobody that right; what a granted call answers is read in their source. `answer` is the token
    to give, a fresh one when None.
    """

    CLIENT = "pilot_server"

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.keys: set[str] = set()
        self.readers: set[str] = set()
        self.answer: str | None = None

    def token(self, reader: str, client: object, key: object) -> str:
        """A token for `client`; RenewalRefused with the server's words, None where it has none of its own to say."""
        if reader not in self.readers:
            raise RenewalRefused(None)
        if client != self.CLIENT:
            raise RenewalRefused(f"'token' not found for {client}")
        if key not in self.keys:
            raise RenewalRefused(f"failed since token key is invalid for {client}")
        return self.answer if self.answer is not None else self._issuer.token()


class RenewalRefused(Exception):
    """No token is given; `words` is None for a caller without the right."""

    def __init__(self, words: str | None) -> None:
        super().__init__(words)
        self.words = words


# The recorded server falls over a missing Origin and shows its traceback; pilots must cope with that text.
_NO_ORIGIN = (
    "Token decode failure. 'NoneType' object has no attribute 'replace' Traceback (most recent call last):\n"
    '  File "<site-packages>/pandaserver/srvcore/panda_request.py", line 36, in decode_token\n'
    '    vo_role = vo.replace(":", ".")\n'
    "              ^^^^^^^^^^\n"
    "AttributeError: 'NoneType' object has no attribute 'replace'\n"
)


class Google:
    """Google's token endpoint for service account keys, and the metadata server of a node, as far as a pilot needs them.

    `mode` is "ok", "expired" (tokens that are already over), or an HTTP status to answer with, such as "401" or "403".
    """

    EMAIL = "pilot@sandbox.iam.gserviceaccount.com"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / "gcs-account.key"
        if not path.exists():
            write_private(path, _new_rsa_key())
        self._key = path.read_text()
        self._public = _public_pem(self._key)
        self._lock = threading.Lock()
        self.log_entries: list[dict[str, Any]] = []
        self.mode = "ok"
        self.preempted = False
        self.issued = 0

    def write_key_file(self, token_uri: str) -> Path:
        """Write the made-up service account key file whose `token_uri` is the sandbox's own endpoint."""
        path = self._folder / "gcs-key.json"
        key = {
            "type": "service_account",
            "project_id": "sandbox",
            "private_key_id": "0" * 40,
            "private_key": self._key,
            "client_email": self.EMAIL,
            "client_id": "1",
            "token_uri": token_uri,
        }
        write_private(path, json.dumps(key, indent=1).encode())
        return path

    def token_endpoint(self, request: Request) -> Answer:
        """`POST /oauth/token` with a signed assertion (RFC 7523)."""
        form = parse_qs(request.body.decode("utf-8", "replace"))
        try:
            jwt.decode(
                form.get("assertion", [""])[0],
                self._public,
                algorithms=["RS256"],
                issuer=self.EMAIL,
                options={"verify_aud": False, "require": ["exp", "iss"]},
                leeway=10,
            )
        except jwt.PyJWTError as error:
            return _json(400, {"error": "invalid_grant", "error_description": str(error)})
        if request.method != "POST":
            return _json(405, {"error": "invalid_request"})
        return self._new_token()

    def write_log_entries(self, request: Request) -> Answer:
        """`POST /v2/entries:write` of Cloud Logging: entries that are wrong are named, the others are kept."""
        scheme, _, token = request.header("Authorization").partition(" ")
        number = token.removeprefix("sandbox-")
        if scheme != "Bearer" or not number.isdigit() or not 0 < int(number) <= self.issued:
            return _json(401, {"error": {"code": 401, "message": "Request had invalid authentication credentials."}})
        if len(request.body) > LARGEST_LOG_REQUEST_BYTES:
            return _json(400, {"error": {"code": 400, "message": "Request payload size exceeds the limit."}})
        try:
            given = json.loads(request.body.decode("utf-8"), parse_constant=_no_number)
            entries = [(entry, len(json.dumps(entry))) for entry in given["entries"]]
        except (ValueError, KeyError, TypeError) as error:
            return _json(400, {"error": {"code": 400, "message": f"Invalid JSON payload received. {error}"}})
        wrong = {str(i): {"code": 3} for i, (entry, size) in enumerate(entries) if not _log_entry_fits(entry, size)}
        kept = [
            entry | {"resource": given.get("resource")} for i, (entry, _) in enumerate(entries) if str(i) not in wrong
        ]
        with self._lock:
            known = {entry["insertId"] for entry in self.log_entries}
            self.log_entries += [entry for entry in kept if entry["insertId"] not in known]
        if not wrong:
            return _json(200, {})
        details = [{"@type": "type.googleapis.com/...WriteLogEntriesPartialErrors", "logEntryErrors": wrong}]
        return _json(400, {"error": {"code": 400, "message": "Some entries are too large.", "details": details}})

    def metadata(self, request: Request) -> Answer:
        """`/computeMetadata/v1/...` of a node; asks for the header `Metadata-Flavor: Google` as the real one does."""
        flavor = {"Metadata-Flavor": "Google"}
        if request.path in ("/", "/computeMetadata", "/computeMetadata/"):
            return Answer(200, b"computeMetadata/\n", headers=flavor)
        if request.header("Metadata-Flavor") != "Google":
            return Answer.text(403, "Missing Metadata-Flavor:Google header.\n")
        path = request.path.removeprefix("/computeMetadata/v1/").rstrip("/")
        if account := path.partition("instance/service-accounts/")[2]:
            return self._account(account.partition("/")[2], flavor)
        texts = {
            "instance/preempted": "TRUE" if self.preempted else "FALSE",
            "instance/id": "1234567890123456789",
            "instance/zone": "projects/1/zones/us-central1-a",
            "project/project-id": "sandbox",
            "universe/universe-domain": "googleapis.com",
        }
        if path not in texts:
            return Answer.text(404, "Not Found\n")
        return Answer(200, texts[path].encode(), "application/text", flavor)

    def _account(self, what: str, flavor: dict[str, str]) -> Answer:
        if what == "token":
            answer = self._new_token()
            return Answer(answer.status, answer.body, answer.content_type, flavor)
        if what == "email":
            return Answer(200, self.EMAIL.encode(), "application/text", flavor)
        about = {
            "aliases": ["default"],
            "email": self.EMAIL,
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        }
        return Answer(200, json.dumps(about).encode(), "application/json", flavor)

    def _new_token(self) -> Answer:
        if self.mode.isdigit():
            return _json(int(self.mode), {"error": "invalid_client", "error_description": "refused by the sandbox"})
        with self._lock:
            self.issued += 1
            number = self.issued
        lifetime_s = 0 if self.mode == "expired" else GOOGLE_TOKEN_LIFETIME_S
        return _json(200, {"access_token": f"sandbox-{number}", "token_type": "Bearer", "expires_in": lifetime_s})


def _json(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/json")


def _log_entry_fits(entry: dict[str, Any], size_bytes: int) -> bool:
    named = re.fullmatch(r"projects/[a-z0-9-]+/logs/[A-Za-z0-9._%-]{1,511}", str(entry.get("logName")))
    return named is not None and isinstance(entry.get("jsonPayload"), dict) and size_bytes <= LARGEST_LOG_ENTRY_BYTES


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _new_rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_pem(private_pem: str) -> bytes:
    key = serialization.load_pem_private_key(private_pem.encode(), None)
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
