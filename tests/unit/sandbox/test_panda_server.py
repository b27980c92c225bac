from __future__ import annotations

import os

import pytest
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


def put(world: World, session: requests.Session, name: str, content: bytes, legacy: bool = False) -> str:
    """What the server says to an upload."""
    path = "/server/panda/putFile" if legacy else "/api/v1/file_server/upload_cache_file"
    answer = session.post(world.server_url + path, files={"file": (name, content)}, timeout=30)
    assert answer.status_code == 200
    if legacy:
        return answer.text
    said = answer.json()
    assert said["success"] is (said["message"] == "")
    return str(said["message"] or "True")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_worker_log_is_kept_once_and_can_be_read(world: World, session: requests.Session, legacy: bool) -> None:
    name = f"h_{int(legacy)}_gz.out"
    error = "ERROR : " if legacy else "ERROR: "
    assert put(world, session, name, b"log", legacy) == "True"
    kept = world.state_dir / "cache" / name
    os.utime(kept, (1, 1))
    assert put(world, session, name, b"other", legacy) == f"{error}cannot overwrite file"
    assert session.get(f"{world.server_url}/cache/{name}", timeout=10).content == b"log"
    assert kept.stat().st_mtime > 1, "it is touched"
    assert put(world, session, f"{name}.__ow__", b"a", legacy) == put(world, session, f"{name}.__ow__", b"b", legacy)
    assert session.get(f"{world.server_url}/cache/{name}.__ow__", timeout=10).content == b"b"
    assert put(world, session, f"../../x{int(legacy)}", b"x", legacy) == "True", "the base name counts"
    assert (world.state_dir / "cache" / f"x{int(legacy)}").exists()


def test_a_file_that_is_too_large_is_refused_with_http_200(world: World, session: requests.Session) -> None:
    ten = b"x" * (10 << 20)
    assert put(world, session, "big.out", ten) == "True"
    assert "Exceeded size limit" in put(world, session, "big.tgz", ten), "the form around it counts"
    assert "Exceeded size limit" in put(world, session, "huge.out", ten * 10)


def test_who_may_not_upload_is_told_with_http_200(world: World, anonymous: requests.Session) -> None:
    assert put(world, anonymous, "a.out", b"log") == "SSL secure connection is required"
    assert put(world, anonymous, "a.out", b"log", legacy=True) == "ERROR : no HTTPS"


def test_a_connection_is_kept_for_the_next_request(world: World, session: requests.Session) -> None:
    for _ in range(3):
        update(world, session, 1, "running")
    adapter = session.get_adapter(world.server_url)
    pools = adapter.poolmanager.pools  # type: ignore[attr-defined]
    assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118  no mapping
