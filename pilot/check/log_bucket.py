"""The place of the logs, tried out: a small object is written, replaced as live logs are, read as the public does, removed."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable

from pilot.check.finding import Finding, ok, warning, wrong
from pilot.runtime.clock import utc_now
from pilot.runtime.http import Answer, OversizedAnswer, Session, Timeouts, TlsError, TransportError, call
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.store import (
    AccessRefused,
    MissingCredentials,
    NotFound,
    ObjectHeaders,
    StoreError,
    Stores,
    Untrusted,
)
from pilot.storage.upload import send

NAME = "log bucket"
READ_NAME = "public logs"
HEADERS = ObjectHeaders("text/plain; charset=utf-8", "no-cache")
ONCE = RetryPolicy("check", tries=1, first_s=0.1, cap_s=0.1, total_s=3.0)
TIMEOUTS = Timeouts(connect_s=1.5, read_s=2.0)
RIGHTS = "grant the pilot's account storage.objects.create and .delete on the bucket (roles/storage.legacyBucketWriter)"
PUBLIC = "let everybody read the bucket's objects (allUsers: roles/storage.objectViewer), or set --log-url-base"


def probe_name(queue_name: str) -> str:
    """The probe object's name below the door: in no job's folder, and never the same twice."""
    return f"{queue_name}/pilot-check/{secrets.token_hex(12)}.txt"


def tried_out(
    stores: Stores, url: str, public_url: str, ca: str | None, dated: Callable[[str, str], None], stop: Stop
) -> list[Finding]:
    """``url``: the probe object; ``public_url``: where everybody should find it. Leaves nothing behind where it may remove."""
    first, second = (f"{word} by pilot-start --check, {utc_now():%Y-%m-%d %H:%M:%S} UTC; may be removed\n".encode()
                     for word in ("written", "replaced"))  # fmt: skip
    try:
        send(stores, io.BytesIO(first), url, stop, headers=HEADERS, policy=ONCE)
    except StoreError as error:
        return [_cannot_write(error)]
    found = []
    try:
        send(stores, io.BytesIO(second), url, stop, headers=HEADERS, policy=ONCE)
        content, done = second, "written, replaced"
    except StoreError as error:
        content, done = first, "written"
        found.append(wrong(NAME, f"an object can be written and not replaced, as growing logs are: {error}", RIGHTS))
    found.append(_read_by_all(public_url, content, ca, dated))
    left = _remove(stores, url, stop)
    if not found or found[0].name != NAME:
        words = f"{url.rpartition('/')[0]}: a probe object was {done}"
        found.insert(0, ok(NAME, f"{words} and removed") if not left else warning(NAME, f"{words}; {left}", RIGHTS))
    return found


def _cannot_write(error: StoreError) -> Finding:
    remedies: dict[type[StoreError], str] = {
        MissingCredentials: "give --google-application-credentials for gs:// doors, --s3-key-file for s3:// doors",
        AccessRefused: RIGHTS,
        NotFound: "there is no such bucket: correct the storage's arprotocols in CRIC, or make the bucket",
        Untrusted: "give the store's certificate authority with --storage-ca",
    }
    remedy = next((remedies[kind] for kind in type(error).__mro__ if kind in remedies), "")
    return wrong(
        NAME, str(error), remedy or "see to it that the pod may reach the store; the store's own words say more"
    )


def _read_by_all(url: str, content: bytes, ca: str | None, dated: Callable[[str, str], None]) -> Finding:
    """As a browser reads it: without any credentials."""
    try:
        with Session(ca) as session:
            answer = call(session, "GET", url, timeouts=TIMEOUTS, max_bytes=1 << 20, total_s=TIMEOUTS.read_s)
    except TlsError as error:
        return wrong(READ_NAME, str(error), "give the store's certificate authority with --storage-ca")
    except (TransportError, OversizedAnswer) as error:
        return wrong(READ_NAME, str(error), PUBLIC)
    if date := answer.headers.get("date"):
        dated(url, date)
    return _as_read(url, answer, content)


def _as_read(url: str, answer: Answer, content: bytes) -> Finding:
    if answer.status != 200:
        return wrong(READ_NAME, f"HTTP {answer.status} at {url}", PUBLIC)
    if answer.body != content:
        remedy = "something between keeps old copies (logs are stored with Cache-Control: no-cache), or --log-url-base is wrong"
        return warning(READ_NAME, f"another text than was just written is read at {url}", remedy)
    return ok(READ_NAME, f"everybody can read {url.rpartition('/')[0]}")


def _remove(stores: Stores, url: str, stop: Stop) -> str:
    """Nothing when the probe is gone; else what is left of it."""
    try:
        stores.for_url(url).remove(url, stop)
    except StoreError as error:
        return f"it could not be removed and stays: {error}"
    return ""
