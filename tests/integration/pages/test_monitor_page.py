"""The sandbox's monitor page in a real Chromium, while a real pilot runs real jobs in a real sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, expect

from pilot.logs.page.document import CONTENT_TYPE, PAGE_NAME, job_page
from pilot.sandbox.cric_server import LOG_BUCKET
from pilot.sandbox.world import World
from tests.integration.pages.browser import Watched, opened
from tests.integration.pilot.pilotrun import Pilots, public, shell_job
from tests.unit.logs.page.from_files import story_from_files

EVIL = "<img src=/stolen onerror=alert(1)>"
GATED = "echo first line; while [ ! -e {gate} ]; do sleep 0.05; done; echo last line; sleep 0.5"


def entry(label: str, command: str, *parents: str) -> dict[str, Any]:
    return {"label": label, "parents": list(parents), "job": shell_job(command, jobName=label)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), adder_delay_s=0.0) as world:
        yield world


@pytest.fixture
def pilots(world: World, tmp_path: Path) -> Iterator[Pilots]:
    pilots = Pilots(world, tmp_path)
    yield pilots
    pilots.stop_all()


@dataclass(frozen=True)
class Done:
    """PandaIDs by label, and the summary of the pilot that ran them, by PandaID."""

    ids: dict[str, int]
    summary: dict[int, dict[str, Any]]

    def __getitem__(self, label: str) -> int:
        return self.ids[label]


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The PandaIDs by label of jobs that have run: a chain, one that fails with its child, and one with a hostile name."""
    entries = [
        entry("isr", "echo from isr; sleep 0.3"),
        entry("calibrate", "echo from calibrate", "isr"),
        entry("broken", f"echo '{EVIL}' >&2; exit 3"),
        entry("after-broken", "true", "broken"),
        entry(EVIL, "echo hostile"),
    ]
    ids = dict(zip([e["label"] for e in entries], world.sandbox.submit(entries), strict=True))
    pilots = Pilots(world, tmp_path_factory.mktemp("done"))
    try:
        end = pilots.run("--max-jobs", "4", "--empty-wait-s", "0.1", "--max-empty", "20")
    finally:
        pilots.stop_all()
    world.sandbox.wait_for(ids["calibrate"], ["finished"])
    world.sandbox.wait_for(ids["after-broken"], ["closed"])
    return Done(ids, end.jobs)


def store(world: World, url: str, page: str) -> None:
    """Put a page into the log bucket, as the pilot would."""
    name = url.partition(f"/{LOG_BUCKET}/")[2]
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"{world.gcs_url}/upload/storage/v1/b/{LOG_BUCKET}/o",
            params={"uploadType": "media", "name": name},
            data=page.encode(),
            headers={"Content-Type": CONTENT_TYPE},
            verify=str(world.ca_path),
            timeout=10,
        )
    assert answer.status_code == 200, answer.text


def row(shown: Watched, panda_id: int) -> Any:
    return shown.page.locator("#jobs tbody tr").filter(has=shown.page.get_by_role("button", name=str(panda_id)))


def test_a_running_job_is_followed_from_its_first_line_to_its_end(
    browser: Browser, world: World, pilots: Pilots, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    panda_id = world.sandbox.submit_job(**shell_job(GATED.format(gate=gate), jobName="gated"))
    with opened(browser, f"{world.monitor_url}#{panda_id}") as shown:
        page = shown.page
        expect(row(shown, panda_id).locator(".state")).to_have_text("activated")
        first_row = row(shown, panda_id).element_handle()
        pilot = pilots.start("--max-jobs", "1", "--require-isolation", "none")
        expect(row(shown, panda_id).locator(".state")).to_have_text("running")
        expect(page.locator("#tail")).to_have_text("first line\n")
        gate.touch()
        expect(row(shown, panda_id).locator(".state")).to_have_text("finished")
        expect(page.locator("#tail")).to_have_text("first line\nlast line\n")
        expect(page.locator("#updates .state")).to_have_text(["sent", "starting", "running", "finished"])
        expect(page.locator("#updates tbody tr").last).to_contain_text("trans_exit_code 0")
        expect(page.locator("#plots figure")).not_to_have_count(0)
        expect(page.locator("#plots figure").first).to_contain_text("Memory")
        assert first_row is not None and first_row.is_visible(), "the row was changed in place, not drawn anew"
        assert (shown.complaints, shown.refused) == ([], [])
        assert all(address.startswith(world.plain_url) for address in shown.requests)
        assert pilot.end().exit_code == 0


def test_jobs_can_be_searched_and_chosen_by_state(browser: Browser, world: World, done: Done) -> None:
    with opened(browser, world.monitor_url) as shown:
        rows = shown.page.locator("#jobs tbody tr")
        expect(row(shown, done["broken"])).to_contain_text("pilot 1305: Failed to execute payload: exit code 3")
        shown.page.locator("#search").fill("ISR doma")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("isr")
        shown.page.locator("#search").fill("")
        shown.page.locator("#chips button", has_text="closed").click()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("its parent")
        shown.page.locator("#chips button", has_text=re.compile(r"\d failed")).click()
        expect(rows).to_have_count(2)


def test_the_graph_shows_what_waits_for_what(browser: Browser, world: World, done: Done) -> None:
    with opened(browser, world.monitor_url) as shown:
        nodes = shown.page.locator("#graph-box .node")
        expect(nodes).to_have_count(4)
        left, right = (
            shown.page.locator(".node", has_text=label).first.bounding_box() for label in ("isr", "calibrate")
        )
        assert left is not None and right is not None and left["x"] + left["width"] < right["x"]
        expect(shown.page.locator(".edge")).to_have_count(2)
        expect(shown.page.locator(".edge.done")).to_have_count(1)
        shown.page.locator(".node", has_text="after-broken").focus()
        shown.page.keyboard.press("Enter")
        expect(shown.page.locator("#job-title")).to_contain_text(f"Job {done['after-broken']} after-broken: closed")


def test_the_objects_of_a_job_can_be_read_through_the_monitor(browser: Browser, world: World, done: Done) -> None:
    panda_id = done["isr"]
    folder = f"{world.gcs_url}/{LOG_BUCKET}/logs/DOMA_LSST_DEV/PandaJob_{panda_id}"
    with opened(browser, f"{world.monitor_url}#{panda_id}") as shown:
        link = shown.page.get_by_role("link", name=re.compile("payload.stdout"))
        expect(link).to_be_visible()
        response = shown.page.request.get(f"{world.plain_url}/{link.get_attribute('href')}")
        assert response.body() == public(world, f"{folder}/payload.stdout").content == b"from isr\n"
        assert response.headers["content-security-policy"].startswith("sandbox")


def test_what_jobs_say_does_nothing(browser: Browser, world: World, done: Done) -> None:
    with opened(browser, f"{world.monitor_url}#{done['broken']}") as shown:
        shown.page.locator("#tail-name").select_option("payload.stderr")
        expect(shown.page.locator("#tail")).to_have_text(f"{EVIL}\n")
        expect(row(shown, done[EVIL])).to_contain_text(EVIL)
        assert shown.page.locator("img").count() == 0
        assert (shown.dialogs, shown.complaints, shown.refused) == ([], [], [])


def test_the_monitor_has_no_barriers_and_fits_a_phone(browser: Browser, world: World, done: Done) -> None:
    with opened(browser, f"{world.monitor_url}#{done['isr']}", dark=True, phone=True) as shown:
        expect(shown.page.locator("#updates .state").last).to_have_text("finished")
        expect(shown.page.locator("#plots figure")).not_to_have_count(0)
        assert shown.too_wide_by_px == 0
        assert shown.barriers() == []


def test_the_page_of_a_real_job_lies_beside_its_logs_and_is_linked(
    browser: Browser, world: World, done: Done, tmp_path: Path
) -> None:
    told = done.summary[done["broken"]]
    for name in ("payload.stdout", "payload.stderr", "pilotlog.txt", "memory_monitor_output.txt"):
        answer = public(world, told["log_url"].replace("pilotlog.txt", name))
        (tmp_path / name).write_bytes(answer.content)
    page = job_page(story_from_files(tmp_path, told, 1_795_744_854.0))
    store(world, told["log_url"].replace("pilotlog.txt", PAGE_NAME), page)
    with opened(browser, f"{world.monitor_url}#{done['broken']}") as shown:
        link = shown.page.locator("#objects .page")
        expect(link).to_have_text("job page")
        with shown.page.expect_popup() as popup:
            link.click()
        stored = popup.value
        expect(stored.locator("h1")).to_have_text("Failed to execute payload")
        expect(stored.locator("body")).to_contain_text(f"exit code 3: {EVIL}")
        expect(stored.locator("figure.plot").first).to_contain_text("Memory")
        expect(stored.locator(".readout").first).to_be_attached()  # its own script may run, without rights here
        assert stored.evaluate("window.origin") == "null"
        stored.get_by_role("link", name="payload.stderr").first.click()
        expect(stored.locator("body")).to_have_text(EVIL)


def test_a_sandbox_that_is_gone_is_told_and_what_was_shown_stays(browser: Browser, tmp_path: Path) -> None:
    with World(tmp_path / "short", stores=False, adder_delay_s=None) as world:
        panda_id = world.sandbox.submit_job(**shell_job("true"))
        with opened(browser, world.monitor_url) as shown:
            expect(row(shown, panda_id)).to_be_visible()
            world.stop()
            expect(shown.page.locator("#pulse")).to_have_text("the sandbox does not answer")
            expect(row(shown, panda_id)).to_be_visible()
