"""``make bench-page``: how large the page of a twelve-hour job is, what it costs to make, and how soon Chromium has drawn it.

One sample a second is the worst case; a pilot's own history has at most 4,096 points. Times are medians. Nothing is
asserted here.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser

from pilot.job.history import MOST_POINTS, History
from pilot.logs.page.document import job_page
from pilot.logs.page.story import JobStory
from tests.integration.pages.browser import WIDE, chromium
from tests.unit.logs.page.stories import finished

TRIES = 11
_IMPORT = """
import sys, time
import pilot.app, pilot.parts
def used(): return time.process_time(), int(open("/proc/self/statm").read().split()[1]) * 4
before = used()
import pilot.logs.page.document, pilot.logs.page.telling
after = used()
print((after[0] - before[0]) * 1e3, (after[1] - before[1]) / 1024)
"""
_DRAWN = """() => new Promise(resolve => {
  const layout = () => { const begun = performance.now(); document.body.style.width = '50%';
    document.body.getBoundingClientRect(); return performance.now() - begun; };
  const look = () => {
    const [paint] = performance.getEntriesByName('first-contentful-paint'), [page] = performance.getEntriesByType('navigation');
    if (!paint || !page.loadEventEnd) return requestAnimationFrame(look);
    resolve({ load: page.loadEventEnd, paint: paint.startTime, layout: layout() });
  };
  look();
})"""


def main() -> None:
    full = finished(every_s=1.0)
    lines = tuple("x" * 200 for _ in range(100))
    full = replace(full, logs=tuple(replace(log, lines=lines if log.lines else ()) for log in full.logs))
    history = History()
    for point in full.points:
        history.add(point)
    usual = replace(full, points=history.points)
    result = {
        "import_ms_and_mib": _import(),
        "bytes": len(job_page(full).encode()),
        "make_ms": {f"{len(story.points)} points": _make_ms(story) for story in (full, usual)},
        "most_points_of_a_pilot": MOST_POINTS,
        "chromium_ms": _draw(full),
    }
    Path("build").mkdir(exist_ok=True)
    Path("build/bench-page.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _import() -> list[float]:
    """CPU in ms and memory in MiB that the page's modules and libraries cost a running pilot."""
    told = [subprocess.check_output([sys.executable, "-c", _IMPORT], text=True).split() for _ in range(5)]
    return [round(statistics.median(float(values[column]) for values in told), 1) for column in (0, 1)]


def _make_ms(story: JobStory) -> float:
    times = []
    for _ in range(5):
        begun_s = time.process_time()
        job_page(story)
        times.append((time.process_time() - begun_s) * 1e3)
    return round(statistics.median(times), 1)


def _draw(story: JobStory) -> dict[str, float]:
    """From asking for the page to its load event and first paint, and one more layout of the whole."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder) / "job.html"
        path.write_text(job_page(story))
        tries = [_drawn(browser, path.as_uri()) for _ in range(TRIES)][1:]
    return {name: round(statistics.median(one[name] for one in tries), 1) for name in tries[0]} | {
        "worst load": max(one["load"] for one in tries)
    }


def _drawn(browser: Browser, url: str) -> dict[str, float]:
    context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    try:
        page = context.new_page()
        page.goto(url)
        times: dict[str, float] = page.evaluate(_DRAWN)
        return times
    finally:
        context.close()


if __name__ == "__main__":
    main()
