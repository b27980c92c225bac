from __future__ import annotations

from pathlib import Path

import google.auth.exceptions
import pytest
import requests
from google.auth.compute_engine import _metadata as metadata_client
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from pilot.sandbox.tokens import Issuer
from pilot.sandbox.world import World
from tests.unit.sandbox.wire import call


def _bearer(session: requests.Session, token: str, origin: str = "panda_dev.pilot") -> None:
    session.headers.update({"Authorization": f"Bearer {token}", "Origin": origin})


def _update(world: World, session: requests.Session) -> requests.Response:
    body = {"job_id": 1, "job_status": "running"}
    return session.post(f"{world.server_url}/api/v1/pilot/update_job", json=body, timeout=10)


def test_the_token_file_opens_both_apis(world: World, anonymous: requests.Session) -> None:
    _bearer(anonymous, (world.state_dir / "token").read_text())
    assert _update(world, anonymous).json()["data"]["command"] == "tobekilled"
    form = {"jobId": 1, "state": "running"}
    answer = anonymous.post(f"{world.server_url}/server/panda/updateJob", data=form, timeout=10)
    assert answer.json() == {"StatusCode": 0, "command": "tobekilled"}


def test_expired_tokens_are_refused_until_they_are_renewed(world: World, anonymous: requests.Session) -> None:
    _bearer(anonymous, (world.state_dir / "token").read_text())
    world.sandbox.expire_tokens()
    refused = _update(world, anonymous)
    assert (refused.status_code, refused.text) == (
        403,
        "ERROR : Token authentication failed. Invalid token. Signature has expired",
    )
    world.sandbox.renew_token()
    _bearer(anonymous, (world.state_dir / "token").read_text())
    assert _update(world, anonymous).ok


def test_a_banned_user_is_told_so(world: World, session: requests.Session) -> None:
    world.sandbox.ban("Robot PanDA Pilot")
    answer = _update(world, session)
    assert (answer.status_code, answer.text) == (403, "ERROR : Robot PanDA Pilot is banned")
    world.sandbox.unban("Robot PanDA Pilot")
    assert _update(world, session).ok


def test_a_token_of_another_issuer_is_refused(world: World, anonymous: requests.Session, tmp_path: Path) -> None:
    _bearer(anonymous, Issuer(tmp_path).token())
    assert "Signature verification failed" in _update(world, anonymous).text


def test_an_empty_bearer_token_is_no_identity(world: World, anonymous: requests.Session) -> None:
    anonymous.headers["Authorization"] = "Bearer"
    answer = call(world, anonymous, "pilot/update_job", job_id=1, job_status="running")
    assert answer["message"] == "SSL secure connection is required"


def _refreshed(world: World, session: requests.Session) -> service_account.Credentials:
    """Credentials of the key file after Google's own client has fetched a token."""
    credentials: service_account.Credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
        str(world.state_dir / "gcs-key.json"), scopes=["https://www.googleapis.com/auth/devstorage.read_write"]
    )
    credentials.refresh(Request(session=session))  # type: ignore[no-untyped-call]
    return credentials


def test_googles_own_client_gets_a_token_for_the_key_file(world: World, anonymous: requests.Session) -> None:
    credentials = _refreshed(world, anonymous)
    assert str(credentials.token).startswith("sandbox-")
    assert credentials.valid


@pytest.mark.parametrize("mode", ["401", "403"])
def test_the_token_endpoint_may_refuse(world: World, anonymous: requests.Session, mode: str) -> None:
    world.sandbox.set_oauth(mode)
    with pytest.raises(google.auth.exceptions.RefreshError):
        _refreshed(world, anonymous)
    world.sandbox.set_oauth("ok")


def test_the_token_endpoint_may_give_tokens_that_are_over(world: World, anonymous: requests.Session) -> None:
    world.sandbox.set_oauth("expired")
    assert not _refreshed(world, anonymous).valid
    world.sandbox.set_oauth("ok")


def test_an_assertion_that_nobody_signed_is_refused(world: World, anonymous: requests.Session) -> None:
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c"}
    answer = anonymous.post(f"{world.google_url}/oauth/token", data=form, timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_the_metadata_server_gives_tokens_as_on_a_node(world: World, anonymous: requests.Session) -> None:
    root = f"{world.plain_url}/computeMetadata/v1/"
    assert anonymous.get(f"{root}instance/id", timeout=10).status_code == 403
    path = "instance/service-accounts/default/token"
    found = metadata_client.get(Request(session=anonymous), path, root=root, retry_count=1)  # type: ignore[no-untyped-call]
    assert found["access_token"].startswith("sandbox-")
    anonymous.headers["Metadata-Flavor"] = "Google"
    assert anonymous.get(f"{root}instance/service-accounts/default/email", timeout=10).text.startswith("pilot@")
    assert anonymous.get(f"{root}instance/no-such", timeout=10).status_code == 404


def test_a_node_may_be_preempted(world: World, anonymous: requests.Session) -> None:
    anonymous.headers["Metadata-Flavor"] = "Google"
    url = f"{world.plain_url}/computeMetadata/v1/instance/preempted"
    before = anonymous.get(url, timeout=10).text
    world.sandbox.preempt()
    assert (before, anonymous.get(url, timeout=10).text) == ("FALSE", "TRUE")
    world.sandbox.preempt(False)
