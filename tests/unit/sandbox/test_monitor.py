"""The monitor's data, as its page gets them. The page itself is tested in a browser (tests/integration/pages)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from pilot.sandbox.certs import Authority
from pilot.sandbox.free_ports import held_port, port_of
from pilot.sandbox.monitor import depths_of, diagnosis, jobs_view, log_url, updates_view
from pilot.sandbox.public_logs import PublicLogs, folder_of, object_path
from pilot.sandbox.world import World
from tests.unit.sandbox.wire import acquire, submit, update

URL = "https://logs.example/PandaJob_1/pilotlog.txt"


def ask(world: World, path: str, **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{world.monitor_url}{path}", headers=headers, timeout=10)


def entry(path: str, body: object, answer: str = "", **more: Any) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {"path": path, "body": text, "answer": answer, "arrived": 1.0, "status": 200, "fault": None, **more}


def test_the_page_carries_all_it_needs_and_allows_nothing_else(world: World) -> None:
    answer = ask(world, "")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "/*STYLE*/" not in answer.text and "/*SCRIPT*/" not in answer.text and "src=" not in answer.text


def test_jobs_are_listed_with_state_diagnosis_and_log(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    update(world, session, panda_id, "running", pilot_id=f"{URL}|x|PR|1")
    (job,) = [job for job in ask(world, "/jobs.json").json()["jobs"] if job["id"] == panda_id]
    assert (job["status"], job["log"], job["depth"], job["parents"], job["page"]) == ("running", URL, 0, [], False)


def test_what_has_not_changed_is_not_sent_again(world: World) -> None:
    first = ask(world, "/jobs.json")
    again = ask(world, "/jobs.json", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    submit(world)
    assert ask(world, "/jobs.json", **{"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_a_job_tells_its_updates_over_time(world: World, session: requests.Session) -> None:
    panda_id = submit(world)
    acquire(world, session)
    update(world, session, panda_id, "starting", node="n1")
    update(world, session, panda_id, "running", node="n1", job_sub_status="x")
    world.sandbox.kill(panda_id)
    update(world, session, panda_id, "running", node="n1", job_sub_status="x")
    job = ask(world, f"/job/{panda_id}.json").json()
    assert [told["state"] for told in job["updates"]] == ["sent", "starting", "running", "running"]
    assert ["node", "n1"] in job["updates"][1]["news"]
    assert job["updates"][2]["news"] == [["job_sub_status", "x"]]
    assert (job["updates"][3]["news"], job["updates"][3]["answer"]) == ([], "tobekilled")
    assert job["objects"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/pilot/update_job", {"job_id": 7, "job_status": "running", "node": "n"}),
        (
            "/api/v1/pilot/update_jobs_bulk",
            {"job_list": [{"job_id": 8}, {"job_id": 7, "job_status": "running", "node": "n"}]},
        ),
        ("/server/panda/updateJob", {"jobId": "7", "state": "running", "node": "n"}),
        ("/server/panda/updateJobsInBulk", {"jobList": json.dumps([{"jobId": "7", "state": "running", "node": "n"}])}),
    ],
)
def test_updates_of_both_generations_are_read_alike(path: str, body: dict[str, Any]) -> None:
    (told,) = updates_view([entry(path, body)], 7)
    assert (told["state"], told["news"]) == ("running", [["node", "n"]])


@pytest.mark.parametrize("body", ["", "null", "[", "7", '{"jobList": "["}', '{"job_list": [1, null]}', "[" * 5000])
def test_a_body_that_makes_no_sense_tells_nothing(body: str) -> None:
    assert list(updates_view([entry("/server/panda/updateJobsInBulk", body)], 7)) == []


@given(st.dictionaries(st.integers(0, 30), st.lists(st.integers(0, 30), max_size=4)))
def test_a_job_lies_below_its_deepest_parent(wild: dict[int, list[int]]) -> None:
    parents = {job: [parent for parent in ids if parent < job] for job, ids in wild.items()}  # no circles
    depths = depths_of(parents)
    assert depths.keys() == parents.keys()
    for job, ids in parents.items():
        known = [depths[parent] for parent in ids if parent in parents]
        assert depths[job] == max((depth + 1 for depth in known), default=0)


def test_a_long_chain_of_jobs_is_no_recursion() -> None:
    assert depths_of({job: [job - 1] if job else [] for job in range(20_000)})[19_999] == 19_999


def test_what_a_job_says_stays_a_text() -> None:
    evil = "<script>alert('x')</script>"
    fields = {"piloterrorcode": 1305, "piloterrordiag": evil, "pilotid": "javascript:alert(1)|a", "jobsubstatus": evil}
    job = {
        "panda_id": 1,
        "label": evil,
        "site": evil,
        "status": "failed",
        "modified": 0.0,
        "fields": fields,
        "parents": [],
    }
    (shown,) = jobs_view([job])
    assert shown["diagnosis"] == f"pilot 1305: {evil}" == diagnosis(fields)
    assert shown["log"] is None is log_url(fields)


@pytest.mark.parametrize(
    "path", ["/job/1.json", "/job/x.json", "/job/", "/jobs", f"/job/{'9' * 30}.json", "/x", "/job/-1.json"]
)
def test_what_is_not_there_is_404(world: World, path: str) -> None:
    assert ask(world, path).status_code == 404


def test_no_address_leads_out_of_the_log_bucket() -> None:
    good = "https://localhost:1/drp-us-central1-logging/logs/Q/PandaJob_1/pilotlog.txt"
    wrong = [
        None,
        "",
        "https://[",
        "https://h/other-bucket/x/y",
        f"{good}/../../../../../o/x",
        "https://h/drp-us-central1-logging/x",
    ]
    assert [folder_of(url) for url in wrong] == [None] * len(wrong)
    assert [object_path(good, name) for name in ("", "..", "a/b", "../x")] == [None] * 4
    elsewhere = good.replace("localhost:1", "evil.example")
    assert object_path(elsewhere, "a b?c#d") == "/drp-us-central1-logging/logs/Q/PandaJob_1/a%20b%3Fc%23d"


def test_a_store_that_is_down_has_nothing(tmp_path: Path) -> None:
    Authority(tmp_path)
    with held_port() as nobody_listens:
        logs = PublicLogs(port_of(nobody_listens), tmp_path / "ca.pem")
        url = "https://localhost:1/drp-us-central1-logging/logs/Q/PandaJob_1/pilotlog.txt"
        assert logs.listing(url) == () and logs.read(url, "payload.stdout") is None
