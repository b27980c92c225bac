"""Tokens renewed by the server, both generations: what it gives is used, and nothing it says can take away what there is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest

from pilot.job.model import ApiGeneration, Attempt
from pilot.panda import renewal
from pilot.panda.auth import Credentials, TokenCredentials
from pilot.panda.client import ApiChoice, PandaClient
from pilot.panda.renewal import renewed_by_server
from pilot.ports import CredentialsRefused, ServerRefused, ServerUnreachable
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.secret import Secret, SecretFile
from pilot.runtime.stop import Stop
from pilot.sandbox.certs import write_private
from pilot.sandbox.tokens import PILOT_NAME
from pilot.sandbox.world import World

QUICK = RetryPolicy("quick", tries=3, first_s=0.01, cap_s=0.05, total_s=5)
KEY = "key-for-renewals"
ROBOT = "Robot Pilot Rubin"
APIS: list[ApiChoice] = ["v1", "legacy", "auto"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), stores=False, adder_delay_s=None) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(world: World) -> Iterator[None]:
    yield
    world.sandbox.clear_faults()
    world.sandbox.set_apis("both")
    world.renewals.keys.clear()
    world.renewals.readers.clear()
    world.renewals.answer = None


@pytest.fixture
def key(tmp_path: Path) -> SecretFile:
    write_private(tmp_path / "key", KEY.encode())
    return SecretFile(tmp_path / "key")


def grant(world: World) -> None:
    world.renewals.readers.add(ROBOT)
    world.renewals.keys.add(KEY)


def token_file(world: World, folder: Path, lifetime_s: float = 600.0) -> TokenCredentials:
    write_private(folder / "token", world.issuer.token(PILOT_NAME, lifetime_s=lifetime_s).encode())
    return TokenCredentials(SecretFile(folder / "token"), "Rubin.production")


@contextmanager
def client(world: World, token: TokenCredentials, api: ApiChoice = "auto") -> Iterator[PandaClient]:
    panda = PandaClient((world.server_url,), api, Credentials(None, token), ca=str(world.ca_path), policy=QUICK)
    yield panda
    panda.close()


def ends_in_s(token: TokenCredentials) -> float:
    return token.left_s() or 0.0


# --- the call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_a_pilot_with_the_right_gets_a_token_for_its_key(
    world: World, tmp_path: Path, api: ApiChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(world)
    learnt: list[Secret] = []
    monkeypatch.setattr("pilot.runtime.secret._told", [learnt.append])
    with client(world, token_file(world, tmp_path), api) as panda:
        fresh = panda.access_token(Secret(KEY), Stop())
    claims = jwt.decode(fresh.reveal(), options={"verify_signature": False})
    assert claims["exp"] > time.time() + 3600
    assert fresh in learnt, "no log will show it"


@pytest.mark.parametrize("api", APIS)
def test_a_pilot_without_the_right_is_refused_as_recorded(world: World, tmp_path: Path, api: ApiChoice) -> None:
    with (
        client(world, token_file(world, tmp_path), api) as panda,
        pytest.raises(CredentialsRefused, match="authorized user"),
    ):
        panda.access_token(Secret(KEY), Stop(), QUICK)


@pytest.mark.parametrize("api", APIS)
def test_a_key_that_is_not_valid_is_refused_and_not_told(world: World, tmp_path: Path, api: ApiChoice) -> None:
    grant(world)
    refused = pytest.raises((ServerUnreachable, ServerRefused))
    with client(world, token_file(world, tmp_path), api) as panda, refused as raised:
        panda.access_token(Secret("another&key=1"), Stop(), QUICK)
    assert "token key is invalid" in str(raised.value) and "another" not in str(raised.value)


@pytest.mark.parametrize("body", ["garbage", "empty", "html"])
def test_an_answer_without_a_token_is_none(world: World, tmp_path: Path, body: str) -> None:
    grant(world)
    world.sandbox.fault(body, path="get_access_token", count=10)
    with client(world, token_file(world, tmp_path)) as panda, pytest.raises(ServerUnreachable):
        panda.access_token(Secret(KEY), Stop(), QUICK)


# --- keeping a token fresh --------------------------------------------------------------------------------------------


def test_a_token_in_its_last_hours_is_renewed_in_this_process_alone(
    world: World, tmp_path: Path, key: SecretFile, eventually: Callable[..., None]
) -> None:
    grant(world)
    token = token_file(world, tmp_path)
    before = token.token.path.read_bytes()
    with client(world, token) as panda, renewed_by_server(panda, token, key):
        eventually(lambda: ends_in_s(token) > 3600)
        assert token.token.path.read_bytes() == before, "the mount is not written"
        assert panda.job_status(Attempt(1, 0), ApiGeneration.V1, Stop()).status is None, "and the new one is taken"


def test_a_token_that_lasts_is_left_alone(world: World, tmp_path: Path, key: SecretFile) -> None:
    grant(world)
    token, before = token_file(world, tmp_path, lifetime_s=86400), len(world.sandbox.ledger())
    with client(world, token) as panda:
        assert renewal._renewed(panda, token, key, 3600, Stop()) == 3600
    assert len(world.sandbox.ledger()) == before and token.renewed.secret is None


def test_it_is_asked_for_again_until_it_is_there(
    world: World, tmp_path: Path, key: SecretFile, eventually: Callable[..., None]
) -> None:
    token = token_file(world, tmp_path)
    with client(world, token) as panda, renewed_by_server(panda, token, key, every_s=0.02):
        eventually(lambda: len([e for e in world.sandbox.ledger() if "get_access_token" in e["path"]]) > 2)
        assert ends_in_s(token) < 700
        grant(world)
        eventually(lambda: ends_in_s(token) > 3600)


@pytest.mark.parametrize("trouble", ["no right", "no key", "no server", "a shorter token", "no token", "expired"])
def test_nothing_that_goes_wrong_takes_the_present_token_away(
    world: World, tmp_path: Path, key: SecretFile, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_file(world, tmp_path)
    in_use = token.headers()
    if trouble != "no right":
        grant(world)
    if trouble == "no key":
        key.path.unlink()
    answers = {
        "a shorter token": world.issuer.token(PILOT_NAME, lifetime_s=300),
        "no token": "<html>login here</html>",
        "expired": world.issuer.token(PILOT_NAME, lifetime_s=-5),
    }
    world.renewals.answer = answers.get(trouble)
    if trouble == "no server":
        world.sandbox.fault("status", path="get_access_token", count=10)
    with client(world, token) as panda, caplog.at_level(logging.WARNING):
        assert renewal._renewed(panda, token, key, 7.0, Stop()) == 7.0
        assert token.headers() == in_use
        assert panda.job_status(Attempt(1, 0), ApiGeneration.V1, Stop()).status is None
    assert len(caplog.records) == 1 and KEY not in caplog.text


def test_a_refusal_of_a_later_renewal_leaves_the_renewed_token(world: World, tmp_path: Path, key: SecretFile) -> None:
    grant(world)
    token = token_file(world, tmp_path)
    with client(world, token) as panda:
        world.renewals.answer = world.issuer.token(PILOT_NAME, lifetime_s=3000)
        renewal._renewed(panda, token, key, 1.0, Stop())
        renewed = token.headers()
        world.renewals.readers.clear()
        renewal._renewed(panda, token, key, 1.0, Stop())
        assert token.headers() == renewed


def test_a_renewed_token_that_the_server_does_not_take_gives_way_to_the_files(
    world: World, tmp_path: Path, key: SecretFile
) -> None:
    """Signed by somebody else: it looks better than the file's, and is worth nothing."""
    grant(world)
    token = token_file(world, tmp_path)
    of_file = token.headers()
    world.renewals.answer = jwt.encode({"exp": time.time() + 86400}, "another key than the issuer's" * 2, "HS256")
    with client(world, token) as panda:
        renewal._renewed(panda, token, key, 1.0, Stop())
        assert token.headers() != of_file
        assert panda.job_status(Attempt(1, 0), ApiGeneration.V1, Stop()).status is None
        assert token.headers() == of_file


def test_a_renewed_token_outlives_a_file_that_vanishes_or_ends(world: World, tmp_path: Path, key: SecretFile) -> None:
    grant(world)
    token = token_file(world, tmp_path)
    with client(world, token) as panda:
        renewal._renewed(panda, token, key, 1.0, Stop())
        write_private(token.token.path, world.issuer.token(PILOT_NAME, lifetime_s=-5).encode())
        assert panda.job_status(Attempt(1, 0), ApiGeneration.V1, Stop()).status is None
        token.token.path.unlink()
        assert panda.job_status(Attempt(1, 0), ApiGeneration.V1, Stop()).status is None


def test_a_file_that_is_rotated_to_a_later_token_wins_again(world: World, tmp_path: Path, key: SecretFile) -> None:
    grant(world)
    token = token_file(world, tmp_path)
    with client(world, token) as panda:
        renewal._renewed(panda, token, key, 1.0, Stop())
    later = world.issuer.token(PILOT_NAME, lifetime_s=10 * 86400)
    write_private(token.token.path, later.encode())
    assert token.headers()["Authorization"] == f"Bearer {later}"


@pytest.mark.parametrize("with_token", [True, False])
def test_without_a_key_or_a_token_nothing_runs(world: World, tmp_path: Path, key: SecretFile, with_token: bool) -> None:
    token = token_file(world, tmp_path)
    before = set(threading.enumerate())
    with (
        client(world, token) as panda,
        renewed_by_server(panda, token if with_token else None, None if with_token else key),
    ):
        assert set(threading.enumerate()) == before
