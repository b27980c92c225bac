from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
import requests

from pilot.sandbox.certs import PILOT_DN, Authority, Credential, make_proxy
from pilot.sandbox.world import World
from tests.unit.sandbox.wire import call

NOT_SECURE = "SSL secure connection is required"


def _told(world: World, session: requests.Session, credential: Credential, folder: Path) -> str:
    """What an update of an unknown job is answered to the holder of a credential: a command, or a refusal."""
    file = folder / "credential.pem"
    file.write_bytes(credential.proxy_pem)
    session.cert = str(file)
    answer = call(world, session, "pilot/update_job", job_id=1, job_status="running")
    return str(answer["data"]["command"] if answer["success"] else answer["message"])


def test_a_proxy_of_a_proxy_has_the_role_of_its_certificate(
    world: World, anonymous: requests.Session, tmp_path: Path
) -> None:
    client = world.authority.client(PILOT_DN)
    assert _told(world, anonymous, make_proxy(make_proxy(client)), tmp_path) == "tobekilled"


def test_a_limited_proxy_is_refused(world: World, anonymous: requests.Session, tmp_path: Path) -> None:
    limited = make_proxy(world.authority.client(PILOT_DN), limited=True)
    assert _told(world, anonymous, limited, tmp_path) == NOT_SECURE


def test_an_expired_proxy_does_not_get_a_connection(world: World, anonymous: requests.Session, tmp_path: Path) -> None:
    expired = make_proxy(world.authority.client(PILOT_DN), dt.timedelta(seconds=-5))
    with pytest.raises(requests.ConnectionError):
        _told(world, anonymous, expired, tmp_path)


def test_a_certificate_of_another_authority_does_not_get_a_connection(
    world: World, anonymous: requests.Session, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path).client(PILOT_DN)
    with pytest.raises(requests.ConnectionError):
        _told(world, anonymous, foreign, tmp_path)


def test_secrets_can_be_read_by_their_owner_only(world: World) -> None:
    private = ("ca.key", "server.key", "client.key", "proxy.pem", "token", "gcs-key.json", "s3-key", "admin-token")
    assert {name: stat.S_IMODE((world.state_dir / name).stat().st_mode) for name in private} == dict.fromkeys(
        private, 0o600
    )


def test_the_authority_of_a_reused_folder_stays_the_same(tmp_path: Path) -> None:
    Authority(tmp_path)
    first = (tmp_path / "ca.pem").read_bytes()
    Authority(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == first
