from __future__ import annotations

import requests

from pilot.sandbox.control import SandboxError
from pilot.sandbox.world import World
from tests.unit.sandbox.wire import update


def _status(world: World, session: requests.Session, path: str) -> int:
    return session.post(f"{world.server_url}{path}", json={}, timeout=10).status_code


def test_a_server_speaks_the_generations_it_is_told_to(world: World, session: requests.Session) -> None:
    v1, legacy = "/api/v1/pilot/acquire_jobs", "/server/panda/getStatus?ids=1"
    told = {}
    for apis in ("v1", "legacy", "both"):
        world.sandbox.set_apis(apis)
        told[apis] = (_status(world, session, v1), session.get(f"{world.server_url}{legacy}", timeout=10).status_code)
    assert told == {"v1": (200, 403), "legacy": (404, 200), "both": (200, 200)}


def test_an_order_without_the_admin_token_is_refused(world: World, anonymous: requests.Session) -> None:
    answer = anonymous.post(f"{world.plain_url}/sandbox/jobs", json={}, timeout=10)
    assert answer.status_code == 403


def test_an_unknown_job_is_named(world: World) -> None:
    try:
        world.sandbox.job(17)
    except SandboxError as error:
        assert str(error) == "The sandbox knows no job 17."
    else:
        raise AssertionError("the unknown job was found")


def test_transforms_can_be_downloaded(world: World, anonymous: requests.Session) -> None:
    assert anonymous.get(f"{world.transforms_url}bash-c-enc", timeout=10).text.startswith("#!/bin/bash")
    assert anonymous.get(f"{world.transforms_url}missing", timeout=10).status_code == 404


def test_a_worker_log_is_kept_once_and_can_be_read(world: World, session: requests.Session) -> None:
    url = f"{world.server_url}/api/v1/file_server/upload_cache_file"
    answers = [
        session.post(url, files={"file": (name, content)}, timeout=10).json()
        for name, content in (("h_1_gz.out", b"log"), ("h_1_gz.out", b"other"), ("../x", b"x"), ("no_field", b""))
    ]
    assert [answer["success"] for answer in answers] == [True, False, False, True]
    assert session.get(f"{world.server_url}/cache/h_1_gz.out", timeout=10).content == b"log"
    legacy = session.post(f"{world.server_url}/server/panda/putFile", files={"file": ("h_2.out", b"log")}, timeout=10)
    assert legacy.text == "True"


def test_a_connection_is_kept_for_the_next_request(world: World, session: requests.Session) -> None:
    for _ in range(3):
        update(world, session, 1, "running")
    adapter = session.get_adapter(world.server_url)
    pools = adapter.poolmanager.pools  # type: ignore[attr-defined]
    assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118  no mapping
