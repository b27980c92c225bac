"""A PanDA server: does it answer, do we trust it, which API does it speak, and does it let us work? No job is touched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal, cast

from pilot.check.finding import Finding, Verdict, note, ok, unknown, warning, wrong
from pilot.job.errors import ExitCode, SettingsError
from pilot.job.model import ApiGeneration
from pilot.panda.auth import Credentials
from pilot.panda.client import PandaClient
from pilot.panda.errors import CredentialsRefused, ServerRefused, ServerUnreachable
from pilot.panda.urls import check_ca
from pilot.runtime.clock import monotonic_s
from pilot.runtime.http import Answer, Timeouts
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.runtime.tls import system_ca

TIMEOUTS = Timeouts(connect_s=1.5, read_s=2.5)
ONCE = RetryPolicy("check", tries=1, first_s=0.1, cap_s=0.1, total_s=2.5)
REACH = "check --server, the network, and that the pod may reach it (NetworkPolicy); --ca when it is not trusted"
ROLE = (
    "the certificate's or token's owner needs the production role at the server (for a token: its groups and --origin), and "
    "must not be banned; ask the server's operators"
)


class ServerLooks:
    """The looks at one server. ``credentials`` None: there are none that could be shown. ``dated`` gets its Date headers."""

    def __init__(
        self, url: str, api: str, credentials: Credentials | None, ca: str | None, dated: Callable[[str, str], None]
    ) -> None:
        self._url, self._api, self._credentials, self._ca = url, api, credentials, ca
        self._dated = dated
        self._reached = False

    def reach(self) -> list[Finding]:
        """A sign of life, over trusted TLS. It needs no credentials, so none are shown unless the server wants some."""
        name, began_s = f"server {self._url}", monotonic_s()
        try:
            with closing(self._client(Credentials())) as client:
                api = client.generation(Stop())
        except CredentialsRefused as error:
            self._reached = self._credentials is not None
            return [note(name, f"answers, trusted, and wants credentials even for a sign of life: {error}")]
        except SettingsError as error:
            return [wrong(name, str(error).rstrip("."), "check --server and --ca", ExitCode.USAGE)]
        except (ServerUnreachable, ServerRefused) as error:
            return [wrong(name, str(error).rstrip("."), REACH, ExitCode.SERVER_COMMUNICATION)]
        self._reached = True
        took_ms = (monotonic_s() - began_s) * 1000
        return [ok(name, f"answers in {took_ms:.0f} ms, trusted, API {api.value}")]

    def _client(self, credentials: Credentials) -> PandaClient:
        choice = cast(Literal["auto", "v1", "legacy"], self._api)
        return PandaClient((self._url,), choice, credentials, self._ca, TIMEOUTS, ONCE, heard=self._heard)

    def role(self) -> list[Finding]:
        """Whether it takes our updates, shown by one of a job that does not exist."""
        name = f"role at {self._url}"
        if not self._reached:
            return [unknown(name, "the server is not reached")]
        if self._credentials is None:
            return [unknown(name, "there are no usable credentials")]
        try:
            with closing(self._client(self._credentials)) as client:
                api = client.prove_role(Stop())
                name_there = client.seen_as(Stop()) if api is ApiGeneration.V1 else ""
        except CredentialsRefused as error:
            return [wrong(name, str(error).rstrip("."), ROLE, ExitCode.SERVER_COMMUNICATION)]
        except (ServerUnreachable, ServerRefused) as error:
            return [wrong(name, str(error).rstrip("."), REACH, ExitCode.SERVER_COMMUNICATION)]
        return [ok(name, f"may work as a pilot{f', seen as {name_there!r}' if name_there else ''}, API {api.value}")]

    def _heard(self, answer: Answer) -> None:
        if date := answer.headers.get("date"):
            self._dated(self._url, date)


def authority(ca: Path | None) -> Finding:
    """The certificate authorities that the PanDA server and CRIC are judged by."""
    try:
        check_ca(str(ca) if ca else None)
    except SettingsError as error:
        return wrong(
            "CA", str(error).rstrip("."), "name a bundle, or a folder of hashed names, with --ca", error.exit_code
        )
    return ok("CA", str(ca) if ca else f"the system's ({system_ca()})")


def one_is_enough(findings: list[Finding]) -> list[Finding]:
    """Where one of several servers is as it should be, a run works: what is wrong with the others is a warning."""
    good = {f.name.rpartition(" ")[2] for f in findings if f.name.startswith("role at ") and f.verdict is Verdict.OK}
    if not good:
        return findings
    return [
        warning(f.name, f.detail, f.remedy)
        if f.verdict is Verdict.WRONG and f.name.startswith(("server ", "role at ")) and f.exit_code != ExitCode.USAGE
        else f
        for f in findings
    ]
