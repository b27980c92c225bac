"""The job page in a real Chromium, served by a web server as a bucket serves it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from pilot.logs.page.document import job_page
from pilot.logs.page.story import JobStory
from tests.integration.pages.browser import opened
from tests.unit.logs.page.stories import STORIES, out_of_memory, payload_failed, poisoned

Site = tuple[Path, str]
WAYS_TO_END = ("finished", "failed", "killed", "out-of-memory", "preempted", "malformed", "running")
ATTACK = "\"'><img src=/stolen onerror=alert(1)><script>alert(1)</script><style>*{display:none}</style>"


@pytest.fixture(scope="module")
def pages(site: Site) -> dict[str, str]:
    """The URL of each page, by the way its job ended; a log lies beside them."""
    folder, url = site
    for name in WAYS_TO_END:
        (folder / f"{name}.html").write_text(job_page(STORIES[name]()))
    (folder / "payload-log.json").write_text('{"message": "the whole log"}\n')
    return {name: f"{url}/{name}.html" for name in WAYS_TO_END}


def shown(site: Site, story: JobStory) -> str:
    folder, url = site
    (folder / "one.html").write_text(job_page(story))
    return f"{url}/one.html"


@pytest.mark.parametrize("name", WAYS_TO_END)
def test_a_page_asks_for_nothing_breaks_no_rule_of_its_own_and_fits_a_screen(
    name: str, browser: Browser, pages: dict[str, str]
) -> None:
    with opened(browser, pages[name]) as wide:
        assert wide.page.locator("h1").count() == 1
        assert (wide.requests, wide.complaints, wide.refused) == ([pages[name]], [], [])
        assert wide.too_wide_by_px == 0


@pytest.mark.parametrize("name", ["failed", "malformed", "finished"])
def test_a_page_can_be_read_on_a_phone_without_scrolling_sideways(
    name: str, browser: Browser, pages: dict[str, str]
) -> None:
    with opened(browser, pages[name], phone=True) as small:
        assert small.too_wide_by_px == 0
        for label in small.page.locator("svg.axis-x text, svg.axis-y text, text.limit-label").all():
            box = label.bounding_box()
            assert box is not None and box["height"] >= 10, "text of a plot too small to read"


@pytest.mark.parametrize(("name", "dark"), [("failed", False), ("preempted", True)])
def test_a_page_has_no_barriers(name: str, dark: bool, browser: Browser, pages: dict[str, str]) -> None:
    with opened(browser, pages[name], dark=dark) as page:
        assert page.barriers() == []


def test_the_page_follows_the_readers_scheme_and_prints_on_white(browser: Browser, pages: dict[str, str]) -> None:
    with opened(browser, pages["failed"], dark=True) as page:
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.page.evaluate(background) == "rgb(18, 22, 27)"
        page.page.emulate_media(media="print", color_scheme="dark")
        assert page.page.evaluate(background) == "rgb(255, 255, 255)"


def test_without_a_script_everything_is_there_to_read(browser: Browser, pages: dict[str, str]) -> None:
    with opened(browser, pages["failed"], script=False) as bare:
        text = bare.page.locator("body").inner_text()
        assert "NoPsfStars: only 3 usable stars" in text and "limit 7.81 GB" in text and "pilot-replay https://" in text
        bare.page.get_by_text("the last 39 lines").click()
        assert bare.page.get_by_text("processed amplifier C39").is_visible()


def test_the_pointer_over_a_plot_reads_out_time_and_value(browser: Browser, pages: dict[str, str]) -> None:
    with opened(browser, pages["out-of-memory"]) as page:
        area = page.page.locator("svg.area").first
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        assert box is not None
        page.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
        readout = page.page.locator(".readout").first
        assert re.fullmatch(r"0:05:\d\d · memory \(PSS\) 1\.\d\d GB · container 1\.\d\d GB", readout.inner_text())
        page.page.mouse.move(1, 1)
        assert readout.is_hidden()


def test_the_link_to_a_log_leads_to_the_object_beside_the_page(browser: Browser, pages: dict[str, str]) -> None:
    with opened(browser, pages["failed"]) as page:
        page.page.get_by_role("link", name="payload-log.json").first.click()
        assert page.page.url.endswith("/payload-log.json") and "the whole log" in page.page.content()


def test_a_limit_that_was_exceeded_is_drawn_below_the_peak(browser: Browser, pages: dict[str, str]) -> None:
    with opened(browser, pages["out-of-memory"]) as page:
        plot = page.page.locator("figure.plot").first
        container_line, limits = plot.locator("polyline").nth(1).bounding_box(), plot.locator("line.limit").all()
        assert container_line is not None and len(limits) == 2
        for limit in limits:
            box = limit.bounding_box()
            assert box is not None and box["y"] > container_line["y"]
            assert box["width"] > 500


@pytest.mark.parametrize("make", [out_of_memory, payload_failed], ids=["out-of-memory", "failed"])
def test_hostile_texts_everywhere_do_nothing(make: object, browser: Browser, site: Site) -> None:
    assert callable(make)
    url = shown(site, poisoned(make(), ATTACK))
    with opened(browser, url) as page:
        assert (page.requests, page.complaints, page.refused, page.dialogs) == ([url], [], [], [])
        assert page.page.locator("img").count() == 0 and page.page.locator("h1").is_visible()
        assert page.page.get_by_text("<img src=/stolen").first.is_visible()
        assert page.too_wide_by_px == 0


def test_even_markup_that_slipped_through_would_be_stopped_by_the_pages_policy(browser: Browser, site: Site) -> None:
    folder, url = site
    broken = job_page(payload_failed()).replace(
        "</main>", "<script>document.title='broken'</script><img src=/stolen></main>"
    )
    (folder / "broken.html").write_text(broken)
    with opened(browser, f"{url}/broken.html") as page:
        assert page.page.title() != "broken"
        assert sorted(page.refused) == ["img-src", "script-src-elem"]
