from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.model import Attempt
from pilot.job.outcome import Outcome, failed
from pilot.job.states import JobState
from pilot.logs.page.document import job_page, verdict_of
from pilot.logs.page.story import Direction, FirstError, JobStory, LogStory, StageSpan, TransferStory, cleaned
from pilot.logs.page.style import STYLE
from tests.unit.logs.page.stories import LOG_URL, STORIES, finished, payload_failed, poisoned

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</style></script><svg onload=alert(1)>",
    "&lt;b&gt; %3Cb%3E {{7*7}} ${7*7}",
    'https://evil.example/" autofocus onfocus="alert(1)',
    "\ud800\x00\x1b[31m\u202eevil",
    "..",
)
TOLD = {name: make() for name, make in STORIES.items()}
PAGES = {name: job_page(story) for name, story in TOLD.items()}


class Outline(HTMLParser):
    """What a browser would make of a page, as far as it matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._in, self.texts).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


KNOWN_TAGS = {tag for page in PAGES.values() for tag, _ in Outline(page).tags}
KNOWN_ATTRIBUTES = {name for page in PAGES.values() for _, attributes in Outline(page).tags for name in attributes}


@pytest.mark.parametrize("poison", HOSTILE)
@pytest.mark.parametrize("name", STORIES)
def test_no_text_of_a_story_becomes_markup_whatever_it_says(name: str, poison: str) -> None:
    page = job_page(poisoned(TOLD[name], poison))
    page.encode()
    clean, outline = Outline(PAGES[name]), Outline(page)
    assert {tag for tag, _ in outline.tags} <= KNOWN_TAGS
    assert {attribute for _, attributes in outline.tags for attribute in attributes} <= KNOWN_ATTRIBUTES
    assert outline.scripts == clean.scripts and outline.styles == clean.styles
    for link in outline.of("a"):
        href = link["href"] or ""
        assert href.startswith("./") or urlsplit(href).scheme in ("http", "https"), href
        assert not href.startswith("./") or "/" not in href[2:], href


@pytest.mark.parametrize("poison", HOSTILE[:5])
def test_a_hostile_text_is_shown_as_the_text_it_is(poison: str) -> None:
    shown = "".join(Outline(job_page(poisoned(payload_failed(), poison))).texts)
    assert shown.count(poison) > 10


@pytest.mark.parametrize("name", STORIES)
def test_a_page_asks_for_nothing_from_anywhere(name: str) -> None:
    outline = Outline(PAGES[name])
    assert {tag for tag, _ in outline.tags} & {
        "img",
        "iframe",
        "object",
        "embed",
        "video",
        "audio",
        "form",
        "base",
    } == set()
    assert [attributes["href"] for attributes in outline.of("link")] == ["data:,"]
    assert all("src" not in attributes for _, attributes in outline.tags)
    assert all("style" not in attributes for _, attributes in outline.tags), "the policy forbids it"
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(", "".join(outline.styles + outline.scripts))


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    (policy,) = [m["content"] or "" for m in Outline(PAGES["failed"]).of("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy


def test_the_page_of_twelve_hours_with_a_sample_a_second_is_small() -> None:
    story = finished(every_s=1.0)
    assert len(story.points) == 43_200
    lines = tuple("x" * 300 for _ in range(100))
    full = replace(story, logs=tuple(replace(log, lines=lines) for log in story.logs[:4]))
    assert len(job_page(full).encode()) < 300_000


def test_a_second_of_much_memory_in_twelve_hours_is_on_the_page() -> None:
    story = finished(every_s=1.0)
    page, peak = job_page(story), max(point.memory_bytes for point in story.points)
    (path,) = re.findall(r'<polyline class="line tone1" points="([^"]*)" data-name="memory', page)
    top = float(re.findall(r'data-top="([^"]*)"', page)[0])
    drawn = max(1000 - float(pair.split(",")[1]) for pair in path.split(" ")) / 1000 * top
    assert drawn == pytest.approx(peak, rel=0.002)


@pytest.mark.parametrize(
    ("name", "kind", "headline", "told"),
    [
        ("finished", "ok", "Finished", "2 outputs stored and verified"),
        ("failed", "failed", "Failed to execute payload", "exit code 1: NoPsfStars: only 3 usable stars, 20 needed"),
        ("killed", "stopped", "This job was killed by panda server", ""),
        ("out-of-memory", "failed", "Failed: Payload ran out of memory", "8243 MB (PSS), 8000 MB allowed (maxrss"),
        ("preempted", "stopped", "Job was preempted", ""),
        ("malformed", "failed", "Failed during payload setup", "the job names no command"),
        ("running", "running", "Still at work", ""),
    ],
)  # fmt: skip
def test_each_way_to_end_is_told_in_words(name: str, kind: str, headline: str, told: str) -> None:
    verdict = verdict_of(TOLD[name])
    assert (verdict.kind, verdict.headline) == (kind, headline)
    assert told in verdict.sentence
    assert f'class="verdict {kind}"' in PAGES[name] and f"<h1>{headline}</h1>" in PAGES[name]


@pytest.mark.parametrize("error", PilotError)
def test_every_diagnosis_comes_with_what_to_do(error: PilotError) -> None:
    story = JobStory(Attempt(1, 1), 0.0, outcome=failed(Diagnosis(error, "here and there")))
    page = job_page(story)
    assert f"pilotErrorCode {error.code}" in page and "What to do" in page and "here and there" in page


def test_a_stage_that_failed_is_told_to_those_who_cannot_see_the_colour() -> None:
    assert re.sub("<[^>]*>", "", PAGES["failed"]).count(", failed") == 1 and ", failed" not in PAGES["finished"]


def test_a_finished_job_without_work_is_a_success_that_says_so() -> None:
    story = JobStory(Attempt(1, 1), 0.0, outcome=Outcome(JobState.FINISHED, 0, notes={"noWork": "1"}))
    assert verdict_of(story).headline == "Finished: there was nothing to do"


def test_the_page_is_a_plain_text() -> None:
    assert all(type(page) is str and page.startswith("<!doctype html><html lang=") for page in PAGES.values())


def test_of_a_job_of_which_nothing_is_known_there_is_a_page() -> None:
    page = job_page(JobStory(Attempt(7, 1), 0.0))
    for words in ("PandaID 7, attempt 1", "No stage was begun.", "The payload was not started.", "No log was stored"):
        assert words in page


def test_the_limits_stand_on_the_page_with_where_they_come_from() -> None:
    page = PAGES["out-of-memory"]
    for words in (
        "limit 7.81 GB: maxrss 4000 MB of queue DOMA_LSST_DEV x 2",
        "container limit 7.60 GB: the container&#39;s memory limit 8192 MB x 0.95",
        "wall time 13 h 53 min (maxWalltime 50000 s of the job)",
        "cores asked for 4",
        "limit 23.4 GB: maxwdir 20000 MB of queue DOMA_LSST_DEV x 1.2",
    ):
        assert words in page, words


def test_a_wall_time_limit_that_was_nearly_reached_is_marked_on_the_time_axis() -> None:
    assert ">wall time limit 13 h 53 min</text>" in PAGES["finished"]
    assert "wall time limit" not in PAGES["failed"]


def test_transfers_are_listed_with_size_time_rate_and_checksum() -> None:
    text = re.sub(r"<[^>]*>", "|", PAGES["finished"])
    for words in (
        "calexp_1228_94.fits",
        "301 MB",
        "9.40 s",
        "32.0 MB/s",
        "adler32:11223344",
        "2 files fetched, 215 MB together",
    ):
        assert words in text
    assert "not stored: the job ended before stage-out" in PAGES["failed"]


def test_the_first_error_comes_with_its_traceback_and_the_log_it_stands_in() -> None:
    page = PAGES["failed"]
    assert "raise NoPsfStars(f&#34;only {len(stars)} usable stars" in page
    assert '<a href="./payload-log.json">payload-log.json</a>' in page


def test_a_logs_last_lines_its_size_and_its_earlier_parts_are_shown() -> None:
    page = PAGES["finished"]
    assert "isr: processed amplifier C39" in page and '<a href="./payload.stdout.0001">' in page and "3.00 GB" in page


def test_a_name_that_would_lead_elsewhere_leads_to_its_neighbour_all_the_same() -> None:
    story = JobStory(
        Attempt(1, 1), 0.0, logs=(LogStory("../../x?y#z"), LogStory("//evil.example/"), LogStory("javascript:1"))
    )
    links = [link["href"] for link in Outline(job_page(story)).of("a")]
    assert links == ["./..%2F..%2Fx%3Fy%23z", "./%2F%2Fevil.example%2F", "./javascript%3A1"]


def test_how_to_replay_is_one_line_for_a_shell() -> None:
    assert f"<code>pilot-replay {LOG_URL}</code>" in PAGES["failed"]
    story = replace(payload_failed(), log_url="https://logs.example/$(id)';id")
    assert "pilot-replay &#39;https://logs.example/$(id)&#39;&#34;&#39;&#34;&#39;;id&#39;" in job_page(story)
    assert "pilot-replay" not in PAGES["malformed"], "there is no command to run again"


def test_no_address_but_one_for_browsers_becomes_a_link() -> None:
    moved = [
        TransferStory(Direction.OUT, "a", url=url)
        for url in ("gs://b/a", "file:///etc/passwd", "http://", "http://[", "x")
    ]
    page = Outline(
        job_page(JobStory(Attempt(1, 1), 0.0, transfers=tuple(moved), log_url="file:///x", monitor_url="data:,x"))
    )
    assert page.of("a") == []


def test_headings_come_in_order_and_every_plot_is_told_to_those_who_cannot_see_it() -> None:
    for page in PAGES.values():
        outline = Outline(page)
        levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1 and levels.count(1) == 1 and max(levels) <= 2
        assert all(svg.get("aria-label") for svg in outline.of("svg") if svg.get("role") == "img")
        assert all(
            svg.get("role") or svg.get("aria-hidden") or svg.get("preserveaspectratio") for svg in outline.of("svg")
        )
        assert outline.of("html") == [{"lang": "en"}]


def test_the_time_line_ends_where_the_job_does() -> None:
    only = JobStory(Attempt(1, 1), 5.0, stages=(StageSpan("acquire", -0.3, 0.0),))
    assert 'class="bar" x="0.00%" width="100.00%"' in job_page(only)
    going = replace(only, acquired_at_s=0.0, stages=(StageSpan("acquire", -5.0, 0.0), StageSpan("payload", 0.0, None)))
    assert 'class="bar open" x="50.00%" width="50.00%"' in job_page(going)


def test_cleaning_reaches_every_text_and_leaves_the_numbers() -> None:
    story = replace(finished(), error=FirstError("token abc", "abc", "abc"), name="abc")
    masked = cleaned(story, lambda text: text.replace("abc", "***"))
    assert masked.error == FirstError("token ***", "***", "***") and masked.name == "***"
    assert masked.points == story.points and masked.outcome == story.outcome and masked.limits == story.limits


def test_making_the_page_imports_its_libraries_and_the_pilot_does_not() -> None:
    code = "import sys, pilot.app; print([n for n in ('htpy', 'markupsafe', 'pilot.logs.page') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- colours ----------------------------------------------------------------------------------------------------------


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet by name, for each scheme."""
    blocks = re.findall(r":root\{([^}]*)\}", STYLE)
    light, dark, paper = (dict(re.findall(r"--(\w+):(#\w+)", block)) for block in blocks)
    return {"light": light, "dark": {**light, **dark}, "paper": {**light, **paper}}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_every_colour_of_a_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    colours = schemes()[scheme]
    for ink in ("ink", "quiet", "link", "ok", "failed", "stopped", "running", "limit", "tone3"):
        for ground in ("bg", "card", "code"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, f"{ink} on {ground}"
    for line in ("tone1", "tone2", "tone3", "tone4"):
        assert contrast(colours[line], colours["bg"]) >= 3, line
