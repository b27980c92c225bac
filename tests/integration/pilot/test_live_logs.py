"""The public logs of a real job: they grow while it runs, hold every byte when its pilot dies, and end as a whole."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pilot.logs.pump import TAIL_BYTES
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, Pilots, log_url, public, submit

LINES = 60_000
# Lines of 40 bytes: 2.4 MB, more than a growing log's object shows.
WRITER = (
    f"for i in $(seq {LINES}); do printf 'line %08d of the log of this job......\\n' $i; done; echo the end is near"
)
TEXT = b"".join(b"line %08d of the log of this job......\n" % number for number in range(1, LINES + 1))
TEXT += b"the end is near\n"


def stdout_of(world: World, panda_id: int) -> bytes:
    """What a reader of the public log has: its object, or before that the segments that its first line names."""
    shown = public(world, log_url(world, panda_id, "payload.stdout"))
    return shown.content if shown.status_code == 200 else b""


def segments_of(world: World, panda_id: int) -> bytes:
    kept, number = b"", 1
    while (found := public(world, log_url(world, panda_id, f"payload.stdout.{number:04d}"))).status_code == 200:
        kept += found.content
        number += 1
    return kept


@pytest.mark.timeout(120)
def test_a_pilot_that_dies_leaves_every_byte_of_the_log_in_public(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, f"{WRITER}; sleep 300")
    pilot = pilots.start("--max-jobs", "1", *HASTY)
    pilot.wait_until(lambda: b"the end is near" in stdout_of(world, panda_id), "the last line is public", 60)
    pilot.signal(signal.SIGKILL)
    pilot.stop_all()
    shown = stdout_of(world, panda_id)
    notice, _, end = shown.partition(b"]\n")
    assert len(shown) <= TAIL_BYTES and b"the whole text is in payload.stdout.0001" in notice
    kept = segments_of(world, panda_id)
    assert TEXT.startswith(kept) and TEXT.endswith(end) and len(kept) + len(end) >= len(TEXT)


def test_an_ended_job_has_its_log_whole_and_a_page(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, WRITER)
    end = pilots.run("--max-jobs", "1", *HASTY)
    assert end.jobs[panda_id]["state"] == "finished"
    assert stdout_of(world, panda_id) == TEXT and segments_of(world, panda_id) == b""
    page = public(world, log_url(world, panda_id, "job.html"))
    assert page.status_code == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-cache"
    assert f"{panda_id}" in page.text and "DOMA_LSST_DEV" in page.text and "the end is near" in page.text
    assert 'href="./payload.stdout"' in page.text and 'href="./log.tgz"' in page.text


def test_a_failed_jobs_page_tells_why(world: World, pilots: Pilots, tmp_path: Path) -> None:
    panda_id = submit(world, "echo 'FATAL: no calibration for visit 94' >&2; exit 3")
    end = pilots.run("--max-jobs", "1", *HASTY)
    assert end.jobs[panda_id]["state"] == "failed"
    page = public(world, log_url(world, panda_id, "job.html")).text
    assert "FATAL: no calibration for visit 94" in page and "1305" in page
