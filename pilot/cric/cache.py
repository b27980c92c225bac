"""The node's copies of CRIC records: one file each, replaced whole, kept with where and when they were fetched."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from pilot.cric.document import BadDocument, decode, read_file
from pilot.runtime.clock import utc_now
from pilot.runtime.files import replace_atomically

LOG = logging.getLogger("pilot.cric")

CLOCK_SKEW_S = 300.0  # a file a little ahead of us is a matter of clocks; one far ahead would stay fresh for ever


@dataclass(frozen=True, slots=True)
class CachedDocument:
    """A raw document, the URL it came from, and its age by the file's mtime; below zero: written in our future."""

    document: object
    source: str
    age_s: float

    def is_fresh(self, max_age_s: float) -> bool:
        return -CLOCK_SKEW_S <= self.age_s <= max_age_s


class Cache:
    """A folder of records. It is a help and never a must: whatever is wrong with it is logged, and nothing is raised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, table: str, name: str) -> Path:
        """Where the record of a name (already checked by the client) lies."""
        return self._folder / f"{table}-{name}.json"

    def read(self, table: str, name: str, sources: tuple[str, ...]) -> CachedDocument | None:
        """The record, if it came from one of ``sources``: another CRIC may mean another queue by the same name."""
        path = self.path(table, name)
        try:
            wrapped = decode(read_file(path), str(path))
            age_s = utc_now().timestamp() - path.stat().st_mtime
        except FileNotFoundError:
            return None
        except (OSError, BadDocument) as error:
            LOG.warning("the cached record %s is left aside: %s", path, error)
            return None
        if not isinstance(wrapped, dict) or "document" not in wrapped or wrapped.get("source") not in sources:
            LOG.info("the cached record %s is left aside: it comes from none of the sources configured now", path)
            return None
        return CachedDocument(wrapped["document"], str(wrapped["source"]), age_s)

    def write(self, table: str, name: str, source: str, document: object) -> None:
        """Replace the record in one step, readable by the pilot's user alone."""
        path = self.path(table, name)
        wrapped = {"source": source, "fetched_at": utc_now().isoformat(timespec="seconds"), "document": document}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_atomically(path, json.dumps(wrapped).encode("ascii"), mode=0o600)
        except OSError as error:
            LOG.warning("the record could not be cached as %s: %s", path, error.strerror or error)
