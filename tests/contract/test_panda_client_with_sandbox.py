"""The client against the sandbox's PanDA server: real TLS, certificates, proxies, tokens, both generations, and trouble."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import FieldValue
from pilot.panda.auth import Credentials, TokenCredentials, X509Credentials
from pilot.panda.client import ApiChoice, PandaClient
from pilot.ports import Acquired, AcquireRequest, CredentialsRefused, NoJob, ServerRefused, ServerUnreachable
from pilot.runtime.http import Timeouts
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.secret import SecretFile
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.sandbox.certs import PILOT_DN, Authority, make_proxy, write_private
from pilot.sandbox.control import Sandbox
from pilot.sandbox.world import World

JANE_DN = "/DC=org/DC=example/OU=People/CN=Jane Doe"
QUICK = RetryPolicy("quick", tries=4, first_s=0.01, cap_s=0.05, total_s=5)
ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=5)
QUEUE = "DOMA_LSST_DEV"
ANY_JOB = AcquireRequest(QUEUE, "managed", 8000, 16336, 90000, None, QUEUE, "slot1@node-1", "managed", "harvester-test")
GENERATIONS = pytest.mark.parametrize("api", list(ApiGeneration), ids=lambda api: api.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), stores=False, adder_delay_s=None) as running:
        yield running


@pytest.fixture
def sandbox(world: World) -> Iterator[Sandbox]:
    with world.sandbox as control:
        control.set_apis("both")
        yield control
        control.clear_faults()
        control.set_apis("both")
        world.renew_token()
        while isinstance(acquire_raw(world), Acquired):  # leave no job behind for the next test
            pass


def acquire_raw(world: World) -> Acquired | NoJob:
    with closing(client(world)) as panda:
        return panda.acquire(ANY_JOB, Stop())


def robot(world: World) -> Credentials:
    return Credentials(X509Credentials(world.state_dir / "client.crt", world.state_dir / "client.key"))


def bearer(world: World, origin: str = "Rubin.production") -> Credentials:
    return Credentials(token=TokenCredentials(SecretFile(world.state_dir / "token"), origin))


def client(
    world: World,
    credentials: Credentials | None = None,
    api: ApiChoice = "auto",
    policy: RetryPolicy = QUICK,
    ca: str | None = "",
    servers: tuple[str, ...] = (),
    timeouts: Timeouts | None = None,
) -> PandaClient:
    return PandaClient(
        servers or (world.server_url,),
        api,
        credentials or robot(world),
        str(world.ca_path) if ca == "" else ca,
        timeouts or Timeouts(2, 2),
        policy,
    )


def report(job: Acquired, state: str = "running", **more: FieldValue) -> dict[str, FieldValue]:
    fields: dict[str, FieldValue] = {
        "job_id": int(job.definition["PandaID"]),
        "attempt_nr": int(job.definition["attemptNr"]),
        "job_status": state,
        "site_name": QUEUE,
        "batch_id": "pod-1",
    }
    return {**fields, **more}


def acquired(panda: PandaClient, sandbox: Sandbox) -> Acquired:
    sandbox.submit_job(transformation="bash-c", jobPars="true")
    job = panda.acquire(ANY_JOB, Stop())
    assert isinstance(job, Acquired)
    return job


def requests_to(sandbox: Sandbox, part: str, after_seq: int) -> list[dict[str, Any]]:
    return [entry for entry in sandbox.ledger(after_seq) if part in entry["path"] and entry["server"] == "panda"]


def last_seq(sandbox: Sandbox) -> int:
    return max((entry["seq"] for entry in sandbox.ledger()), default=0)


# --- a job's life in both generations ---------------------------------------------------------------------------------


@GENERATIONS
def test_a_job_lives_in_either_generation(world: World, sandbox: Sandbox, api: ApiGeneration) -> None:
    with closing(client(world, api=api.value)) as panda:
        job = acquired(panda, sandbox)
        assert job.api is api
        attempt = Attempt(int(job.definition["PandaID"]), int(job.definition["attemptNr"]))
        assert panda.update(report(job), api, Stop()).commands == ()
        assert panda.job_status(attempt, api, Stop()).status == "running"
        log = json.dumps(
            {job.definition["logFile"]: {"guid": job.definition["logGUID"], "fsize": 1, "adler32": "00000001"}}
        )
        assert not panda.update(report(job, "finished", job_output_report=log), api, Stop()).kill
        assert panda.update(report(job, "finished", job_output_report=log), api, Stop()).already_done
        sandbox.run_adder()
        assert panda.job_status(attempt, api, Stop()).status == "finished"
        assert panda.update(report(job), api, Stop()).kill


@GENERATIONS
def test_a_queue_without_jobs_is_no_error(world: World, sandbox: Sandbox, api: ApiGeneration) -> None:
    with closing(client(world, api=api.value)) as panda:
        assert isinstance(panda.acquire(ANY_JOB, Stop()), NoJob)


@GENERATIONS
def test_an_unknown_job_has_no_status_and_is_to_be_killed(world: World, sandbox: Sandbox, api: ApiGeneration) -> None:
    with closing(client(world)) as panda:
        stranger = Attempt(999_999_999, 0)
        assert panda.job_status(stranger, api, Stop()).status is None
        assert panda.update({"job_id": 999_999_999, "job_status": "running", "attempt_nr": 0}, api, Stop()).kill


@GENERATIONS
def test_a_worker_status_is_delivered(world: World, sandbox: Sandbox, api: ApiGeneration) -> None:
    with closing(client(world, api=api.value)) as panda:
        panda.worker_status("harvester-test", 4711, "started", QUEUE, "slot1@node-1", Stop())
    assert any(str(worker.get("worker_id")) == "4711" for worker in sandbox.workers())


def test_the_choice_falls_back_to_legacy_once_and_for_all(world: World, sandbox: Sandbox) -> None:
    sandbox.set_apis("legacy")
    before = last_seq(sandbox)
    with closing(client(world)) as panda:
        assert acquired(panda, sandbox).api is ApiGeneration.LEGACY
        assert isinstance(panda.acquire(ANY_JOB, Stop()), NoJob)
    assert len(requests_to(sandbox, "acquire_jobs", before)) == 1
    assert len(requests_to(sandbox, "getJob", before)) == 2


def test_the_choice_follows_a_server_that_was_upgraded(world: World, sandbox: Sandbox) -> None:
    with closing(client(world)) as panda:
        sandbox.set_apis("legacy")
        assert acquired(panda, sandbox).api is ApiGeneration.LEGACY
        sandbox.set_apis("v1")
        assert acquired(panda, sandbox).api is ApiGeneration.V1


def test_a_job_stays_with_its_generation(world: World, sandbox: Sandbox) -> None:
    with closing(client(world)) as panda:
        sandbox.set_apis("legacy")
        job = acquired(panda, sandbox)
        sandbox.set_apis("v1")
        with pytest.raises(ServerUnreachable, match="does not offer the legacy API"):
            panda.update(report(job), job.api, Stop())
        sandbox.set_apis("both")
        assert panda.update(report(job), job.api, Stop()).commands == ()


def test_a_generation_the_server_lacks_is_named(world: World, sandbox: Sandbox) -> None:
    sandbox.set_apis("v1")
    with closing(client(world, api="legacy")) as panda, pytest.raises(ServerUnreachable, match=r"legacy.*--api"):
        panda.acquire(ANY_JOB, Stop())


def test_a_sign_of_life_needs_no_credentials(world: World, sandbox: Sandbox) -> None:
    for apis in ("v1", "legacy"):
        sandbox.set_apis(apis)
        with closing(client(world, Credentials())) as panda:
            panda.is_alive(Stop())


@GENERATIONS
def test_the_role_is_proven_without_touching_any_job(world: World, sandbox: Sandbox, api: ApiGeneration) -> None:
    sandbox.set_apis(api.value)
    panda_id, before = sandbox.submit_job(transformation="bash-c", jobPars="true"), last_seq(sandbox)
    jobs = sandbox.jobs()
    with closing(client(world)) as panda:
        assert panda.prove_role(Stop()) is api
    assert sandbox.jobs() == jobs and sandbox.job(panda_id)["status"] == "activated"
    asked = [entry["path"].rpartition("/")[2] for entry in sandbox.ledger(before) if entry["server"] == "panda"]
    assert set(asked) <= {"update_job", "updateJob"} and len(asked) == (1 if api is ApiGeneration.V1 else 2)


@GENERATIONS
def test_a_person_without_the_role_and_a_banned_one_are_told_so(
    world: World, sandbox: Sandbox, tmp_path: Path, api: ApiGeneration
) -> None:
    made = world.authority.client(JANE_DN)
    (tmp_path / "jane.crt").write_bytes(made.certificate_pem)
    write_private(tmp_path / "jane.key", made.key_pem)
    jane = Credentials(X509Credentials(tmp_path / "jane.crt", tmp_path / "jane.key"))
    with closing(client(world, jane, api=api.value, policy=ONCE)) as panda:
        with pytest.raises(CredentialsRefused, match="role"):
            panda.prove_role(Stop())
        sandbox.ban("Jane Doe")
        with pytest.raises(CredentialsRefused, match="is banned"):
            panda.prove_role(Stop())
        sandbox.unban("Jane Doe")


def test_a_server_says_as_whom_it_sees_us_where_it_can(world: World, sandbox: Sandbox) -> None:
    with closing(client(world)) as panda:
        assert panda.seen_as(Stop()) == "Robot PanDA Pilot"
    sandbox.set_apis("legacy")
    with closing(client(world, policy=ONCE)) as panda:
        assert panda.seen_as(Stop()) == ""


def test_every_answer_is_heard_by_who_asked_to_hear(world: World, sandbox: Sandbox) -> None:
    heard: list[str] = []
    credentials, ca = robot(world), str(world.ca_path)
    listening = PandaClient(
        (world.server_url,), "auto", credentials, ca, heard=lambda a: heard.append(a.headers["date"])
    )
    with closing(listening) as panda:
        panda.is_alive(Stop())
        panda.prove_role(Stop())
    assert len(heard) == 2 and all(date.endswith(" GMT") for date in heard)


# --- trust and identity -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_server_of_another_authority_is_not_trusted(world: World, tmp_path: Path) -> None:
    Authority(tmp_path)  # writes its own ca.pem
    stranger = closing(client(world, ca=str(tmp_path / "ca.pem")))
    with stranger as panda, pytest.raises(ServerUnreachable, match=r"not trusted by --ca"):
        panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, Stop())


def test_the_system_does_not_trust_the_sandbox(world: World) -> None:
    with closing(client(world, ca=None)) as panda, pytest.raises(ServerUnreachable, match="give its CA with --ca"):
        panda.is_alive(Stop())


def test_a_hashed_folder_of_authorities_is_trusted(world: World, tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(world.ca_path.read_bytes())
    (tmp_path / f"{subject_hash(certificate)}.0").write_bytes(world.ca_path.read_bytes())
    with closing(client(world, ca=str(tmp_path))) as panda:
        panda.is_alive(Stop())


def subject_hash(certificate: x509.Certificate) -> str:
    """The name OpenSSL looks a CA up by; asked from openssl itself."""
    import subprocess

    from cryptography.hazmat.primitives.serialization import Encoding

    pem = certificate.public_bytes(Encoding.PEM)
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    return subprocess.run(command, input=pem, capture_output=True, check=True).stdout.decode().strip()


def test_a_proxy_is_taken(world: World, sandbox: Sandbox) -> None:
    proxy = world.state_dir / "proxy.pem"
    with closing(client(world, Credentials(X509Credentials(proxy, proxy)))) as panda:
        assert isinstance(panda.acquire(ANY_JOB, Stop()), NoJob)


def test_a_limited_proxy_is_a_matter_of_credentials(world: World, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "proxy.pem"
    write_private(path, make_proxy(world.authority.client(PILOT_DN), limited=True).proxy_pem)
    with (
        closing(client(world, Credentials(X509Credentials(path, path)), policy=ONCE)) as panda,
        pytest.raises((CredentialsRefused, ServerUnreachable)),
    ):
        panda.acquire(ANY_JOB, Stop())


def test_no_credentials_are_refused_in_words(world: World, sandbox: Sandbox) -> None:
    with (
        closing(client(world, Credentials(), policy=ONCE)) as panda,
        pytest.raises(CredentialsRefused, match="SSL secure"),
    ):
        panda.acquire(ANY_JOB, Stop())


@pytest.mark.parametrize("origin", ["Rubin.production", "Rubin:production", "Rubin"])
def test_a_token_is_taken_with_its_origin(world: World, sandbox: Sandbox, origin: str) -> None:
    with closing(client(world, bearer(world, origin))) as panda:
        assert isinstance(panda.acquire(ANY_JOB, Stop()), NoJob)


def test_an_unknown_origin_is_refused_in_words(world: World, sandbox: Sandbox) -> None:
    with (
        closing(client(world, bearer(world, "nosuchvo"), policy=ONCE)) as panda,
        pytest.raises(CredentialsRefused, match="Unknown vo"),
    ):
        panda.acquire(ANY_JOB, Stop())


@GENERATIONS
def test_an_update_survives_an_expired_token_that_is_renewed(
    world: World, sandbox: Sandbox, api: ApiGeneration
) -> None:
    """The refresher comes while the call is being retried: the same call goes through with the new token."""
    patient = RetryPolicy("patient", tries=100, first_s=0.02, cap_s=0.05, total_s=20)
    with closing(client(world, bearer(world), api=api.value)) as panda:
        job = acquired(panda, sandbox)
        sandbox.expire_tokens()
        with pytest.raises(CredentialsRefused, match="renew the proxy or token"):
            panda.update(report(job), api, Stop())
        refresher = threading.Timer(0.3, world.renew_token)
        refresher.start()
        assert panda.update(report(job), api, Stop(), patient).commands == ()
        refresher.join()


def test_a_replaced_proxy_file_is_shown_at_the_next_call(world: World, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "proxy.pem"
    write_private(path, make_proxy(world.authority.client(JANE_DN)).proxy_pem)
    with closing(client(world, Credentials(X509Credentials(path, path)), policy=ONCE)) as panda:
        with pytest.raises(CredentialsRefused, match="role"):
            panda.acquire(ANY_JOB, Stop())
        fresh = tmp_path / "fresh.pem"
        write_private(fresh, make_proxy(world.authority.client(PILOT_DN)).proxy_pem)
        fresh.rename(path)
        assert isinstance(panda.acquire(ANY_JOB, Stop()), NoJob)


def test_a_vanished_proxy_file_is_named_and_may_come_back(world: World, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "proxy.pem"
    with closing(client(world, Credentials(X509Credentials(path, path)))) as panda:
        with pytest.raises(CredentialsRefused, match=f"{path} cannot be read"):
            panda.acquire(ANY_JOB, Stop())
        write_private(path, make_proxy(world.authority.client(PILOT_DN)).proxy_pem)
        assert isinstance(panda.acquire(ANY_JOB, Stop()), NoJob)


def test_an_expired_proxy_is_a_matter_of_credentials(world: World, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "proxy.pem"
    write_private(path, make_proxy(world.authority.client(PILOT_DN), dt.timedelta(seconds=-60)).proxy_pem)
    with (
        closing(client(world, Credentials(X509Credentials(path, path)), policy=ONCE)) as panda,
        pytest.raises(CredentialsRefused, match=f"{path} expired on"),
    ):
        panda.acquire(ANY_JOB, Stop())


def test_the_name_of_the_certificate_wins_over_the_token(world: World, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "proxy.pem"
    write_private(path, make_proxy(world.authority.client(JANE_DN)).proxy_pem)
    both = Credentials(X509Credentials(path, path), bearer(world).token)
    with closing(client(world, both, policy=ONCE)) as panda, pytest.raises(CredentialsRefused, match="role"):
        panda.acquire(ANY_JOB, Stop())


# --- trouble ----------------------------------------------------------------------------------------------------------

TROUBLE: list[dict[str, Any]] = [
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 500},
    {"kind": "html", "status": 502},
    {"kind": "html", "status": 200},
    {"kind": "garbage"},
    {"kind": "empty"},
    {"kind": "truncated"},
    {"kind": "reset"},
    {"kind": "reset-after-commit"},
]


@GENERATIONS
@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda t: f"{t['kind']}{t.get('status', '')}")
def test_an_update_is_repeated_until_it_is_acknowledged(
    world: World, sandbox: Sandbox, api: ApiGeneration, trouble: dict[str, Any]
) -> None:
    with closing(client(world, api=api.value)) as panda:
        job = acquired(panda, sandbox)
        before = last_seq(sandbox)
        sandbox.fault(path="update", count=2, **trouble)
        assert panda.update(report(job, stdout="last words"), api, Stop()).commands == ()
        bodies = {entry["body"] for entry in requests_to(sandbox, "update", before)}
        assert len(requests_to(sandbox, "update", before)) == 3
        assert len(bodies) == 1


@GENERATIONS
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"kind": "html", "status": 200}, "an HTML page instead of an answer of PanDA"),
        ({"kind": "empty"}, "an empty answer"),
        ({"kind": "status", "status": 503}, "HTTP 503"),
        ({"kind": "reset"}, "does not answer"),
    ],
    ids=["html", "empty", "503", "reset"],
)
def test_lasting_trouble_ends_in_one_sentence(
    world: World, sandbox: Sandbox, api: ApiGeneration, trouble: dict[str, Any], words: str
) -> None:
    with closing(client(world)) as panda:
        sandbox.fault(path="update", count=4, **trouble)
        with pytest.raises(ServerUnreachable, match=words) as raised:
            panda.update({"job_id": 1, "job_status": "running", "attempt_nr": 0}, api, Stop())
    assert world.server_url in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "garbage", "commit": True},
        {"kind": "empty", "commit": True},
        {"kind": "truncated"},
        {"kind": "reset-after-commit"},
        {"kind": "html", "status": 504, "commit": True},
    ],
    ids=["garbage", "empty", "truncated", "reset", "504"],
)
def test_a_job_request_in_doubt_is_not_repeated(world: World, sandbox: Sandbox, trouble: dict[str, Any]) -> None:
    """A second request would get a second job while the first one waits for 30 minutes as `sent`."""
    with closing(client(world)) as panda:
        first, second = (sandbox.submit_job(transformation="bash-c", jobPars="true") for _ in range(2))
        sandbox.fault(path="acquire", **trouble)
        with pytest.raises(ServerUnreachable):
            panda.acquire(ANY_JOB, Stop())
        assert sandbox.job(first)["status"] == "sent"
        assert sandbox.job(second)["status"] == "activated"


@pytest.mark.parametrize("status", [500, 503])
def test_a_job_request_the_server_could_not_take_is_repeated(world: World, sandbox: Sandbox, status: int) -> None:
    sandbox.fault("status", path="acquire", status=status, count=2)
    with closing(client(world)) as panda:
        assert isinstance(acquired(panda, sandbox), Acquired)


def test_a_malformed_update_is_not_repeated(world: World, sandbox: Sandbox) -> None:
    before = last_seq(sandbox)
    with closing(client(world)) as panda, pytest.raises(ServerRefused, match="no state"):
        panda.update({"job_id": 1, "job_status": "bogus"}, ApiGeneration.V1, Stop())
    assert requests_to(sandbox, "update", before) == []


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_server_that_says_nothing_is_given_up_in_time(world: World, sandbox: Sandbox) -> None:
    with closing(client(world, policy=ONCE, timeouts=Timeouts(1, 0.3))) as panda:
        sandbox.fault("hang", path="update", delay_s=1.0)
        with pytest.raises(ServerUnreachable, match="does not answer"):
            panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, Stop())


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_server_that_drips_is_given_up_in_time(world: World, sandbox: Sandbox) -> None:
    with closing(client(world, policy=ONCE, timeouts=Timeouts(0.3, 0.3))) as panda:
        sandbox.fault("drip", path="update", delay_s=0.1)
        with pytest.raises(ServerUnreachable, match="in time"):
            panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, Stop())


def test_an_oversized_answer_is_not_read_to_its_end(world: World, sandbox: Sandbox) -> None:
    with closing(client(world, policy=ONCE)) as panda:
        sandbox.fault("huge", path="update", size_bytes=20 << 20)
        with pytest.raises(ServerUnreachable, match="too much"):
            panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, Stop())


# --- several servers, several threads, stops --------------------------------------------------------------------------


def test_a_second_server_takes_over_and_stays(world: World, sandbox: Sandbox) -> None:
    servers = ("https://localhost:1", f"{world.server_url}/server/panda/")
    with closing(client(world, servers=servers, policy=ONCE)) as panda:
        job = acquired(panda, sandbox)
        assert panda.update(report(job), job.api, Stop()).commands == ()


def test_an_answer_in_html_is_asked_of_the_next_server(world: World, sandbox: Sandbox) -> None:
    with closing(client(world, servers=(world.server_url, world.server_url), policy=ONCE)) as panda:
        sandbox.fault("html", path="update", status=200)
        assert panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, Stop()).kill


def test_an_outage_is_waited_out(world: World, sandbox: Sandbox) -> None:
    patient = RetryPolicy("patient", tries=200, first_s=0.02, cap_s=0.05, total_s=20)
    with closing(client(world)) as panda:
        job = acquired(panda, sandbox)
        world.listeners["panda"].down()
        back = threading.Timer(0.5, world.listeners["panda"].start)
        back.start()
        assert panda.update(report(job), job.api, Stop(), patient).commands == ()
        back.join()


def test_threads_call_at_the_same_time(world: World, sandbox: Sandbox) -> None:
    with closing(client(world)) as panda:
        job = acquired(panda, sandbox)
        answers: list[tuple[str, ...]] = []

        def beat() -> None:
            for _ in range(5):
                answers.append(panda.update(report(job), job.api, Stop()).commands)

        threads = [threading.Thread(target=beat) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [()] * 20


def test_nothing_is_asked_for_once_the_pilot_stops(world: World, sandbox: Sandbox) -> None:
    panda_id = sandbox.submit_job(transformation="bash-c", jobPars="true")
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    with closing(client(world)) as panda:
        assert isinstance(panda.acquire(ANY_JOB, stop), NoJob)
    assert sandbox.job(panda_id)["status"] == "activated"


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_stop_ends_the_retries_of_an_update(world: World, sandbox: Sandbox) -> None:
    endless = RetryPolicy("endless", tries=1000, first_s=30, cap_s=30, total_s=600)
    stop = Stop()
    with closing(client(world)) as panda:
        sandbox.fault("status", path="update", status=503, count=1000)
        stopper = threading.Timer(0.2, stop.request, [StopReason(StopKind.SIGTERM)])
        stopper.start()
        with pytest.raises(ServerUnreachable, match="HTTP 503"):
            panda.update({"job_id": 1, "job_status": "running"}, ApiGeneration.V1, stop, endless)
        stopper.join()


def test_a_killed_job_says_so_in_the_next_answer(world: World, sandbox: Sandbox) -> None:
    with closing(client(world)) as panda:
        job = acquired(panda, sandbox)
        panda.update(report(job), job.api, Stop())
        sandbox.debug(int(job.definition["PandaID"]))
        sandbox.kill(int(job.definition["PandaID"]))
        answer = panda.update(report(job), job.api, Stop())
        assert answer.kill
        assert set(answer.commands) == {"debug", "tobekilled"}


def test_a_legacy_body_is_compressed_without_saying_so(world: World, sandbox: Sandbox) -> None:
    """The legacy server decompresses without looking, and fails on a body that is not compressed."""
    from pilot.panda import api_legacy

    request = api_legacy.update({"job_id": 1, "job_status": "running"})
    assert request.body is not None
    assert "Content-Encoding" not in request.headers
    assert json.loads(gzip.decompress(request.body)) == {"jobId": 1, "state": "running"}
