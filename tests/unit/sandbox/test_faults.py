from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import requests

from pilot.sandbox.control import SandboxError
from pilot.sandbox.world import World
from tests.unit.sandbox.wire import acquire, call, submit, update


def _post(world: World, session: requests.Session, timeout_s: float = 10.0) -> requests.Response:
    body = {"site_name": "DOMA_LSST_DEV"}
    return session.post(f"{world.server_url}/api/v1/pilot/acquire_jobs", json=body, timeout=timeout_s)


def test_the_next_requests_fail_with_a_status_and_then_all_is_well(world: World, session: requests.Session) -> None:
    world.sandbox.fault("status", path="acquire_jobs", status=503, count=2)
    assert [_post(world, session).status_code for _ in range(3)] == [503, 503, 200]


def test_skipped_requests_go_right(world: World, session: requests.Session) -> None:
    world.sandbox.fault("status", path="acquire_jobs", skip=1)
    assert [_post(world, session).status_code for _ in range(3)] == [200, 503, 200]


def test_a_fault_may_be_meant_for_one_kind_of_body(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    world.sandbox.fault("status", path="update_job", contains='"finished"')
    assert update(world, session, panda_id, "running") == "NULL"
    with pytest.raises(requests.JSONDecodeError):
        update(world, session, panda_id, "finished")


@pytest.mark.parametrize(("kind", "given"), [("reset-before", False), ("reset-after-commit", True)])
def test_a_reset_loses_the_answer_before_or_after_the_deed(
    world: World, session: requests.Session, kind: str, given: bool
) -> None:
    panda_id = submit(world)
    world.sandbox.fault(kind, path="acquire_jobs")
    with pytest.raises(requests.ConnectionError):
        _post(world, session)
    assert (world.sandbox.job(panda_id)["status"] == "sent") == given
    entry = [entry for entry in world.sandbox.ledger() if entry["fault"]][-1]
    assert (entry["committed"] is not None) == given


@pytest.mark.parametrize(
    ("kind", "content"), [("garbage", b"\xff"), ("html", b"<html>"), ("empty", b""), ("huge", b"   ")]
)
def test_bodies_that_are_no_answer(world: World, session: requests.Session, kind: str, content: bytes) -> None:
    world.sandbox.fault(kind, path="acquire_jobs", status=200)
    answer = _post(world, session)
    assert content in answer.content
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_a_truncated_answer_ends_before_its_length(world: World, session: requests.Session) -> None:
    world.sandbox.fault("truncated", path="acquire_jobs")
    with pytest.raises(requests.RequestException):
        _post(world, session)


def test_a_database_error_stores_nothing(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    world.sandbox.fault("database", path="update_job")
    answer = call(world, session, "pilot/update_job", job_id=panda_id, job_status="running")
    assert answer == {"success": True, "message": "Database error", "data": {"StatusCode": 30}}
    assert world.sandbox.job(panda_id)["status"] == "sent"


def test_a_slow_answer_is_right_but_late(world: World, session: requests.Session) -> None:
    world.sandbox.fault("slow", path="acquire_jobs", delay_s=0.2)
    start = time.monotonic()
    assert _post(world, session).json()["message"] == "No jobs in PanDA"
    assert time.monotonic() - start >= 0.2


def test_a_dripping_answer_is_whole_in_the_end(world: World, session: requests.Session) -> None:
    world.sandbox.fault("drip", path="acquire_jobs", delay_s=0.001)
    assert _post(world, session).json()["message"] == "No jobs in PanDA"


def test_a_hanging_server_says_nothing(world: World, session: requests.Session) -> None:
    world.sandbox.fault("hang", path="acquire_jobs", delay_s=30)
    with pytest.raises(requests.Timeout):
        _post(world, session, 0.2)


def test_a_server_that_is_down_refuses_until_its_time_is_over(tmp_path: Path) -> None:
    with World(tmp_path, stores=False) as world, requests.Session() as session:
        session.trust_env, session.verify = False, str(world.ca_path)
        _post(world, session)
        world.sandbox.down("panda", seconds=0.3)
        with pytest.raises(requests.ConnectionError):
            _post(world, session)
        end = time.monotonic() + 5
        while not world.listeners["panda"].is_up:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert _post(world, session).status_code == 200


def test_cric_may_be_down_on_its_own(tmp_path: Path) -> None:
    with World(tmp_path, stores=False) as world, requests.Session() as session:
        session.trust_env, session.verify = False, str(world.ca_path)
        world.sandbox.down("cric")
        with pytest.raises(requests.ConnectionError):
            session.get(f"{world.cric_url}/api/atlas/pandaqueue/query/?json", timeout=5)
        assert _post(world, session).status_code == 200
        world.sandbox.up("cric")
        assert session.get(f"{world.cric_url}/api/atlas/pandaqueue/query/?json", timeout=5).ok


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [("no-such", {}, "There is no fault 'no-such'"), ("slow", {"colour": 1}, "unexpected keyword argument 'colour'")],
)
def test_a_fault_that_makes_no_sense_is_refused(
    world: World, kind: str, options: dict[str, int], sentence: str
) -> None:
    with pytest.raises(SandboxError, match=sentence):
        world.sandbox.fault(kind, **options)


def test_every_request_is_in_the_ledger_with_its_decoded_body(world: World, session: requests.Session) -> None:
    before = world.sandbox.ledger()[-1]["seq"] if world.sandbox.ledger() else 0
    form = {"siteName": "DOMA_LSST_DEV", "mem": "100"}
    session.post(f"{world.server_url}/server/panda/getJob", data=form, timeout=10)
    _post(world, session)
    legacy, v1 = world.sandbox.ledger(before)
    assert json.loads(legacy["body"]) == form
    assert json.loads(v1["body"]) == {"site_name": "DOMA_LSST_DEV"}
    assert v1["caller"].endswith("/CN=Robot PanDA Pilot")
    assert legacy["arrived"] <= legacy["committed"] <= v1["arrived"] <= v1["committed"]
    assert (v1["status"], json.loads(v1["answer"])["message"]) == (200, "No jobs in PanDA")


def test_two_pilots_never_get_the_same_job(world: World) -> None:
    wanted = {submit(world) for _ in range(20)}
    got: list[int] = []

    def pilot() -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.verify, session.cert = str(world.ca_path), str(world.state_dir / "proxy.pem")
            while found := acquire(world, session):
                got.extend(found)

    pilots = [threading.Thread(target=pilot) for _ in range(4)]
    for thread in pilots:
        thread.start()
    for thread in pilots:
        thread.join()
    assert sorted(got) == sorted(wanted)


def test_a_store_behind_a_front_can_fail_and_be_down(tmp_path: Path) -> None:
    with World(tmp_path, store_fronts=True) as world, requests.Session() as session:
        session.trust_env, session.verify = False, str(world.ca_path)
        url = f"{world.gcs_url}/upload/storage/v1/b/drp-us-central1-logging/o?uploadType=media&name=x.txt"
        world.sandbox.fault("status", server="gcs", path="/upload/", status=403)
        assert [session.post(url, data=b"x" * 10, timeout=10).status_code for _ in range(2)] == [403, 200]
        uploads = [entry for entry in world.sandbox.ledger() if entry["server"] == "gcs"]
        assert [(entry["status"], entry["body"], entry["committed"] is None) for entry in uploads] == [
            (403, "(10 bytes)", True),
            (200, "(10 bytes)", False),
        ]
        world.sandbox.down("gcs")
        with pytest.raises(requests.ConnectionError):
            session.post(url, data=b"x", timeout=10)
