"""A pilot's life as a process: jobs pulled and pushed, their endings told truly, their logs at public URLs."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    HASTY,
    QUEUE,
    PilotEnd,
    Pilots,
    log_url,
    public,
    submit,
    updates,
)

TEXT = "text/plain; charset=utf-8"
LOG_NAMES = (
    "pilotlog.txt",
    "payload.stdout",
    "payload.stderr",
    "memory_monitor_summary.json",
    "memory_monitor_output.txt",
)
ERROR_RECORD = json.dumps(
    {
        "levelno": 40,
        "levelname": "ERROR",
        "name": "lsst.ctrl.mpexec",
        "message": "Task <IsrTask> failed. Exception RuntimeError: the sky fell down",
    }
)


@dataclass(frozen=True)
class Ending:
    """A payload and what must be told of it."""

    command: str
    pilot_error: int
    trans_exit_code: int
    words: str = ""


ENDINGS = {
    "true": Ending("true", 0, 0),
    "prints": Ending("echo to stdout; echo to stderr >&2; echo more > kept.txt", 0, 0),
    "works a while": Ending("x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 0.4; echo ${#x}", 0, 0),
    "exit 2": Ending("exit 2", 1305, 2, "exit code 2"),
    "exit 3": Ending("echo 'something is wrong' >&2; exit 3", 1305, 3, "something is wrong"),
    "exit 20": Ending("exit 20", 1305, 20, "exit code 20"),
    "exit 255": Ending("exit 255", 1305, 255, "exit code 255"),
    "SIGSEGV": Ending("kill -SEGV $$", 1328, 139, "SIGSEGV"),
    "SIGTERM": Ending("kill -TERM $$", 1201, 143, "SIGTERM"),
    "SIGKILL": Ending("kill -KILL $$", 1200, 137, "SIGKILL"),
    "SIGXCPU": Ending("kill -XCPU $$", 1204, 152, "SIGXCPU"),
    "SIGUSR1": Ending("kill -USR1 $$", 1207, 138, "SIGUSR1"),
    "child's signal": Ending("sh -c 'kill -BUS $$'", 1206, 135, "SIGBUS"),
    "no such command": Ending("no-such-command-at-all", 1305, 127, "no-such-command-at-all"),
    "error record": Ending(
        f"echo '{ERROR_RECORD}' > payload-log.json; echo 'closing words' >&2; exit 1", 1305, 1, "the sky fell down"
    ),
}


@dataclass(frozen=True)
class Endings:
    end: PilotEnd
    ids: dict[str, int]


@pytest.fixture(scope="module")
def endings(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endings]:
    """One pilot that has run all of ENDINGS."""
    pilots = Pilots(world, tmp_path_factory.mktemp("endings"))
    ids = {name: submit(world, ending.command) for name, ending in ENDINGS.items()}
    try:
        yield Endings(pilots.run(*HASTY), ids)
    finally:
        pilots.stop_all()


def test_a_pilot_runs_job_after_job_and_leaves_when_there_are_no_more(endings: Endings) -> None:
    assert endings.end.exit_code == 0
    assert list(endings.end.jobs) == list(endings.ids.values())
    assert endings.end.stdout == ""
    assert "Traceback" not in endings.end.stderr


def test_the_summary_has_exactly_the_promised_keys(endings: Endings) -> None:
    summary = endings.end.summary
    assert summary is not None
    assert set(summary) == {"version", "queue", "pilot", "jobs"}
    assert summary["queue"] == QUEUE
    assert set(summary["pilot"]) == {"started", "ended", "exit_code", "reason"}
    assert summary["pilot"]["exit_code"] == 0
    for job in summary["jobs"]:
        assert set(job) == {
            "panda_id", "task_id", "attempt", "state", "pilot_error_code", "pilot_error_diag", "exe_error_code",
            "trans_exit_code", "log_url", "isolation", "cpu_s", "max_pss_bytes", "stages_s",
        }  # fmt: skip
        assert set(job["stages_s"]) == {"stage_in", "payload", "stage_out", "log", "report"}


@pytest.mark.parametrize("name", ENDINGS)
def test_how_a_payload_ended_is_told_truly(world: World, endings: Endings, name: str) -> None:
    expected, panda_id = ENDINGS[name], endings.ids[name]
    told, job = endings.end.jobs[panda_id], world.sandbox.job(panda_id)
    state = "failed" if expected.pilot_error else "finished"
    assert (job["status"], told["state"]) == (state, state)
    fields = job["fields"]
    assert (fields["piloterrorcode"], told["pilot_error_code"]) == (expected.pilot_error, expected.pilot_error)
    assert (int(fields["transexitcode"]), told["trans_exit_code"]) == (expected.trans_exit_code,) * 2
    assert (fields["exeerrorcode"], told["exe_error_code"]) == (expected.trans_exit_code,) * 2
    if expected.pilot_error:
        assert expected.words in fields["piloterrordiag"]
        assert expected.words in fields["exeerrordiag"]
        assert told["pilot_error_diag"] == fields["piloterrordiag"]
    else:
        assert told["pilot_error_diag"] == ""
        assert [(file["lfn"], file["status"]) for file in job["files"]] == [("log.tgz", "ready")]


def test_a_payload_that_worked_a_while_has_its_memory_and_cpu_told(world: World, endings: Endings) -> None:
    panda_id = endings.ids["works a while"]
    told, fields = endings.end.jobs[panda_id], world.sandbox.job(panda_id)["fields"]
    assert 20_000_000 < told["max_pss_bytes"] < 400_000_000
    assert fields["maxpss"] == told["max_pss_bytes"] // 1024
    assert 0 < told["cpu_s"] < 20


@pytest.mark.parametrize("name", ["true", "exit 3"])
def test_every_log_is_public_as_text(world: World, endings: Endings, name: str) -> None:
    panda_id = endings.ids[name]
    assert endings.end.jobs[panda_id]["log_url"] == log_url(world, panda_id)
    for log in LOG_NAMES:
        answer = public(world, log_url(world, panda_id, log))
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, TEXT), log


def test_the_logs_hold_what_was_printed(world: World, endings: Endings) -> None:
    panda_id = endings.ids["prints"]
    assert public(world, log_url(world, panda_id, "payload.stdout")).text == "to stdout\n"
    assert public(world, log_url(world, panda_id, "payload.stderr")).text == "to stderr\n"
    assert f"job {panda_id}" in public(world, log_url(world, panda_id)).text
    failed = endings.ids["error record"]
    assert public(world, log_url(world, failed, "payload-log.json")).text == ERROR_RECORD + "\n"
    assert "the sky fell down" in public(world, log_url(world, failed)).text


def test_log_tgz_is_what_the_report_says(world: World, endings: Endings) -> None:
    panda_id = endings.ids["prints"]
    final = updates(world, panda_id)[-1]
    entry = json.loads(final["job_output_report"])["log.tgz"]
    content = public(world, log_url(world, panda_id, "log.tgz")).content
    assert entry["fsize"] == len(content)
    assert entry["adler32"] == f"{zlib.adler32(content):08x}"
    row = world.sandbox.job(panda_id)["files"][0]
    assert (row["fsize"], row["checksum"], row["guid"]) == (len(content), f"ad:{entry['adler32']}", entry["guid"])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = {member.name.removeprefix(f"PandaJob_{panda_id}/") for member in archive}
    assert {"pilotlog.txt", "payload.stdout", "payload.stderr", "work/kept.txt"} <= names


def test_the_monitors_files_have_prmons_form(world: World, endings: Endings) -> None:
    for name in ("true", "works a while"):
        panda_id = endings.ids[name]
        summary = public(world, log_url(world, panda_id, "memory_monitor_summary.json")).json()
        assert {"Max", "Avg"} <= set(summary)
        assert {"vmem", "pss", "rss", "swap"} <= set(summary["Max"])
        table = public(world, log_url(world, panda_id, "memory_monitor_output.txt")).text.splitlines()
        assert table[0].split("\t")[:2] == ["Time", "wtime"]
        assert len(table) > 1
        assert all(len(row.split("\t")) == len(table[0].split("\t")) for row in table)


def test_the_log_url_is_with_the_server_from_the_first_update_on(world: World, endings: Endings) -> None:
    for panda_id in endings.ids.values():
        bodies = updates(world, panda_id)
        assert [body["job_status"] for body in bodies][:1] == ["starting"]
        for body in bodies:
            assert body["pilot_id"].split("|")[0] == log_url(world, panda_id)
            assert len(body["pilot_id"]) <= 200


def test_nothing_is_told_after_the_final_report(world: World, endings: Endings) -> None:
    for panda_id in endings.ids.values():
        states = [body["job_status"] for body in updates(world, panda_id)]
        assert [state for state in states if state in ("finished", "failed")] == states[-1:]


def test_no_job_folder_is_left_behind(endings: Endings) -> None:
    assert list((endings.end.workdir / "jobs").iterdir()) == []
