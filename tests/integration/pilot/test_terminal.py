"""What a person at a terminal sees, at each stage, and what is left when the pilot is gone, however it went."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pilot.job.endpoint import deterministic_path
from pilot.sandbox.cric_server import LOG_BUCKET, LOG_ENDPOINT
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    HASTY,
    SCOPE,
    Pilots,
    input_keys,
    output_keys,
    processes_of,
    submit,
)
from tests.integration.pilot.ttyrun import Seat, at_a_terminal

LOG = " | INFO "


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With fronts before its stores, so that these can be slow."""
    with World(tmp_path_factory.mktemp("world"), store_fronts=True, adder_delay_s=0.0) as world:
        yield world


def put(world: World, lfn: str, content: bytes) -> None:
    url = f"{world.gcs_url}/upload/storage/v1/b/{LOG_BUCKET}/o"
    name = f"logs/{deterministic_path(SCOPE, lfn)}"
    with requests.Session() as session:
        session.trust_env = False
        parameters = {"uploadType": "media", "name": name}
        answer = session.post(url, params=parameters, data=content, verify=str(world.ca_path), timeout=10)
    assert answer.status_code == 200, answer.text


def frames(seat: Seat) -> list[list[str]]:
    """The frames that were seen: what stands from its head on."""
    found = []
    for lines in seat.seen:
        heads = [at for at, line in enumerate(lines) if line.startswith("-- queue ")]
        found += [lines[heads[-1] :]] if heads else []
    return found


def missing(words: list[str], texts: list[str]) -> str:
    """The first word that is in none of the texts from the one on in which the word before it is; nothing: all are there."""
    at = 0
    for word in words:
        while at < len(texts) and word not in texts[at]:
            at += 1
        if at == len(texts):
            return word
    return ""


def test_each_stage_is_seen_with_what_matters_in_it(world: World, pilots: Pilots) -> None:
    content = b"0123456789" * 30
    put(world, "in.txt", content)
    keys = {**input_keys("in.txt", content, rse=LOG_ENDPOINT), **output_keys("out.txt", rse=LOG_ENDPOINT)}
    panda_id = submit(world, "echo looking at visit 42; cat in.txt >out.txt; sleep 3", **keys)
    world.sandbox.fault("slow", path="update_job", delay_s=2.5)  # the start
    world.sandbox.fault("drip", server="gcs", path="in.txt", delay_s=0.01)
    world.sandbox.fault("slow", server="gcs", path="upload", contains="/out.txt", delay_s=2.5)
    world.sandbox.fault("slow", server="gcs", path="upload", contains='/log.tgz"', delay_s=2.5)
    world.sandbox.fault("slow", path="update_job", contains="job_output_report", delay_s=2.5)
    world.sandbox.fault("slow", path="acquire_jobs", skip=1, delay_s=2.5)  # the next job, of which there is none
    with at_a_terminal(pilots, *HASTY) as seat:
        assert seat.end() == 0, seat.lines
    seen = ["\n".join(frame) for frame in frames(seat)]
    job = f"job {panda_id}.0 (task 1001, "
    words = [
        "asking the server to start it",
        "fetching its inputs",
        "running",
        "storing its outputs",
        "storing its logs",
    ]
    assert missing([*words, "reporting", "1 finished, 0 failed"], seen) == "", "\n".join(seen)
    assert any(job in frame for frame in seen)
    inputs = [frame for frame in seen if "fetching its inputs" in frame and "in.txt" in frame]
    assert inputs and all("of 300 B" in frame and "%" in frame for frame in inputs)
    running = [frame for frame in seen if "running" in frame and "memory" in frame]
    assert running and "of 3.52 GB" in running[-1] and running[-1].splitlines()[-1] == "  | looking at visit 42"
    assert any("out.txt" in frame for frame in seen if "storing its outputs" in frame)


def test_log_lines_are_whole_and_in_order_and_nothing_of_the_view_is_left(world: World, pilots: Pilots) -> None:
    ids = [submit(world, "sleep 1.2") for _ in range(2)]
    with at_a_terminal(pilots, *HASTY) as seat:
        assert seat.end() == 0
        assert seat.as_it_was
        assert all(LOG in line for line in unwrapped(seat))
        told = [line for line in unwrapped(seat) if ": finished" in line]
        assert [str(panda_id) in line for panda_id, line in zip(ids, told, strict=True)] == [True, True]
        assert "leaving: the server had no job" in unwrapped(seat)[-1]
        assert seat.screen.cursor.x == 0
    assert frames(seat)


def unwrapped(seat: Seat) -> list[str]:
    """The lines of the log, those that were longer than the terminal is wide put together again."""
    rows = ["".join(row[x].data for x in range(seat.screen.columns)).rstrip() for row in seat.screen.history.top]
    lines: list[str] = []
    for row in [*rows, *seat.lines]:
        if row.startswith("20") and " | " in row:
            lines.append(row)
        elif row:
            lines[-1] += row
    return lines


@pytest.mark.parametrize(
    ("args", "env"),
    [(("--plain",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"}), (("--log-format", "json"), {})],
    ids=["--plain", "NO_COLOR", "TERM=dumb", "json"],
)
def test_who_wants_plain_lines_gets_nothing_else(
    world: World, pilots: Pilots, args: tuple[str, ...], env: dict[str, str]
) -> None:
    submit(world, "sleep 1.2")
    with at_a_terminal(pilots, *HASTY, *args, env=env) as seat:
        assert seat.end() == 0
    assert b"\x1b" not in seat.raw and b"-- queue" not in seat.raw
    assert seat.raw.count(b"finished") == 1


def test_a_redirected_log_has_lines_and_the_screen_the_view_with_the_last_of_them(world: World, pilots: Pilots) -> None:
    panda_id, log = submit(world, "sleep 2.2"), pilots.folder / "pilot.log"
    with at_a_terminal(pilots, *HASTY, stderr=log) as seat:
        seat.wait_until(lambda lines: "running" in "".join(lines) and lines[-1].startswith("log: "), "the view")
        assert seat.lines[-1].startswith(f"log: job {panda_id}.0: https://")
        assert seat.end() == 0
        assert seat.lines == [] and seat.as_it_was
    assert "\x1b" not in log.read_text() and LOG in log.read_text()
    assert not any(LOG in line for lines in seat.seen for line in lines)


def test_a_payloads_secret_and_its_commands_to_the_terminal_do_not_reach_it(world: World, pilots: Pilots) -> None:
    secret = "wombat-7-lantern-of-the-tests"
    submit(world, r'printf "key $AWS_SECRET_ACCESS_KEY \033[2J\033]0;owned\007\033[?25l\033[31m"; sleep 2.2')
    with at_a_terminal(pilots, *HASTY, env={"AWS_SECRET_ACCESS_KEY": secret}) as seat:
        seat.wait_until(lambda lines: any("| key ****" in line for line in lines), "the payload's masked line")
        assert seat.end() == 0
        assert seat.as_it_was and seat.screen.title == ""
    assert secret.encode() not in seat.raw and b"owned" not in seat.raw


def test_it_survives_another_size(world: World, pilots: Pilots) -> None:
    submit(world, "echo at work; sleep 30")
    with at_a_terminal(pilots, *HASTY, "--shutdown-s", "5") as seat:
        seat.wait_until(lambda lines: "  | at work" in lines, "the view")
        for rows, columns in ((20, 70), (50, 160), (5, 100), (30, 100)):
            seat.resize(rows, columns)
            os.kill(pilot_of(pilots), signal.SIGWINCH)
        before = seat.raw
        seat.wait_until(lambda lines: seat.raw[len(before) :].count(b"at work") > 1, "drawn anew")
        assert seat.lines[-1] == "  | at work"
        assert sum("-- queue" in line for line in seat.lines) >= 1
        seat.type(b"\x03")
        assert seat.end() == 130
        assert seat.as_it_was


def test_ctrl_c_ends_it_and_the_sentence_stands_last(world: World, pilots: Pilots) -> None:
    submit(world, "sleep 60")
    with at_a_terminal(pilots, *HASTY, "--shutdown-s", "5") as seat:
        seat.wait_until(lambda lines: "running" in "".join(lines), "a running payload")
        seat.type(b"\x03")
        assert seat.end() == 130
        assert seat.as_it_was
        assert not any(line.startswith(("-- queue", "job ", "  |")) for line in seat.lines)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT], ids=["SIGKILL", "SIGQUIT"])
def test_a_pilot_that_is_killed_leaves_a_terminal_one_can_work_on(
    world: World, pilots: Pilots, number: signal.Signals
) -> None:
    submit(world, "sleep 60")
    with at_a_terminal(pilots, *HASTY) as seat:
        seat.wait_until(lambda lines: "running" in "".join(lines), "a running payload")
        os.kill(pilot_of(pilots), number)
        seat.end()
        assert seat.as_it_was


def test_what_went_wrong_at_the_start_is_a_sentence_below_the_lines(world: World, pilots: Pilots) -> None:
    with at_a_terminal(pilots, "--token-file", "/nonexistent/token", "--origin", "Rubin") as seat:
        assert seat.end() == 68
        assert unwrapped(seat)[-1].count("pilot-start: The token file /nonexistent/token cannot be read") == 1
        assert seat.as_it_was


def pilot_of(pilots: Pilots) -> int:
    """The pilot's own process, which names its work folder; setsid, before it, is its parent."""
    workdir = str(pilots.folder / "work").encode()
    for pid in processes_of(pilots.folder):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if workdir in words and b"setsid" not in words[0] and any(word.endswith(b"pilot-start") for word in words):
            return pid
    raise AssertionError("no pilot is there")
