from __future__ import annotations

from typing import Any

import pytest
import requests

from pilot.sandbox.world import World

QUEUES = {"DOMA_LSST_DEV", "DOMA_LSST_GOOGLE_TEST", "DOMA_LSST_GOOGLE_TEST_HIMEM"}


def _get(world: World, session: requests.Session, path: str, base: str | None = None) -> Any:
    return session.get(f"{base or world.cric_url}{path}", timeout=10).json()


def test_a_queue_is_keyed_by_its_name(world: World, anonymous: requests.Session) -> None:
    found = _get(world, anonymous, "/api/atlas/pandaqueue/query/?json&pandaqueue=DOMA_LSST_DEV")
    assert list(found) == ["DOMA_LSST_DEV"]
    assert found["DOMA_LSST_DEV"]["astorages"]["pw"] == ["GKE-LSST_LOGS"]


def test_without_a_name_all_queues_come(world: World, anonymous: requests.Session) -> None:
    assert set(_get(world, anonymous, "/api/atlas/pandaqueue/query/?json")) >= QUEUES


@pytest.mark.parametrize("kind", ["pandaqueue", "ddmendpoint"])
def test_an_unknown_name_is_an_empty_answer(world: World, anonymous: requests.Session, kind: str) -> None:
    assert _get(world, anonymous, f"/api/atlas/{kind}/query/?json&{kind}=NO_SUCH") == {}


def test_the_older_form_gives_a_list(world: World, anonymous: requests.Session) -> None:
    found = _get(world, anonymous, "/api/atlas/ddmendpoint/query/list/?json&ddmendpoint=SANDBOX_S3")
    assert [endpoint["name"] for endpoint in found] == ["SANDBOX_S3"]


def test_the_server_cache_gives_the_bare_queue(world: World, anonymous: requests.Session) -> None:
    bare = _get(world, anonymous, "/cache/schedconfig/DOMA_LSST_DEV.all.json", world.server_url)
    assert bare["nickname"] == "DOMA_LSST_DEV"
    assert "error" in _get(world, anonymous, "/cache/schedconfig/NO_SUCH.all.json", world.server_url)


def test_the_https_door_of_the_logs_is_the_sandboxs_own(world: World, anonymous: requests.Session) -> None:
    found = _get(world, anonymous, "/api/atlas/ddmendpoint/query/?json&ddmendpoint=GKE-LSST_LOGS")["GKE-LSST_LOGS"]
    doors = {door["flavour"]: door for door in found["arprotocols"]["read_lan"]}
    assert doors["GS"]["endpoint"] == "gs://drp-us-central1-logging"
    assert doors["HTTPS"]["endpoint"].startswith("https://localhost:")
    assert doors["HTTPS"]["path"] == "/drp-us-central1-logging/logs"


def test_a_queue_can_be_changed_and_added_while_running(world: World, anonymous: requests.Session) -> None:
    world.sandbox.set_queue("DOMA_LSST_GOOGLE_TEST", status="offline")
    world.sandbox.set_queue("MY_QUEUE", maxrss=64000)
    found = _get(world, anonymous, "/api/atlas/pandaqueue/query/?json")
    assert found["DOMA_LSST_GOOGLE_TEST"]["status"] == "offline"
    assert (found["MY_QUEUE"]["siteid"], found["MY_QUEUE"]["maxrss"]) == ("MY_QUEUE", 64000)
