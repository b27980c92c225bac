from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from pilot.sandbox.adder import judge
from pilot.sandbox.world import World
from tests.unit.sandbox.conftest import REPORT
from tests.unit.sandbox.wire import acquire, submit, update

LOG = [{"lfn": "log.tgz", "type": "log"}]
WITH_INPUT = [{"lfn": "in.fits", "type": "input"}, *LOG]
GOOD = {"guid": "g", "fsize": 1, "adler32": "00000001"}


def _judged(status: str, report: object, files: list[dict[str, Any]] = LOG, **how: bool) -> tuple[str, str | None]:
    text = report if isinstance(report, str) else json.dumps(report)
    verdict = judge(status, text, files, **{"killed": False, "has_error_code": False} | how)
    return verdict.status, verdict.diagnosis


NO_REPORT = "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        ({"log.tgz": GOOD}, ("finished", None)),
        ({}, ("failed", "expected output log.tgz is missing in pilot JSON")),
        ({"log.tgz": GOOD, "x": GOOD}, ("failed", "pilot produced x inconsistently with jobdef")),
        ("", ("failed", NO_REPORT)),
        ("[1]", ("failed", NO_REPORT)),
        ("null", ("failed", NO_REPORT)),
        ({"log.tgz": {**GOOD, "fsize": "many"}}, ("failed", NO_REPORT)),
        ({"log.tgz": None}, ("failed", NO_REPORT)),
    ],
)
def test_finished_needs_every_output_and_nothing_else(report: object, verdict: tuple[str, str | None]) -> None:
    assert _judged("finished", report) == verdict


def test_an_input_in_the_report_needs_neither_size_nor_checksum() -> None:
    assert _judged("finished", {"in.fits": {"guid": "g"}, "log.tgz": GOOD}, WITH_INPUT) == ("finished", None)


@pytest.mark.parametrize(
    ("killed", "coded", "verdict"),
    [
        (False, True, ("failed", None)),
        (False, False, ("failed", NO_REPORT)),
        (True, True, ("cancelled", None)),
    ],
)
def test_failed_without_report_names_the_missing_report_only_when_no_code_is_set(
    killed: bool, coded: bool, verdict: tuple[str, str | None]
) -> None:
    assert _judged("failed", "", killed=killed, has_error_code=coded) == verdict


def test_a_child_waits_for_all_its_parents(world: World, session: requests.Session) -> None:
    job = {"transformation": "bash-c"}
    first, second, child = world.sandbox.submit(
        [{"label": "a", "job": job}, {"label": "b", "job": job}, {"label": "c", "parents": ["a", "b"], "job": job}]
    )
    assert acquire(world, session, n_jobs=5) == [first, second]
    update(world, session, first, "finished", job_output_report=REPORT)
    world.sandbox.wait_for(first, {"finished"}, 5)
    assert world.sandbox.job(child)["status"] == "defined"
    update(world, session, second, "finished", job_output_report=REPORT)
    world.sandbox.wait_for(child, {"activated"}, 5)
    assert acquire(world, session) == [child]


def test_the_descendants_of_a_failed_job_are_closed(world: World, session: requests.Session) -> None:
    job = {"transformation": "bash-c"}
    ids = world.sandbox.submit(
        [
            {"label": "a", "job": job},
            {"label": "b", "parents": ["a"], "job": job},
            {"label": "c", "parents": ["b"], "job": job},
        ]
    )
    acquire(world, session)
    update(world, session, ids[0], "failed", pilot_error_code=1305)
    for descendant in ids[1:]:
        closed = world.sandbox.wait_for(descendant, {"closed"}, 5)
        assert "did not finish" in closed["fields"]["taskbuffererrordiag"]


@pytest.mark.parametrize(
    ("status", "silent_s", "code", "text"),
    [
        ("sent", 1700, None, ""),
        ("sent", 1900, 102, "Sent job didn't receive reply from pilot within 30 min"),
        ("running", 7000, None, ""),
        ("running", 7300, 100, "lost heartbeat : "),
        ("starting", 7300, 100, "lost heartbeat : "),
        ("holding", 47 * 3600, None, ""),
        ("holding", 49 * 3600, 103, "not transitioned from holding"),
    ],
)
def test_the_watcher_fails_jobs_that_are_silent_for_too_long(
    world: World, status: str, silent_s: float, code: int | None, text: str
) -> None:
    panda_id = submit(world)
    world.db.set_job(panda_id, touch=False, status=status, modified=time.time() - silent_s)
    world.run_adder()
    job = world.sandbox.job(panda_id)
    assert (job["status"], job["fields"]["jobdispatchererrorcode"]) == (("failed", code) if code else (status, 0))
    assert text in (job["fields"].get("jobdispatchererrordiag") or "")


def test_the_time_scale_shortens_the_limits(tmp_path: Path) -> None:
    with World(tmp_path, stores=False, time_scale=3600, adder_delay_s=0.0) as fast, requests.Session() as session:
        session.trust_env = False
        session.verify = str(fast.ca_path)
        session.cert = str(fast.state_dir / "proxy.pem")
        panda_id = submit(fast)
        assert acquire(fast, session) == [panda_id]
        # 30 minutes are half a second here.
        assert fast.sandbox.wait_for(panda_id, {"failed"}, 5)["fields"]["jobdispatchererrorcode"] == 102
        assert update(fast, session, panda_id, "running") == "tobekilled"
