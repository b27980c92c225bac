"""A request as it goes over the wire, before any server is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# v1 answers JSON only when Accept or Content-Type *equals* this; a charset parameter or a list turns it into a Python
# repr. Legacy looks at Accept alone (panda-wire, section 2).
JSON_TYPE = "application/json"


class NotSendable(Exception):
    """The fields cannot be made into a request the server would take; one sentence."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    """Method, path (with query), headers and body; no server and no credentials. Equal values give equal bytes."""

    method: Literal["GET", "POST"]
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
