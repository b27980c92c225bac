from __future__ import annotations

import base64
import datetime as dt
import json
import os
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.panda.auth import (
    Credentials,
    CredentialsUnusable,
    TokenCredentials,
    X509Credentials,
    remaining_lifetime_s,
    token_end,
)
from pilot.runtime.secret import SecretFile
from pilot.sandbox.certs import PILOT_DN, Authority, Credential, make_proxy, write_private


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Credential:
    return Authority(tmp_path_factory.mktemp("authority")).client(PILOT_DN, dt.timedelta(hours=10))


def proxy_file(folder: Path, robot: Credential, lifetime: dt.timedelta) -> Path:
    path = folder / "x509up"
    write_private(path, make_proxy(robot, lifetime).proxy_pem)
    return path


def jwt_ending(at_s: float) -> str:
    parts: tuple[dict[str, object], ...] = ({"alg": "none"}, {"exp": at_s}, {})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)


def token_file(folder: Path, text: str, origin: str = "Rubin.production") -> TokenCredentials:
    (folder / "token").write_text(text)
    return TokenCredentials(SecretFile(folder / "token"), origin)


def refused(credentials: Credentials, min_lifetime_s: float = 0) -> PilotCannotWork:
    with pytest.raises(PilotCannotWork) as raised:
        credentials.check(min_lifetime_s)
    assert "\n" not in str(raised.value)
    return raised.value


def test_the_first_certificate_to_expire_counts(tmp_path: Path, robot: Credential) -> None:
    short = proxy_file(tmp_path, robot, dt.timedelta(hours=1))
    assert 3500 < remaining_lifetime_s(short) <= 3600
    beyond = proxy_file(tmp_path, robot, dt.timedelta(hours=100))
    assert remaining_lifetime_s(beyond) <= 36000


def test_a_good_proxy_passes(tmp_path: Path, robot: Credential) -> None:
    path = proxy_file(tmp_path, robot, dt.timedelta(hours=1))
    Credentials(X509Credentials(path, path)).check(1800)


def test_a_proxy_that_ends_too_early_is_named(tmp_path: Path, robot: Credential) -> None:
    path = proxy_file(tmp_path, robot, dt.timedelta(hours=1))
    error = refused(Credentials(X509Credentials(path, path)), 7200)
    assert error.exit_code is ExitCode.PROXY_TOO_SHORT
    assert str(path) in str(error)
    assert "7200 s are needed" in str(error)


def test_an_expired_proxy_is_named_with_its_end(tmp_path: Path, robot: Credential) -> None:
    path = proxy_file(tmp_path, robot, dt.timedelta(seconds=-60))
    error = refused(Credentials(X509Credentials(path, path)))
    assert error.exit_code is ExitCode.CREDENTIALS
    assert "expired on 20" in str(error)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x509up"
    x509 = Credentials(X509Credentials(path, path))
    assert "cannot be read" in str(refused(x509))
    path.write_text("hello")
    assert "holds no certificate" in str(refused(x509))
    path.write_text(
        "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
    )
    error = refused(x509)
    assert "damaged" in str(error)
    assert error.exit_code is ExitCode.CREDENTIALS


def test_a_certificate_without_its_key_is_named(tmp_path: Path, robot: Credential) -> None:
    path = tmp_path / "client.crt"
    path.write_bytes(robot.certificate_pem)
    assert "holds no private key" in str(refused(Credentials(X509Credentials(path, path))))


def test_a_key_with_a_pass_phrase_is_refused_before_anybody_is_asked_for_it(tmp_path: Path, robot: Credential) -> None:
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    cert.write_bytes(robot.certificate_pem)
    encrypted = robot.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    key.write_bytes(encrypted)
    assert "pass phrase" in str(refused(Credentials(X509Credentials(cert, key))))


def test_a_named_pipe_in_place_of_a_proxy_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "not a regular file" in str(refused(Credentials(X509Credentials(path, path))))


def test_no_credentials_at_all_are_refused() -> None:
    assert refused(Credentials()).exit_code is ExitCode.CREDENTIALS


def test_a_token_is_sent_with_its_origin_and_read_anew(tmp_path: Path) -> None:
    token = token_file(tmp_path, " first.token.x\n")
    assert token.headers() == {"Authorization": "Bearer first.token.x", "Origin": "Rubin.production"}
    (tmp_path / "fresh").write_text("second.token.x")
    (tmp_path / "fresh").rename(tmp_path / "token")
    assert token.headers()["Authorization"] == "Bearer second.token.x"


def test_an_expired_token_is_named(tmp_path: Path) -> None:
    error = refused(Credentials(token=token_file(tmp_path, jwt_ending(time.time() - 60))))
    assert error.exit_code is ExitCode.CREDENTIALS
    assert "expired on 20" in str(error)
    Credentials(token=token_file(tmp_path, jwt_ending(time.time() + 60))).check()


@pytest.mark.parametrize("text", ["", "two words", '{"access_token": "x"}', "a\r\nX-Injected: 1", "x" * 100_000])
def test_a_file_that_holds_no_bare_token_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(CredentialsUnusable) as raised:
        token_file(tmp_path, text).headers()
    assert str(tmp_path / "token") in str(raised.value)
    assert "access_token" not in str(raised.value)
    assert "Injected" not in str(raised.value)


@pytest.mark.parametrize("origin", ["", "two words", "Rubin\r\nX: 1"])
def test_an_origin_no_header_can_carry_is_refused(tmp_path: Path, origin: str) -> None:
    assert "origin" in str(refused(Credentials(token=token_file(tmp_path, "t", origin))))


@pytest.mark.parametrize("token", ["", "opaque", "a.b.c", "a.!!.c", f"a.{base64.urlsafe_b64encode(b'[1]').decode()}.c"])
def test_a_token_that_tells_no_end_has_none(token: str) -> None:
    assert token_end(token) is None


@pytest.mark.parametrize("at_s", [1e300, float("nan"), float("-inf")])
def test_an_absurd_end_of_a_token_is_none(at_s: float) -> None:
    assert token_end(jwt_ending(at_s)) is None


def test_the_stamp_changes_with_either_file(tmp_path: Path, robot: Credential) -> None:
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    cert.write_bytes(robot.certificate_pem)
    key.write_bytes(robot.key_pem)
    credentials = Credentials(X509Credentials(cert, key))
    before = credentials.stamp()
    assert credentials.stamp() == before
    (tmp_path / "fresh").write_bytes(robot.key_pem)
    (tmp_path / "fresh").rename(key)
    assert credentials.stamp() != before


def test_a_token_shows_itself_to_nobody(tmp_path: Path) -> None:
    credentials = Credentials(token=token_file(tmp_path, "hush.hush.hush"))
    credentials.headers()
    assert "hush" not in repr(credentials)
