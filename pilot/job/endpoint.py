"""The storage endpoint (RSE) as a frozen value, and the path rules that follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Door:
    """One protocol of an RSE (CRIC ``arprotocols``): ``endpoint`` is scheme and host or bucket, ``path`` the base path."""

    id: int
    flavour: str
    endpoint: str
    path: str

    @property
    def scheme(self) -> str:
        return self.endpoint.partition("://")[0].lower()

    def url(self, relative: str) -> str:
        """The full URL of an object below this door; doubled slashes between the parts are folded."""
        parts = [self.endpoint.rstrip("/"), self.path.strip("/"), relative.lstrip("/")]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One RSE (CRIC ``ddmendpoint``)."""

    name: str
    active: bool
    type: str = ""
    site: str = ""
    deterministic: bool = True
    is_object_store: bool = False
    is_tape: bool = False
    is_cache: bool = False
    token: str = ""
    bucket: str = ""  # resource.name of an object store
    doors: Mapping[str, tuple[Door, ...]] = field(default_factory=dict)  # activity -> doors, in CRIC's order


READ_ACTIVITIES = ("read_lan", "pr", "read_wan")
WRITE_ACTIVITIES = ("write_lan", "pw", "write_wan")


def doors_for(endpoint: Endpoint, activities: tuple[str, ...], schemes: tuple[str, ...]) -> tuple[Door, ...]:
    """All doors that speak one of ``schemes``, in the order of ``activities`` and then of CRIC, each door once."""
    found: list[Door] = []
    for activity in activities:
        found += [d for d in endpoint.doors.get(activity, ()) if d.scheme in schemes and d not in found]
    return tuple(found)


def deterministic_path(scope: str, lfn: str) -> str:
    """Rucio's deterministic relative path: scope with slashes for dots, two levels of md5, name (CRIC ``is_deterministic``)."""
    digest = hashlib.md5(f"{scope}:{lfn}".encode(), usedforsecurity=False).hexdigest()
    return "/".join([*(p for p in scope.split(".") if p), digest[0:2], digest[2:4], lfn])
