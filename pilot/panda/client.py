"""The client of the PanDA server: which generation, which server, what to try again, and one clear sentence when all fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

from pilot.job.errors import SettingsError
from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import FieldValue
from pilot.panda import api_legacy, api_v1, meaning
from pilot.panda.auth import Credentials, CredentialsUnusable
from pilot.panda.errors import CredentialsRefused, ServerRefused, ServerUnreachable
from pilot.panda.meaning import Accepted, CredentialProblem, Meaning, NoJobs, Refused, Retry, WrongGeneration
from pilot.panda.sessions import Sessions
from pilot.panda.urls import check_ca, server_url
from pilot.panda.wire import NotSendable, WireRequest
from pilot.ports import Acquired, AcquireRequest, JobStatus, NoJob, UpdateAnswer
from pilot.runtime.http import Answer, NotConnected, OversizedAnswer, Timeouts, TlsError, TransportError, call
from pilot.runtime.metrics import REQUESTS, counts
from pilot.runtime.retry import SERVER_CALL, RetryableError, RetryPolicy, retry_call
from pilot.runtime.secret import Secret, came_to_know
from pilot.runtime.stop import Stop

log = logging.getLogger(__name__)

T = TypeVar("T")
ApiChoice = Literal["auto", "v1", "legacy"]

TOKEN_CLIENT = "pilot_server"  # noqa: S105  (no secret: the name under which servers keep the pilots' token, the reference pilot's)
NO_JOB_ID = 0
STOPPING_TIMEOUT_S = 5.0  # to connect and to wait for an answer once a stop is on
_LEAST_TIMEOUT_S = 0.1
_CLIENT_CERTIFICATE_ALERTS = ("certificate", "unknown ca", "handshake failure", "access denied")


class _TryAgain(RetryableError):
    """One round over all servers failed in a way that may pass; ``error`` is what to raise when it does not."""

    def __init__(self, error: ServerUnreachable, retry_after_s: float | None = None) -> None:
        super().__init__(str(error), retry_after_s)
        self.error = error


# What an answer came to, as it is counted.
_RESULT_WORDS: Mapping[type, str] = {
    NoJob: "no_job",
    NoJobs: "no_job",
    Retry: "retry",
    CredentialProblem: "credentials",
    Refused: "refused",
    WrongGeneration: "other_api",
}


class _NotOffered(Exception):
    """No server in reach offers the method: they speak the other generation, or are no PanDA servers."""


class PandaClient:
    """The PanDA server behind ports.PandaServer. Safe for several threads; close it when done.

    ``servers``: https addresses, tried in order, beginning with the one that answered last. ``api``: ``auto`` asks v1 first
    and remembers what the server speaks; a job's own calls always use the generation it was acquired by.
    ``ca``: a bundle or a hashed folder; None: the system's. ``heard`` gets every answer, whatever it means.
    Raises SettingsError for addresses and CAs that cannot work.
    """

    def __init__(
        self,
        servers: tuple[str, ...],
        api: ApiChoice,
        credentials: Credentials,
        ca: str | None = None,
        timeouts: Timeouts | None = None,
        policy: RetryPolicy = SERVER_CALL,
        heard: Callable[[Answer], None] = lambda _answer: None,
    ) -> None:
        if not servers:
            raise SettingsError("No PanDA server is given: set --server, for instance https://host:25443.")
        check_ca(ca)
        self._servers = tuple(server_url(server) for server in servers)
        self._first = 0
        self._generations = _generations(api)
        self._credentials = credentials
        self._ca = ca
        self._timeouts = timeouts or Timeouts()
        self._policy = policy
        self._heard = heard
        self._sessions = Sessions(credentials, ca)

    # --- the calls ----------------------------------------------------------------------------------------------------

    def acquire(self, request: AcquireRequest, stop: Stop, policy: RetryPolicy | None = None) -> Acquired | NoJob:
        """Ask for one job. Tried again only when the request surely had no effect: a lost answer leaves a job ``sent``."""

        def ask(api: ApiGeneration) -> Acquired | NoJob:
            if stop.is_set():
                return NoJob("not asked: the pilot is stopping")
            v1 = api is ApiGeneration.V1
            wire = _sendable(lambda: (api_v1 if v1 else api_legacy).acquire(request))
            # The cast: mypy joins the two kinds of result to an object.
            read = cast("Callable[[Answer], Any]", api_v1.acquired if v1 else api_legacy.acquired)
            result: Acquired | NoJob = self._ask(wire, read, stop, policy, repeatable=False)
            return result

        return self._in_either(ask, "a job request")

    def update(
        self, fields: Mapping[str, FieldValue], api: ApiGeneration, stop: Stop, policy: RetryPolicy | None = None
    ) -> UpdateAnswer:
        """Deliver an update (``fields`` in v1 names); equal fields are equal bytes. It is idempotent, so it is retried."""
        if api is ApiGeneration.V1:
            wire = _sendable(lambda: api_v1.update(fields))
            return self._ask_of_job(api, wire, api_v1.updated, stop, policy)
        wire = _sendable(lambda: api_legacy.update(fields))
        return self._ask_of_job(api, wire, api_legacy.updated, stop, policy)

    def job_status(
        self, attempt: Attempt, api: ApiGeneration, stop: Stop, policy: RetryPolicy | None = None
    ) -> JobStatus:
        """What the server holds of a job, its archive of the last days included."""
        if api is ApiGeneration.LEGACY:
            return self._ask_of_job(api, api_legacy.job_status(attempt), api_legacy.status_of, stop, policy)

        def read(answer: Answer) -> JobStatus | Meaning:
            return api_v1.status_of(answer, attempt)

        return self._ask_of_job(api, api_v1.job_status(attempt), read, stop, policy)

    def worker_status(
        self,
        harvester_id: str,
        worker_id: int,
        status: str,
        site: str,
        node: str,
        stop: Stop,
        policy: RetryPolicy | None = None,
    ) -> None:
        """Tell the server that a Harvester worker has ``started`` or ``finished``."""

        def ask(api: ApiGeneration) -> Accepted:
            if api is ApiGeneration.V1:
                wire = api_v1.worker_status(harvester_id, worker_id, status, node)
                return self._ask(wire, _accepted_v1, stop, policy)
            wire = api_legacy.worker_status(harvester_id, worker_id, status, site, node)
            return self._ask(wire, _accepted_legacy, stop, policy)

        self._in_either(ask, "a worker status")

    def access_token(self, token_key: Secret, stop: Stop, policy: RetryPolicy | None = None) -> Secret:
        """A fresh token for the pilots of this server (``PANDA_AUTH_TOKEN_KEY``). Needs the right to it on the server."""

        def ask(api: ApiGeneration) -> str:
            v1 = api is ApiGeneration.V1
            wire = (api_v1 if v1 else api_legacy).access_token(TOKEN_CLIENT, token_key.reveal())
            return self._ask(wire, api_v1.token_of if v1 else api_legacy.token_of, stop, policy)

        token = Secret(self._in_either(ask, "a token renewal"))
        came_to_know(token)
        return token

    def is_alive(self, stop: Stop, policy: RetryPolicy | None = None) -> None:
        """Ask for a sign of life, which needs no credentials. Raises ServerUnreachable when there is none."""

        def ask(api: ApiGeneration) -> Accepted:
            if api is ApiGeneration.V1:
                return self._ask(api_v1.is_alive(), _accepted_v1, stop, policy)
            return self._ask(api_legacy.is_alive(), _accepted_legacy, stop, policy)

        self._in_either(ask, "a sign of life")

    def prove_role(self, stop: Stop, policy: RetryPolicy | None = None) -> ApiGeneration:
        """Find out that we may work here, and which generation takes our updates, without touching any job.

        An update of a job that does not exist: the server looks at the role before it looks for the job, and answers an
        unknown one with a kill, storing nothing (recorded). PandaIDs begin at 1. Raises ServerUnreachable, CredentialsRefused.
        """
        fields: dict[str, FieldValue] = {"job_id": NO_JOB_ID, "attempt_nr": 0, "job_status": "running"}

        def ask(api: ApiGeneration) -> ApiGeneration:
            v1 = api is ApiGeneration.V1
            wire = (api_v1 if v1 else api_legacy).update(fields)
            read = cast("Callable[[Answer], Any]", api_v1.updated if v1 else api_legacy.updated)
            self._ask(wire, read, stop, policy)
            return api

        return self._in_either(ask, "job updates")

    def seen_as(self, stop: Stop, policy: RetryPolicy | None = None) -> str:
        """Our name as a server of today's generation sees it; empty when it does not say. Raises nothing but Stopped."""
        try:
            return self._ask(api_v1.user_attributes(), api_v1.user_of, stop, policy)
        except (ServerUnreachable, ServerRefused, _NotOffered):
            return ""

    def generation(self, stop: Stop, policy: RetryPolicy | None = None) -> ApiGeneration:
        """The API generation that works here, found out by a sign of life. Raises ServerUnreachable."""
        self.is_alive(stop, policy)
        return self._generations[0]

    def close(self) -> None:
        self._sessions.close()

    # --- which generation ---------------------------------------------------------------------------------------------

    def _in_either(self, ask: Callable[[ApiGeneration], T], what: str) -> T:
        """Ask in the generation that worked last, then in the other if the choice is ``auto``; remember what worked."""
        why = ""
        for api in self._generations:
            try:
                result = ask(api)
            except _NotOffered as error:
                why = str(error)
                continue
            if api is not self._generations[0]:
                log.info("the PanDA server speaks the %s API", api.value)
                self._generations = (api, self._generations[0])
            return result
        tried = " nor ".join(api.value for api in self._generations)
        where = ", ".join(self._servers)
        raise ServerUnreachable(
            f"The PanDA server {where} does not offer {what} in {tried}: {why}; check --server and --api."
        )

    # --- one call, over servers and time ------------------------------------------------------------------------------

    def _ask_of_job(
        self,
        api: ApiGeneration,
        wire: WireRequest,
        read: Callable[[Answer], T | Meaning],
        stop: Stop,
        policy: RetryPolicy | None,
    ) -> T:
        """A call about a job. It stays with its generation; a server without that may be in the middle of a change."""

        def read_of_job(answer: Answer) -> T | Meaning:
            result = read(answer)
            if isinstance(result, WrongGeneration):
                return Retry(f"it does not offer the {api.value} API the job belongs to ({result.why})")
            return result

        return self._ask(wire, read_of_job, stop, policy)

    def _ask(
        self,
        wire: WireRequest,
        read: Callable[[Answer], T | Meaning],
        stop: Stop,
        policy: RetryPolicy | None,
        repeatable: bool = True,
    ) -> T:
        chosen = policy or self._policy
        try:
            return retry_call(lambda: self._round(wire, read, stop, chosen, repeatable), chosen, stop)
        except _TryAgain as given_up:
            raise given_up.error from given_up

    def _round(
        self,
        wire: WireRequest,
        read: Callable[[Answer], T | Meaning],
        stop: Stop,
        policy: RetryPolicy,
        repeatable: bool,
    ) -> T:
        """Try each server once. Raises _TryAgain, ServerUnreachable (asking again is useless or unsafe) or ServerRefused."""
        problems: list[Retry] = []
        hopeless: ServerUnreachable | None = None
        elsewhere: WrongGeneration | None = None
        for index, server in self._in_order():
            try:
                result = self._counted_attempt(server, wire, read, self._limits(stop, policy))
            except ServerUnreachable as error:
                hopeless = error
                continue
            if isinstance(result, Retry):
                if result.in_doubt and not repeatable:
                    raise ServerUnreachable(f"{result.why}; a job may have been lost on the way.")
                problems.append(result)
            elif isinstance(result, WrongGeneration):
                elsewhere = result
            else:
                self._first = index  # it answers: begin with it the next time
                return _plain(result, server)
        if problems:
            raise _of_problems(problems)
        if hopeless:
            raise hopeless
        raise _NotOffered(elsewhere.why if elsewhere else "no server was asked")

    def _in_order(self) -> Iterator[tuple[int, str]]:
        first = self._first
        for step in range(len(self._servers)):
            index = (first + step) % len(self._servers)
            yield index, self._servers[index]

    def _limits(self, stop: Stop, policy: RetryPolicy) -> Timeouts:
        """The call's time-outs: short once a stop is on, and never longer than the caller wants to try at all."""
        most_s = max(min(STOPPING_TIMEOUT_S, policy.total_s) if stop.is_set() else policy.total_s, _LEAST_TIMEOUT_S)
        return Timeouts(min(self._timeouts.connect_s, most_s), min(self._timeouts.read_s, most_s))

    # --- one request to one server ------------------------------------------------------------------------------------

    def _counted_attempt(
        self, server: str, wire: WireRequest, read: Callable[[Answer], T | Meaning], limits: Timeouts
    ) -> T | Meaning:
        result_word = "tls"
        try:
            result = self._attempt(server, wire, read, limits)
            result_word = _RESULT_WORDS.get(type(result), "ok")
            return result
        except _TryAgain:  # our own files, or a certificate that is not taken
            result_word = "credentials"
            raise
        finally:
            counts.add(REQUESTS, wire.path.partition("?")[0].rpartition("/")[2], result_word)

    def _attempt(
        self, server: str, wire: WireRequest, read: Callable[[Answer], T | Meaning], limits: Timeouts
    ) -> T | Meaning:
        """The meaning of one exchange, failures of transport included; ``why`` then names the server."""
        try:
            answer = self._exchange(server, wire, limits)
        except CredentialsUnusable as error:
            raise _TryAgain(CredentialsRefused(str(error))) from error
        except TlsError as error:
            self._blame_expired_credentials(error)
            return self._of_tls(server, error)
        except TransportError as error:
            never_sent = isinstance(error, NotConnected)
            if not never_sent:
                self._blame_expired_credentials(error)
            return Retry(f"The PanDA server {server} does not answer ({error})", in_doubt=not never_sent)
        except OversizedAnswer as error:
            return Retry(f"The PanDA server {server} answered too much ({error})", in_doubt=True)
        result = read(answer)
        if isinstance(result, CredentialProblem) and answer.status in (401, 403):
            self._credentials.try_the_other_token()
        if isinstance(result, Retry):
            return Retry(
                f"The PanDA server {server} gave no usable answer: {result.why}", result.retry_after_s, result.in_doubt
            )
        return result

    def _exchange(self, server: str, wire: WireRequest, limits: Timeouts) -> Answer:
        headers = {**wire.headers, **self._credentials.headers()}
        with self._sessions.lend() as session:
            answer = call(
                session,
                wire.method,
                server + wire.path,
                headers=headers,
                body=wire.body,
                timeouts=limits,
                total_s=limits.connect_s + limits.read_s,
            )
        self._heard(answer)
        return answer

    def _blame_expired_credentials(self, error: Exception) -> None:
        """A server that refuses an expired certificate may just hang up: then its end is the cause worth naming."""
        try:
            if self._credentials.x509:
                self._credentials.x509.check(0)
        except CredentialsUnusable as unusable:
            raise _TryAgain(CredentialsRefused(str(unusable))) from error

    def _of_tls(self, server: str, error: TlsError) -> Retry:
        """The server refusing our certificate is a matter of credentials; us refusing the server's, one of ``--ca``."""
        words = str(error).lower()
        if "verify failed" in words or "doesn't match" in words or "not match" in words:
            ca = f"--ca {self._ca}" if self._ca else "the system's CAs (give its CA with --ca)"
            raise ServerUnreachable(f"The PanDA server {server} is not trusted by {ca}: {error}.") from error
        if "[x509" in words or ("alert" in words and any(part in words for part in _CLIENT_CERTIFICATE_ALERTS)):
            sentence = f"The PanDA server {server} did not take the client certificate: {error}."
            raise _TryAgain(CredentialsRefused(sentence)) from error
        return Retry(f"The TLS connection to the PanDA server {server} failed: {error}")


def _of_problems(problems: list[Retry]) -> _TryAgain:
    waits_s = [problem.retry_after_s for problem in problems if problem.retry_after_s is not None]
    sentence = "; ".join(dict.fromkeys(problem.why for problem in problems))
    return _TryAgain(ServerUnreachable(f"{sentence}."), max(waits_s, default=None))


def _plain(result: T | Meaning, server: str) -> T:
    """The result itself; a refusal raises."""
    if isinstance(result, CredentialProblem):
        raise _TryAgain(
            CredentialsRefused(
                f"The PanDA server {server} does not take our credentials: {result.why}; renew the proxy or token."
            )
        )
    if isinstance(result, Refused):
        raise ServerRefused(f"The PanDA server {server} refuses the request as malformed: {result.why}.")
    if isinstance(result, NoJobs):
        raise _TryAgain(
            ServerUnreachable(f"The PanDA server {server} answered no job to something else: {result.message}.")
        )
    return result  # type: ignore[return-value]


def _generations(api: ApiChoice) -> tuple[ApiGeneration, ...]:
    return (ApiGeneration.V1, ApiGeneration.LEGACY) if api == "auto" else (ApiGeneration(api),)


def _sendable(build: Callable[[], WireRequest]) -> WireRequest:
    try:
        return build()
    except NotSendable as error:
        raise ServerRefused(f"Nothing was sent: {error}.") from error


def _accepted_v1(answer: Answer) -> Accepted | Meaning:
    return meaning.of_v1(answer)


def _accepted_legacy(answer: Answer) -> Accepted | Meaning:
    return meaning.of_legacy(answer)
