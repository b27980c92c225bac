"""Where a queue or storage comes from: a file, the cache, CRIC, the PanDA server's copy, a bucket, and at last an old cache.

The first source that has it wins. An unusable answer (garbage, HTML, an error status) is a reason to ask the next source;
the answer "no such name" is too, but an old cached record is not used against CRIC's own word that the name is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from re import ASCII, fullmatch
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from pilot.cric.cache import Cache, CachedDocument
from pilot.cric.document import MAX_DOCUMENT_BYTES, BadDocument, decode, read_file
from pilot.cric.parse import (
    BadEndpointData,
    BadQueueData,
    UnknownEndpoint,
    UnknownQueue,
    parse_endpoint,
    parse_queue,
)
from pilot.job.endpoint import Endpoint
from pilot.job.errors import ExitCode, PilotCannotWork, SettingsError
from pilot.job.queue import Queue
from pilot.runtime.http import Answer, OversizedAnswer, Session, Timeouts, TlsError, TransportError, call
from pilot.runtime.retry import CRIC_CALL, RetryPolicy, retry_call
from pilot.runtime.stop import Deadline, Stop

LOG = logging.getLogger("pilot.cric")

NAME = r"[A-Za-z0-9_.-]{1,100}"
MAX_AGE_S = 3 * 3600.0  # the field's convention: queue data is good for three hours
MAX_STALE_S = 30 * 86400.0  # beyond it the sizes and storages of a queue say little about today's
MAX_RETRY_AFTER_S = 10.0
TIMEOUTS = Timeouts(connect_s=5.0, read_s=10.0)

V = TypeVar("V", Queue, Endpoint)


class CricUnreachable(PilotCannotWork):
    """No source could be read at all, and no cached record is young enough (exit 71). ``problems``: one per source."""

    def __init__(self, what: str, problems: list[str]) -> None:
        super().__init__(
            ExitCode.NO_QUEUEDATA,
            f"{what} could not be had from any source ({'; '.join(problems) or 'none is configured'}): "
            "check the network, --cric and --ca",
        )
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[V]):
    """What differs between queues and storages. ``what`` is for people, ``table`` is CRIC's word."""

    what: str
    table: str
    parse: Callable[[object, str], V]
    unknown: type[UnknownQueue] | type[UnknownEndpoint]
    bad: type[BadQueueData] | type[BadEndpointData]

    def cric_url(self, base: str, name: str) -> str:
        return f"{base}/api/atlas/{self.table}/query/?json&{self.table}={name}"


QUEUE = _Kind("queue", "pandaqueue", parse_queue, UnknownQueue, BadQueueData)
ENDPOINT = _Kind("storage", "ddmendpoint", parse_endpoint, UnknownEndpoint, BadEndpointData)


class CricClient:
    """Queues and storages by name, from the first source that has them, within ``budget_s`` seconds over all sources.

    ``source``: CRIC's base URL; or a folder with ``<queue>.json`` and ``<rse>.json``, or one JSON file, which is then the
    only source. ``server_cache_urls``: PanDA server bases, asked for ``<base>/cache/schedconfig/<queue>.all.json``.
    ``bucket_url``: asked for ``<bucket_url>/<name>.json``. ``ca``: CA bundle path. Ages in seconds: a cached record up to
    ``max_age_s`` old is used without asking anybody, one up to ``max_stale_s`` old when nobody answers.
    SettingsError when a URL is none.
    """

    def __init__(
        self,
        source: str | Path,
        server_cache_urls: tuple[str, ...],
        cache_dir: Path,
        ca: str | None = None,
        bucket_url: str | None = None,
        timeouts: Timeouts = TIMEOUTS,
        max_age_s: float = MAX_AGE_S,
        max_stale_s: float = MAX_STALE_S,
        policy: RetryPolicy = CRIC_CALL,
        budget_s: float = 60.0,
    ) -> None:
        self._files = _local_path(source)
        self._cric_url = None if self._files else _web_base(str(source))
        self._server_urls = tuple(_web_base(url) for url in server_cache_urls)
        self._bucket_url = _web_base(bucket_url) if bucket_url else None
        self._cache = Cache(cache_dir)
        self._ca = ca
        self._timeouts = timeouts
        self._max_age_s = max_age_s
        self._max_stale_s = max_stale_s
        self._policy = policy
        self._budget_s = budget_s

    def queue(self, name: str, stop: Stop) -> Queue:
        """The PanDA queue ``name``.

        Raises UnknownQueue, CricUnreachable (exit 71), BadQueueData (72), SettingsError (a name that is none), Stopped.
        """
        return self._get(QUEUE, name, stop)

    def endpoint(self, name: str, stop: Stop) -> Endpoint:
        """The storage (RSE) ``name``.

        Raises UnknownEndpoint, CricUnreachable (exit 71), BadEndpointData (72), SettingsError (a name that is none), Stopped.
        """
        return self._get(ENDPOINT, name, stop)

    def _get(self, kind: _Kind[V], name: str, stop: Stop) -> V:
        if not fullmatch(NAME, name, ASCII) or name in (".", ".."):
            raise SettingsError(
                f"{name[:120]!r} is no {kind.what} name: up to 100 letters, digits, dots, dashes and underscores are"
            )
        stop.check()
        if self._files is not None:
            return _from_files(kind, self._files, name)
        urls = tuple(self._urls(kind, name))
        cached = self._cache.read(kind.table, name, urls)
        if cached is not None and cached.is_fresh(self._max_age_s):
            value = _parse_cached(kind, cached, name)
            if value is not None:
                return value
        return self._fetch(kind, name, urls, cached, stop)

    def _urls(self, kind: _Kind[V], name: str) -> Iterator[str]:
        if self._cric_url:
            yield kind.cric_url(self._cric_url, name)
        if kind.table == QUEUE.table:
            yield from (f"{base}/cache/schedconfig/{name}.all.json" for base in self._server_urls)
        if self._bucket_url:
            yield f"{self._bucket_url}/{name}.json"

    def _fetch(self, kind: _Kind[V], name: str, urls: tuple[str, ...], cached: CachedDocument | None, stop: Stop) -> V:
        """Ask source after source; each gets an equal share of what is left of the budget, so a slow one starves none."""
        budget = Deadline(self._budget_s)
        problems: list[PilotCannotWork | str] = []
        session = Session(self._ca)
        try:
            for position, url in enumerate(urls):
                share_s = budget.left_s() / (len(urls) - position)
                try:
                    document = self._download(session, url, share_s, stop)
                    value = kind.parse(document, name)
                except (TransportError, TlsError, OversizedAnswer, BadDocument) as error:
                    problems.append(str(error))
                except (kind.unknown, kind.bad) as error:
                    problems.append(error)
                else:
                    self._cache.write(kind.table, name, url, document)
                    return value
                stop.check()
                LOG.warning("%s %s: %s", kind.what, name, problems[-1])
        finally:
            session.close()
        return self._last_resort(kind, name, cached, problems)

    def _download(self, session: Session, url: str, share_s: float, stop: Stop) -> object:
        """The decoded JSON behind a URL. Raises TransportError, TlsError, OversizedAnswer or BadDocument."""
        source = Deadline(share_s)

        def ask() -> Answer:
            left_s = max(source.left_s(), 0.1)
            answer = call(
                session,
                "GET",
                url,
                headers={"Accept": "application/json", "Connection": "close"},  # asked once in hours: keep none open
                timeouts=Timeouts(min(self._timeouts.connect_s, left_s), min(self._timeouts.read_s, left_s)),
                max_bytes=MAX_DOCUMENT_BYTES,
                allow_redirects=True,
                total_s=left_s,
            )
            if answer.retryable:
                raise TransportError(f"{_host(url)} answered with HTTP {answer.status}", _retry_after_s(answer))
            return answer

        policy = replace(self._policy, total_s=min(self._policy.total_s, share_s))
        answer = retry_call(ask, policy, stop)
        if answer.status != 200:
            raise BadDocument(f"{_host(url)} answered with HTTP {answer.status}")
        return decode(answer.body, _host(url))

    def _last_resort(
        self, kind: _Kind[V], name: str, cached: CachedDocument | None, problems: list[PilotCannotWork | str]
    ) -> V:
        """An old record, unless CRIC (the first source) says that there is no such name; else the error that tells most."""
        unknown = [problem for problem in problems if isinstance(problem, kind.unknown)]
        if unknown and (problems[0] is unknown[0] or len(unknown) == len(problems)):
            raise unknown[0]
        if cached is not None and cached.age_s <= self._max_stale_s:
            value = _parse_cached(kind, cached, name)
            if value is not None:
                LOG.warning(
                    "%s %s: no source has it, so the record of %.1f hours ago from %s is used",
                    kind.what,
                    name,
                    cached.age_s / 3600,
                    _host(cached.source),
                )
                return value
        for problem in problems:
            if isinstance(problem, kind.bad):
                raise problem
        raise CricUnreachable(f"{kind.what} {name}", [str(problem) for problem in problems])


def _from_files(kind: _Kind[V], files: Path, name: str) -> V:
    """From the folder or file a person named: it is there and right, or the pilot says what is wrong with it."""
    path = files / f"{name}.json" if files.is_dir() else files
    try:
        document = decode(read_file(path), str(path))
    except FileNotFoundError:
        raise kind.unknown(name, f"there is no {path}") from None
    except OSError as error:
        raise kind.bad(name, f"{path} cannot be read ({error.strerror})") from None
    except BadDocument as error:
        raise kind.bad(name, str(error)) from None
    return kind.parse(document, name)


def _parse_cached(kind: _Kind[V], cached: CachedDocument, name: str) -> V | None:
    """None for a cached record that cannot be used: the cache is never a reason to fail."""
    try:
        return kind.parse(cached.document, name)
    except (kind.unknown, kind.bad) as error:
        LOG.warning("%s %s: the cached record is left aside: %s", kind.what, name, error)
        return None


def _local_path(source: str | Path) -> Path | None:
    """The path of a source that is not a URL."""
    if isinstance(source, Path):
        return source
    if source.startswith("file://"):
        return Path(source.removeprefix("file://"))
    return None if "://" in source else Path(source)


def _web_base(url: str) -> str:
    """A base URL without its trailing slash. A user name in it is refused: it would end up in logs and in the cache."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(sign in url for sign in "@?#"):
        shown = url.rpartition("@")[2][:200]
        raise SettingsError(f"{shown!r} is no place for CRIC data: give https://host[:port][/path], or a folder")
    return url.rstrip("/")


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _retry_after_s(answer: Answer) -> float | None:
    word = answer.headers.get("retry-after", "")
    return min(float(word), MAX_RETRY_AFTER_S) if fullmatch(r"[0-9]{1,6}", word, ASCII) else None
