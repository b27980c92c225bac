from __future__ import annotations

import pytest
import requests

from pilot.sandbox.world import World
from tests.unit.sandbox.conftest import REPORT
from tests.unit.sandbox.wire import acquire, call, submit, update


def test_the_higher_priority_goes_first_and_then_the_older(world: World, session: requests.Session) -> None:
    low, old, young = submit(world, currentPriority=100), submit(world), submit(world)
    assert acquire(world, session, n_jobs=3) == [old, young, low]


@pytest.mark.parametrize(
    ("asked", "label", "given"),
    [
        ("managed", "managed", True),
        ("managed", "test", True),
        ("managed", "prod_test", True),
        ("managed", "user", False),
        ("user", "panda", True),
        ("user", "managed", False),
        ("unified", "user", True),
        ("prod_test", "managed", False),
    ],
)
def test_the_label_decides_which_jobs_are_given(
    world: World, session: requests.Session, asked: str, label: str, given: bool
) -> None:
    submit(world, prodSourceLabel=label)
    assert bool(acquire(world, session, prod_source_label=asked)) == given


def test_a_queue_in_test_gives_test_jobs_only(world: World, session: requests.Session) -> None:
    world.sandbox.set_queue("SANDBOX_TEST", status="test")
    submit(world, computingSite="SANDBOX_TEST")
    test_job = submit(world, computingSite="SANDBOX_TEST", prodSourceLabel="prod_test")
    found = acquire(world, session, site_name="SANDBOX_TEST", computing_element="SANDBOX_TEST", n_jobs=5)
    assert found == [test_job]


def test_jobs_of_another_queue_are_not_given(world: World, session: requests.Session) -> None:
    submit(world, computingSite="DOMA_LSST_GOOGLE_TEST")
    assert acquire(world, session) == []


def test_a_numeric_batch_id_may_change(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    update(world, session, panda_id, "running", batch_id="101.1")
    assert update(world, session, panda_id, "running", batch_id="102.1") == "NULL"


def test_an_overlong_batch_id_is_still_the_same_pilot(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    update(world, session, panda_id, "running", batch_id="b" * 100)
    assert update(world, session, panda_id, "running", batch_id="b" * 100) == "NULL"


def test_an_update_of_a_job_nobody_acquired_is_refused_like_an_unknown_one(
    world: World, session: requests.Session
) -> None:
    panda_id = submit(world)
    assert update(world, session, panda_id, "running") == "tobekilled"
    assert world.sandbox.job(panda_id)["status"] == "activated"


def test_starting_after_running_is_running(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    for status in ("running", "starting"):
        update(world, session, panda_id, status)
    assert world.sandbox.job(panda_id)["status"] == "running"


def test_metadata_is_kept_once(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    update(world, session, panda_id, "running", meta_data="first")
    update(world, session, panda_id, "running", meta_data="second")
    assert world.sandbox.job(panda_id)["fields"]["metadata"] == "first"


def test_a_kill_reaches_the_running_pilot_and_ends_a_waiting_job(world: World, session: requests.Session) -> None:
    running, waiting = submit(world), submit(world)
    acquire(world, session)
    update(world, session, running, "running")
    assert [world.sandbox.kill(job) for job in (running, waiting, 1)] == [True, True, False]
    assert world.sandbox.job(waiting)["status"] == "cancelled"
    assert update(world, session, running, "running") == "tobekilled"
    update(world, session, running, "failed", pilot_error_code=1144, job_output_report=REPORT)
    assert world.sandbox.wait_for(running, {"cancelled", "failed"}, 5)["status"] == "cancelled"


def test_debug_comes_with_the_job_and_with_each_update(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    world.sandbox.debug(panda_id)
    answer = call(world, session, "pilot/acquire_jobs", site_name="DOMA_LSST_DEV")
    assert answer["data"]["jobs"][0]["debug"] == "True"
    world.sandbox.command(panda_id, "tail payload.stdout")
    assert update(world, session, panda_id, "running") == "debug,tail payload.stdout"


def test_a_user_without_role_gets_own_user_jobs_only(world: World, anonymous: requests.Session) -> None:
    token = world.issuer.token("jane doe", ("Rubin",), "jane")
    anonymous.headers.update({"Authorization": f"Bearer {token}", "Origin": "Rubin"})
    submit(world, prodSourceLabel="user", prodUserID="Somebody Else")
    own = submit(world, prodSourceLabel="user", prodUserID="Jane Doe")
    assert acquire(world, anonymous, prod_source_label="user", n_jobs=5) == [own]
