"""The PanDA server's cache of small files, to which a worker's log is handed in; one form for each API generation.

Both are a multipart form with the field ``file``. What tells success is the body: refusals come with HTTP 200, as
``success: false`` or as a text that begins with ERROR (server rule).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

from pilot.job.model import ApiGeneration
from pilot.panda import meaning
from pilot.panda.auth import Credentials, CredentialsUnusable
from pilot.panda.errors import ServerRefused, ServerUnreachable
from pilot.panda.meaning import Accepted, Meaning, NoJobs, Refused, Retry, WrongGeneration
from pilot.panda.sessions import Sessions
from pilot.panda.urls import server_url
from pilot.panda.wire import JSON_TYPE
from pilot.runtime.http import Answer, OversizedAnswer, Timeouts, TlsError, TransportError, call
from pilot.runtime.retry import RetryableError, RetryPolicy, retry_call
from pilot.runtime.stop import Deadline, Stop, StopKind, Stopped, StopReason

PATHS = {ApiGeneration.V1: "/api/v1/file_server/upload_cache_file", ApiGeneration.LEGACY: "/server/panda/putFile"}
CONNECT_S, READ_S = 5.0, 30.0
BLOCK_BYTES = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,199}")
_THERE_ALREADY = "cannot overwrite"


@dataclass(frozen=True, slots=True)
class CacheForm:
    """One way to hand a file in: the generation's, the name it gets, and whether its content is gzip."""

    api: ApiGeneration
    name: str
    packed: bool


def worker_log_forms(
    apis: Sequence[ApiGeneration], given: str | None, harvester_id: str | None, worker_id: int | None
) -> tuple[CacheForm, ...]:
    """How a worker's log is handed in: as ``<HARVESTER_ID>_<workerID>_gz.out`` today, plain and as ``.out`` in 2021.

    ``given`` (``stdout_name``) is the name Harvester announced instead; one that could be a path or break the form is not
    used. Empty: there is no name for it.
    """
    forms = []
    usable = given if given is not None and _NAME.fullmatch(given) else None
    for api in apis:
        packed = api is ApiGeneration.V1 and (usable is None or usable.endswith("_gz.out"))
        if usable is not None:
            forms.append(CacheForm(api, usable, packed))
        elif harvester_id is not None and worker_id is not None:
            name = f"{harvester_id}_{worker_id}{'_gz' if packed else ''}.out"
            forms += [CacheForm(api, name, packed)] if _NAME.fullmatch(name) else []
    return tuple(forms)


class FileCache:
    """The cache at ``logs_frontend_w`` (``https://host[:port]/server/panda``). SettingsError for what is no https address."""

    def __init__(self, frontend: str, credentials: Credentials, ca: str | None) -> None:
        self._server = server_url(frontend)
        self._sessions = Sessions(credentials, ca)
        self._credentials = credentials

    def upload(
        self,
        forms: Sequence[CacheForm],
        opened: Callable[[bool], AbstractContextManager[tuple[BinaryIO, int]]],
        time: Deadline,
        stop: Stop,
    ) -> CacheForm:
        """Hand in what ``opened(packed)`` gives, in the first of the forms the server offers; that form.

        Raises ServerUnreachable, ServerRefused, Stopped (the time is over), or what ``opened`` raises (OSError).
        """
        why = "no form was given"
        try:
            for form in forms:
                result = self._tried(form, opened, time, stop)
                if not isinstance(result, WrongGeneration):
                    return form
                why = result.why
        finally:
            self._sessions.close()
        raise ServerUnreachable(f"{self._server} offers no upload of files: {why}")

    def _tried(
        self,
        form: CacheForm,
        opened: Callable[[bool], AbstractContextManager[tuple[BinaryIO, int]]],
        time: Deadline,
        stop: Stop,
    ) -> Accepted | WrongGeneration:
        earlier: list[bool] = []  # tries whose answer was lost: the file may have been kept

        def once() -> Accepted | WrongGeneration:
            with opened(form.packed) as (content, size_bytes):
                body = FormBody(form.name, content, size_bytes, lambda: _check(time, stop))
                result = self._meaning(form, body, time)
            if isinstance(result, Accepted | WrongGeneration):
                return result
            if isinstance(result, Retry):
                earlier.append(True)
                raise RetryableError(result.why, result.retry_after_s)
            why = result.message if isinstance(result, NoJobs) else result.why
            if earlier and _THERE_ALREADY in why.lower():
                return Accepted(None)
            raise ServerRefused(f"{self._server} does not take {form.name}: {why}")

        policy = RetryPolicy("worker log", tries=3, first_s=0.5, cap_s=5, total_s=time.left_s())
        try:
            return retry_call(once, policy, stop)
        except RetryableError as trouble:
            raise ServerUnreachable(f"{self._server} did not take {form.name}: {trouble}") from trouble

    def _meaning(self, form: CacheForm, body: FormBody, time: Deadline) -> Meaning:
        left_s = max(time.left_s(), 0.1)
        limits = Timeouts(min(CONNECT_S, left_s), min(READ_S, left_s))
        try:
            headers = {"Content-Type": body.content_type, "Accept": JSON_TYPE, **self._credentials.headers()}
            with self._sessions.lend() as session:
                url = self._server + PATHS[form.api]
                answer = call(session, "POST", url, headers=headers, body=body, timeouts=limits, total_s=left_s)
        except CredentialsUnusable as error:
            return Refused(str(error))
        except TlsError as error:
            return Refused(str(error))
        except (TransportError, OversizedAnswer) as error:
            return Retry(str(error))
        return stored(answer, form.api)


class FormBody:
    """A multipart form with one file, read piece by piece; ``check`` is called before each and may raise."""

    def __init__(self, name: str, content: BinaryIO, size_bytes: int, check: Callable[[], None]) -> None:
        boundary = f"pilot-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode("ascii")
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        self._content = content
        self._size_bytes = size_bytes
        self._check = check

    def __len__(self) -> int:
        return len(self._head) + self._size_bytes + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        left_bytes = self._size_bytes
        while left_bytes:
            self._check()
            block = self._content.read(min(BLOCK_BYTES, left_bytes))
            if not block:
                raise OSError("the file became shorter while it was sent")
            left_bytes -= len(block)
            yield block
        self._check()
        yield self._tail


def stored(answer: Answer, api: ApiGeneration) -> Meaning:
    """What the answer to an upload means. A refusal of the server in words is one, and will be one again."""
    if api is ApiGeneration.V1:
        meant = meaning.of_v1(answer)
        if answer.status == 200 and isinstance(meant, Retry) and not meant.in_doubt:
            return Refused(meant.why.removeprefix("the server failed: "))
        return meant
    if answer.status != 200:
        return meaning.of_legacy(answer)
    text = answer.text().strip()
    if text == "True":
        return Accepted(None)
    if text.startswith("ERROR"):
        return Refused(" ".join(text.split())[: meaning.WHY_MAX_CHARS])
    return Retry("it answered something else than whether it has the file", in_doubt=True)


def _check(time: Deadline, stop: Stop) -> None:
    stop.check()
    if time.passed():
        raise Stopped(StopReason(StopKind.LIMIT, "the time for the upload is over"))
