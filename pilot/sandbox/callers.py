"""Who calls, and what the caller may do: certificates, bearer tokens, roles, bans. Section 3 of the wire contract."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pilot.sandbox.http_server import Answer, Request
from pilot.sandbox.tokens import Issuer, TokenRefused

PRODUCTION_WORDS = ("iddssv1", "Robot", "Pilot")
# The legacy API additionally lets in names with this word.
PILOT_OWNER = "pilot"


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity of one request; `dn` is None when it has none."""

    dn: str | None
    fqans: tuple[str, ...] = ()

    @property
    def has_production_role(self) -> bool:
        if self.dn is None:
            return False
        by_role = any(re.fullmatch(r"/[^/]+/Role=production", fqan) for fqan in self.fqans)
        return by_role or any(word in self.dn for word in PRODUCTION_WORDS)

    @property
    def is_legacy_pilot(self) -> bool:
        return self.has_production_role or (self.dn is not None and PILOT_OWNER in self.dn)

    @property
    def is_limited(self) -> bool:
        return "/CN=limited proxy" in (self.dn or "")

    @property
    def name(self) -> str:
        """The name without nickname and proxy numbers: the last common name that is none of these."""
        names = [part for part in re.split(r"/(?:CN|cn)=", self.dn or "") if part]
        plain = [name for name in names if not re.fullmatch(r"\d+|proxy|limited proxy|nickname:.*", name)]
        return plain[-1].split("/")[-1] if plain else ""


class Callers:
    """Finds the caller of a request; a bad token or a banned user is an answer at once."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.banned: set[str] = set()

    def identify(self, request: Request) -> Caller | Answer:
        fqans: tuple[str, ...] = ()
        dn = None
        scheme, _, token = request.header("Authorization").partition(" ")
        if scheme == "Bearer" and token.strip():
            try:
                dn, fqans = self._issuer.identity(token.strip(), request.headers.get("origin"))
            except TokenRefused as error:
                return Answer.text(403, f"ERROR : Token authentication failed. {error}")
        if request.dn:
            # The certificate's name wins, but the token had to be valid, and its role does not count for the certificate.
            dn, fqans = request.dn, ()
        caller = Caller(dn, fqans)
        if caller.name in self.banned:
            return Answer.text(403, f"ERROR : {caller.name} is banned")
        return caller
