"""What a person sees, as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.runtime.progress import JobAt, PayloadAt, PilotAt, Progress, TransferAt
from pilot.watch.frame import MOST_TRANSFERS, STAGES, Said, bar, clock, fitted, frame

PILOT = PilotAt("DOMA_LSST_DEV", "asking for a job", 3, 1)
JOB = JobAt(4711, 2, 9, "isr", "https://logs.example/p", Path("/logs"), "payload", 50.0, 90.0)
PAYLOAD = PayloadAt(62.0, 900 << 20, 61.5, 4, 1800 << 20, workdir_bytes=5 << 20, workdir_limit_bytes=None)


NOTHING = Said()


def shown(progress: Progress, said: Said = NOTHING, columns: int = 80) -> list[str]:
    return [line.text for line in frame(progress, said, 100.0, columns)]


def test_between_jobs_it_says_what_the_pilot_is_at() -> None:
    assert shown(Progress(PILOT)) == ["-- queue DOMA_LSST_DEV: 3 finished, 1 failed --", "asking for a job"]


def test_a_running_payload_is_shown_against_its_limits() -> None:
    lines = shown(Progress(PILOT, JOB, PAYLOAD), Said(payload="visit 42 done"))
    assert lines[1:] == [
        "job 4711.2 (task 9, isr): running, 0:10",
        "  memory      [##########..........] 900 MB of 1.76 GB",
        "  work folder 5.00 MB, no limit",
        "  cpu         1:01 in 4 processes",
        "  | visit 42 done",
    ]


def test_the_container_is_shown_where_it_has_a_limit_of_its_own() -> None:
    payload = replace(PAYLOAD, container_bytes=1 << 30, container_limit_bytes=2 << 30)
    assert "  container   [##########..........] 1.00 GB of 2.00 GB" in shown(Progress(PILOT, JOB, payload))


def test_a_limit_that_is_near_stands_out() -> None:
    near = replace(PAYLOAD, memory_bytes=1700 << 20)
    styles = {line.text.split()[0]: line.style for line in frame(Progress(PILOT, JOB, near), Said(), 100.0, 80)}
    assert styles["memory"] == "warn" and styles["cpu"] == ""


def test_files_on_their_way_are_shown_while_a_stage_is_about_them() -> None:
    files = (TransferAt("in.fits", "in", 45, 100), TransferAt("image.sif", "in", 3 << 20, None))
    lines = shown(Progress(PILOT, replace(JOB, stage="stage_in"), None, files))
    assert lines[2:] == [
        "  in.fits                      [#########...........]  45% of 100 B",
        "  image.sif                    3.00 MB",
    ]
    # a live log that is being refreshed beside the payload is nobody's news
    assert not any("in.fits" in line for line in shown(Progress(PILOT, JOB, PAYLOAD, files)))


def test_of_many_files_a_few_are_shown_and_the_others_counted() -> None:
    files = tuple(TransferAt(f"f{number}", "out", 0, 10) for number in range(MOST_TRANSFERS + 3))
    lines = shown(Progress(PILOT, replace(JOB, stage="stage_out"), None, files))
    assert len(lines) == 2 + MOST_TRANSFERS + 1 and lines[-1] == "  and 3 more files"


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_words(stage: str) -> None:
    (line,) = shown(Progress(PILOT, replace(JOB, stage=stage)))[1:]
    assert line == f"job 4711.2 (task 9, isr): {STAGES[stage]}, 0:10"


def test_the_pilots_own_last_line_is_shown_where_it_is_told() -> None:
    assert shown(Progress(PILOT), Said(pilot="no job for Q"))[-1] == "log: no job for Q"


@settings(max_examples=30)
@given(
    st.integers(1, 200),
    st.text(max_size=300),
    st.text(max_size=300),
    st.integers(0, 1 << 60),
    st.one_of(st.none(), st.integers(1, 1 << 50)),
)
def test_no_line_is_as_wide_as_the_terminal_or_commands_it(
    columns: int, name: str, tail: str, used: int, limit: int | None
) -> None:
    payload = PayloadAt(1.0, used, 1.0, 1, limit, container_bytes=used, container_limit_bytes=limit)
    files = (TransferAt(name, "in", used, limit),)
    for stage in ("payload", "stage_in"):
        job = replace(JOB, name=name, stage=stage)
        for line in frame(Progress(replace(PILOT, queue=name), job, payload, files), Said(tail, name), 100.0, columns):
            assert len(line.text) < max(2, columns)
            assert all(char.isprintable() for char in line.text)


@pytest.mark.parametrize(("share", "full"), [(-1, 0), (0, 0), (0.5, 10), (1, 20), (7, 20)])
def test_a_bar_has_always_the_same_width(share: float, full: int) -> None:
    assert bar(share) == "[" + "#" * full + "." * (20 - full) + "]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0:00"), (7.9, "0:07"), (187, "3:07"), (3723, "1:02:03"), (360000, "100:00:00")]
)
def test_times_are_shown_in_whole_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_what_takes_two_columns_or_none_is_a_question_mark() -> None:
    assert fitted("a\x1b[2J\u4e2de\u0301\tz", 20) == "a?[2J?e? z"
    assert fitted("abcdefghij", 6) == "abc..." and fitted("abcdef", 6) == "abcdef" and fitted("abcdef", 2) == ".."
