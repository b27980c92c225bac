"""A job's life with every part stood in for: what is reported, in which order, and what is left behind."""

from __future__ import annotations

import errno
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilot.job.errors import Diagnosis, PayloadError, PilotError, StageInError, StageOutError
from pilot.job.model import ApiGeneration, Job
from pilot.job.replay import Replay, read_replay
from pilot.job.states import JobState
from pilot.jobnotes import JobRecord
from pilot.jobrun import finish_job, run_job
from pilot.outbox import Delivery
from pilot.ports import Acquired, ServerRefused, ServerUnreachable
from pilot.recovery import fold
from pilot.runtime.journal import Event, Journal, read_journal
from pilot.runtime.stop import Stop, StopKind
from pilot.runtime.workdir import JobFolder
from tests.unit.parts import BUNDLE, WITH_INPUT, WITH_OUTPUT, Bench, definition


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "work")


def run(bench: Bench, job: Mapping[str, Any] | None = None, api: ApiGeneration = ApiGeneration.V1) -> JobRecord:
    given = definition() if job is None else job
    record = run_job(Acquired(given, api), bench.parts, bench.volume, bench.stop, acquire_s=1.0)
    assert record is not None
    return record


def code(bench: Bench) -> int:
    final = bench.server.final
    assert final["job_status"] == "failed"
    return int(final["pilot_error_code"])


# --- finished ---------------------------------------------------------------------------------------------------------


def test_a_job_that_succeeds_is_reported_finished_with_its_log(bench: Bench) -> None:
    record = run(bench, definition(**WITH_INPUT, **WITH_OUTPUT))
    assert (record.outcome.state, record.delivery) == (JobState.FINISHED, Delivery.ACKNOWLEDGED)
    final = bench.server.final
    assert (final["job_status"], final["job_id"], final["attempt_nr"]) == ("finished", 4711, 2)
    assert str(final["pilot_id"]).startswith("https://logs.example/Q/PandaJob_4711/pilotlog.txt|")
    assert final["trans_exit_code"] == 0 and "pilot_error_code" not in final
    assert (final["cpu_consumption_time"], final["max_rss"], final["core_count"]) == (2, 2048, 1)
    assert bench.server.reported_files == {
        "log.tgz": {"guid": "guid-of-the-log", "fsize": 11, "adler32": "0a0b0c0d", "surl": "gs://bucket/log.tgz"},
        "out.root": {"guid": "guid-of-an-output", "fsize": 5, "adler32": "01020304", "surl": "gs://o"},
    }
    assert bench.stager.staged == ["in", "out"]
    assert bench.folders == []


def test_the_states_go_out_in_their_order_and_the_report_last(bench: Bench, eventually: Callable[..., None]) -> None:
    def told(state: str) -> None:
        eventually(lambda: state in bench.server.states, what=f"the server hears {state}")

    bench.payload.during = lambda stop, folder: told("running")
    run(bench, definition(**WITH_OUTPUT))
    assert bench.server.states == ["starting", "running", "finished"]
    assert len({fields["batch_id"] for fields in bench.server.updates}) == 1


def test_the_log_pump_runs_beside_the_payload(bench: Bench) -> None:
    bench.payload.during = lambda stop, folder: bench.logs.followed.wait(10)
    run(bench)
    assert bench.logs.followed.is_set()


def test_a_job_without_any_file_is_finished_without_a_report_of_files(bench: Bench) -> None:
    bench.logs.no_bundle = True
    run(bench, definition(outFiles="", logFile="", logGUID=""))
    assert bench.server.final["job_status"] == "finished" and "job_output_report" not in bench.server.final


def test_the_summary_of_a_job_is_json(bench: Bench) -> None:
    summary = json.loads(json.dumps(run(bench).summary()))
    assert (summary["panda_id"], summary["attempt"], summary["state"]) == (4711, 2, "finished")
    assert summary["pilot_error_code"] == 0 and summary["stages_s"]["payload"] >= 0


# --- failed -----------------------------------------------------------------------------------------------------------


def test_a_payload_that_fails_is_reported_with_its_own_code(bench: Bench) -> None:
    bench.payload.exit_code = 7
    run(bench, definition(**WITH_OUTPUT))
    assert code(bench) == 1305
    assert (bench.server.final["trans_exit_code"], bench.server.final["exe_error_code"]) == (7, 7)
    assert "exit code 7" in str(bench.server.final["exe_error_diag"])
    assert "out" not in bench.stager.staged
    assert list(bench.server.reported_files) == ["log.tgz"]


def test_a_limit_that_is_exceeded_names_its_code(bench: Bench) -> None:
    bench.payload.exit_code = 137
    bench.payload.breach = Diagnosis(PilotError.PAYLOAD_EXCEEDED_MAX_MEM, "5 MB used, 4 MB allowed")
    run(bench)
    assert code(bench) == 1235


@pytest.mark.parametrize("error", [PilotError.MISSING_INPUT_FILE, PilotError.GET_AD_MISMATCH])
def test_an_input_that_cannot_be_had_is_reported_and_nothing_is_run(bench: Bench, error: PilotError) -> None:
    bench.stager.in_error = StageInError(error, "in.fits")
    run(bench, definition(**WITH_INPUT))
    assert (code(bench), bench.payload.runs) == (error.code, 0)
    assert "trans_exit_code" not in bench.server.final
    assert bench.logs.stored


@pytest.mark.parametrize(
    "error", [PilotError.STAGE_OUT_FAILED, PilotError.MISSING_OUTPUT_FILE, PilotError.PUT_AD_MISMATCH]
)
def test_an_output_that_cannot_be_stored_makes_a_success_a_failure(bench: Bench, error: PilotError) -> None:
    bench.stager.out_error = StageOutError(error, "out.root")
    run(bench, definition(**WITH_OUTPUT))
    assert (code(bench), bench.server.final["trans_exit_code"]) == (error.code, 0)
    assert list(bench.server.reported_files) == ["log.tgz"]


def test_a_payload_that_cannot_be_prepared_is_reported(bench: Bench) -> None:
    bench.payload.prepare_error = PayloadError(PilotError.IMAGE_NOT_FOUND, "gs://images/x")
    run(bench)
    assert (code(bench), bench.payload.runs) == (1360, 0)


def test_a_malformed_job_with_a_panda_id_is_reported_failed(bench: Bench) -> None:
    run(bench, definition(transformation="NULL"))
    assert code(bench) == 1110
    assert "malformed job definition" in str(bench.server.final["pilot_error_diag"])
    assert bench.server.states == ["failed"] and bench.payload.runs == 0


def test_a_job_without_a_panda_id_is_ignored_with_a_line_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert run_job(Acquired({"x": 1}, ApiGeneration.V1), bench.parts, bench.volume, Stop()) is None
    assert "names no PandaID" in caplog.text
    assert bench.server.updates == [] and bench.folders == []


def test_whatever_breaks_in_a_part_the_job_is_reported(bench: Bench) -> None:
    bench.payload.run_error = KeyError("a bug")
    run(bench)
    assert code(bench) == 1301
    assert "KeyError" in str(bench.server.final["pilot_error_diag"])


def test_a_log_pump_that_dies_stops_the_job_and_is_named(bench: Bench) -> None:
    bench.logs.follow_error = KeyError("a bug")
    bench.payload.during = lambda stop, folder: stop.wait(10)
    run(bench)
    assert code(bench) == 1319
    assert "log-pump failed" in str(bench.server.final["pilot_error_diag"])


def test_a_volume_that_takes_no_folder_is_no_reason_to_lose_the_job(bench: Bench) -> None:
    bench.volume.jobs.rmdir()
    bench.volume.jobs.write_text("in the way")
    record = run(bench)
    assert record.delivery is Delivery.ACKNOWLEDGED
    assert (code(bench), bench.server.states, bench.payload.runs) == (1303, ["failed"], 0)


def test_a_log_that_cannot_be_opened_is_no_reason_to_lose_the_job(bench: Bench) -> None:
    (bench.volume.jobs / "4711.2" / "logs" / "pilotlog.txt").mkdir(parents=True)
    run(bench)
    assert (code(bench), bench.payload.runs) == (1303, 0)


def test_a_report_without_a_log_is_journalled_and_its_folder_goes(bench: Bench) -> None:
    blocked = bench.volume.jobs / "4711.2" / "logs" / "pilotlog.txt"
    blocked.mkdir(parents=True)
    bench.server.trouble["failed"] = [ServerUnreachable("down")] * 1000
    bench.final_retry_s = 0.1
    assert run(bench).delivery is Delivery.UNDELIVERED
    prepared = fold(read_journal(bench.volume.jobs / "4711.2" / "journal"))
    assert prepared is not None
    assert prepared.body is not None
    bench.server.trouble.clear()
    folder = JobFolder(bench.volume.jobs / "4711.2")
    record = finish_job(prepared, folder, bench.parts, bench.volume, bench.stop)
    assert record is not None
    assert record.delivery is Delivery.ACKNOWLEDGED
    assert bench.server.final == prepared.body
    assert not folder.root.exists()


# --- the start --------------------------------------------------------------------------------------------------------


def test_a_kill_in_answer_to_starting_and_the_payload_is_never_started(bench: Bench) -> None:
    bench.server.commands["starting"] = "tobekilled"
    run(bench, definition(**WITH_INPUT))
    assert (code(bench), bench.payload.runs, bench.stager.staged) == (1144, 0, [])


def test_starting_is_repeated_until_the_server_takes_it(bench: Bench) -> None:
    bench.server.trouble["starting"] = [ServerUnreachable("down"), ServerUnreachable("down")]
    run(bench)
    assert bench.server.states == ["starting", "finished"] or "running" in bench.server.states


def test_a_start_that_no_server_takes_in_time_is_a_failure_and_no_crash(bench: Bench) -> None:
    bench.start_wait_s = 0.1
    bench.server.trouble["starting"] = [ServerUnreachable("down")] * 1000
    run(bench)
    assert (code(bench), bench.payload.runs) == (1318, 0)


def test_a_start_the_server_refuses_is_a_failure_and_no_crash(bench: Bench) -> None:
    bench.server.trouble["starting"] = [ServerRefused("Type error")]
    run(bench)
    assert (code(bench), bench.payload.runs) == (1319, 0)


# --- stops ------------------------------------------------------------------------------------------------------------


def test_a_kill_during_the_payload_stops_it_and_the_logs_are_stored_before_the_report(bench: Bench) -> None:
    bench.heartbeat_s = 0.02
    bench.server.commands["running"] = "tobekilled"
    bench.payload.during = lambda stop, folder: stop.wait(10)
    bench.logs.on_store = lambda stop: order.append("logs")
    order: list[str] = []
    bench.server.on_update = lambda fields: order.append(str(fields["job_status"]))
    run(bench)
    assert code(bench) == 1144
    assert order[-2:] == ["logs", "failed"]
    assert not bench.stop.is_set()


@pytest.mark.parametrize(
    ("kind", "preempted", "expected"),
    [
        (StopKind.SIGTERM, False, 1201),
        (StopKind.SIGTERM, True, 1379),
        (StopKind.SIGINT, True, 1208),
        (StopKind.LIFETIME, True, 1213),
    ],
)
def test_a_pilot_that_must_leave_reports_first_and_stores_the_logs_then(
    bench: Bench, kind: StopKind, preempted: bool, expected: int
) -> None:
    order: list[str] = []
    bench.preempted = preempted
    bench.payload.during = lambda stop, folder: bench.end(kind)
    bench.logs.on_store = lambda stop: order.append("logs")
    bench.server.on_update = lambda fields: order.append(str(fields["job_status"]))
    record = run(bench)
    assert code(bench) == expected
    assert order[-2:] == ["failed", "logs"]
    assert "job_output_report" not in bench.server.final
    assert record.logs.complete and bench.folders == []


def test_a_payload_that_was_done_before_the_stop_is_still_finished(bench: Bench) -> None:
    bench.stager.on_out = lambda: bench.end(StopKind.SIGTERM)
    run(bench, definition(**WITH_OUTPUT))
    assert bench.server.final["job_status"] == "finished"
    assert set(bench.server.reported_files) == {"log.tgz", "out.root"}


def test_the_logs_of_a_stopped_pilot_have_an_end(bench: Bench) -> None:
    bench.shutdown_s = 0.3
    bench.payload.during = lambda stop, folder: bench.end(StopKind.SIGTERM)

    def hang(stop: Stop) -> None:
        assert stop.wait(10)
        stop.check()

    bench.logs.on_store = hang
    record = run(bench)
    assert code(bench) == 1201
    assert "no time was left" in record.logs.problem


def test_a_job_that_arrives_after_the_stop_is_given_back_failed(bench: Bench) -> None:
    bench.end(StopKind.SIGTERM)
    run(bench)
    assert (code(bench), bench.payload.runs) == (1201, 0)


def test_a_server_that_is_silent_for_too_long_ends_the_job(bench: Bench) -> None:
    bench.heartbeat_s, bench.server_silence_s = 0.02, 0.1
    bench.server.trouble["running"] = [ServerUnreachable("down")] * 10_000
    bench.payload.during = lambda stop, folder: stop.wait(10)
    run(bench)
    assert code(bench) == 1318


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_store_that_is_down_costs_the_log_and_not_the_result(bench: Bench) -> None:
    bench.logs.down = True
    record = run(bench)
    assert record.outcome.state is JobState.FINISHED
    assert bench.server.final["job_status"] == "finished"
    assert bench.server.reported_files == {"log.tgz": {"guid": "guid-of-the-log", "fsize": 11, "adler32": "0a0b0c0d"}}
    assert "logStored=0" in str(bench.server.final["job_metrics"]).split()
    kept = bench.volume.root / "unstored-logs" / "4711.2.log.tgz"
    assert kept.read_text() == "log in a box"
    assert bench.folders == []


def test_without_even_a_bundle_a_job_is_not_finished(bench: Bench) -> None:
    bench.logs.no_bundle = True
    run(bench)
    assert code(bench) == 1320
    assert "the disk is full" in str(bench.server.final["pilot_error_diag"])


def test_whatever_breaks_in_the_logs_the_report_goes_out(bench: Bench) -> None:
    bench.logs.error = KeyError("a bug")
    bench.payload.exit_code = 3
    run(bench)
    assert code(bench) == 1305


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_report_that_cannot_be_delivered_keeps_the_folder(bench: Bench) -> None:
    bench.final_retry_s = 0.1
    bench.server.trouble["finished"] = [ServerUnreachable("down")] * 1000
    bench.server.trouble["status"] = [ServerUnreachable("down")] * 1000
    record = run(bench)
    assert record.delivery is Delivery.UNDELIVERED
    assert bench.folders == ["4711.2"]
    events = [record.event for record in read_journal(bench.volume.jobs / "4711.2" / "journal")]
    assert events[0] is Event.ACQUIRED and events[-1] is Event.FINAL_PREPARED


def test_the_journal_tells_the_life_and_holds_no_secret(bench: Bench) -> None:
    journals: list[bytes] = []
    bench.server.on_update = lambda fields: journals.append(
        (bench.volume.jobs / "4711.2" / "journal").read_bytes() if fields["job_status"] == "finished" else b""
    )
    run(bench, definition(**WITH_INPUT, **WITH_OUTPUT, secrets="sesame", pilotSecrets="sesame"))
    names = [json.loads(line[9:])["event"] for line in journals[-1].splitlines()]
    assert names == [
        "acquired",
        "starting_accepted",
        "stage_in_done",
        "payload_starting",
        "payload_pid",
        "payload_exited",
        "stage_out_done",
        "final_prepared",
    ]
    assert b"sesame" not in journals[-1]


def test_a_jobs_secrets_are_in_no_text_of_its_report_journal_or_summary(bench: Bench) -> None:
    bench.payload.exit_code = 1
    bench.payload.breach = Diagnosis(PilotError.PAYLOAD_EXCEEDED_MAX_MEM, "the payload said open-sesame-42 before")
    journals: list[bytes] = []
    bench.server.on_update = lambda _fields: journals.append((bench.volume.jobs / "4711.2" / "journal").read_bytes())
    record = run(bench, definition(secrets=json.dumps({"user": {"password": "open-sesame-42"}})))
    assert "the payload said *** before" in str(bench.server.final["pilot_error_diag"])
    assert not [text for text in bench.server.final.values() if "sesame" in str(text)]
    assert "sesame" not in json.dumps(record.summary())
    assert not [journal for journal in journals if b"sesame" in journal]


def test_nothing_is_told_after_the_final_report(bench: Bench) -> None:
    bench.heartbeat_s = 0.005
    bench.payload.during = lambda stop, folder: stop.wait(0.05)
    run(bench)
    threading.Event().wait(0.05)
    assert bench.server.updates[-1]["job_status"] == "finished"


def test_a_job_stays_with_its_api_generation(bench: Bench) -> None:
    generations: list[ApiGeneration] = []
    told = bench.server.update

    def update(fields: Mapping[str, Any], api: ApiGeneration, stop: Stop) -> Any:
        generations.append(api)
        return told(fields, api, stop)

    bench.server.update = update  # type: ignore[method-assign]
    run(bench, api=ApiGeneration.LEGACY)
    assert set(generations) == {ApiGeneration.LEGACY}


def test_the_bundle_of_a_failed_job_without_a_place_is_reported_too(bench: Bench) -> None:
    bench.logs.down, bench.payload.exit_code = True, 1
    record = run(bench)
    assert record.logs.bundle == replace(BUNDLE, surl=None)
    assert list(bench.server.reported_files) == ["log.tgz"]


def test_a_payload_may_write_into_its_folder_only_until_the_end(bench: Bench) -> None:
    def write(stop: Stop, folder: JobFolder) -> None:
        (folder.work / "file").write_text("x")
        assert folder.work.stat().st_mode & 0o777 == 0o700

    bench.payload.during = write
    run(bench)
    assert bench.folders == []


# --- onlookers --------------------------------------------------------------------------------------------------------


class Onlooker:
    """A follower that does what a test tells it to."""

    name = "onlooker"

    def __init__(self, during: Callable[[Stop], object]) -> None:
        self._during = during
        self.seen: list[tuple[int, Path]] = []

    def follow(self, job: Job, folder: JobFolder, stop: Stop) -> None:
        self.seen.append((job.panda_id, folder.work))
        self._during(stop)


def test_a_follower_sees_the_job_from_before_its_payload_to_its_end(bench: Bench) -> None:
    states: list[list[str]] = []

    def during(stop: Stop) -> None:
        states.append(bench.server.states)
        stop.wait(None)
        states.append(bench.server.states)

    follower = Onlooker(during)
    bench.followers = (follower,)
    run(bench)
    assert follower.seen == [(4711, bench.volume.jobs / "4711.2" / "work")]
    assert states[0] == ["starting"] and states[1][-1] == "finished"


def test_no_job_ends_for_a_follower_that_fails(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stop: Stop) -> None:
        raise KeyError("a bug")

    bench.followers = (Onlooker(fail),)
    assert run(bench).outcome.state is JobState.FINISHED
    assert "helper onlooker failed" in caplog.text


def test_a_follower_that_is_stuck_is_left_behind_and_no_further_job_is_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.runtime.loops.JOIN_BOUND_S", 0.05)
    stuck = threading.Event()
    bench.followers = (Onlooker(lambda stop: stuck.wait(30)),)
    record = run(bench)
    stuck.set()
    assert (record.outcome.state, record.abandoned_helpers) == (JobState.FINISHED, ("onlooker",))


# --- what the job's page is made of -----------------------------------------------------------------------------------


def test_the_logs_are_given_all_that_is_known_of_the_job(bench: Bench) -> None:
    run(bench, definition(**WITH_INPUT, **WITH_OUTPUT))
    (told,) = bench.logs.told
    assert told.outcome is not None and told.outcome.state is JobState.FINISHED
    assert told.isolation == "plain" and told.usage is not None and told.usage.cpu_s == 1.6
    assert [file.lfn for file in told.outputs] == ["out.root"] and told.took_s == {"in.fits": 0.1, "out.root": 0.0}
    began = [told.begins_s[f"{stage}_s"] for stage in ("stage_in", "setup", "payload", "stage_out")]
    assert began == sorted(began) and told.times.payload_s >= 0 and told.acquired_at_s is not None
    assert told.log_url.endswith("/PandaJob_4711/pilotlog.txt") and told.events == ()


def test_a_kill_is_told_with_its_moment(bench: Bench) -> None:
    bench.server.commands["running"] = "tobekilled"
    bench.payload.during = lambda stop, folder: stop.wait(10)
    run(bench)
    ((at_s, text),) = bench.logs.told[0].events
    assert text == "the server asked to kill the job" and 0 < at_s < 60


def test_a_payload_that_failed_is_told_with_its_codes(bench: Bench) -> None:
    bench.payload.exit_code = 1
    run(bench, definition(**WITH_OUTPUT))
    (told,) = bench.logs.told
    assert told.outcome is not None and told.outcome.exe_error_code == 1 and told.outputs == ()


# --- debug mode -------------------------------------------------------------------------------------------------------


def told(bench: Bench) -> list[str]:
    """What the updates told in ``stdout``."""
    return [str(fields["stdout"]) for fields in bench.server.updates if "stdout" in fields]


def test_a_command_is_answered_right_away_and_not_an_interval_later(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    bench.server.commands["running"] = "ls sub"
    bench.payload.during = lambda stop, folder: eventually(lambda: told(bench))
    run(bench)
    assert told(bench) == ["> ls sub\nls of sub"]
    assert "stdout" not in bench.server.final


def test_a_command_that_came_with_the_start_is_answered_with_the_first_heartbeat(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    bench.server.commands["starting"] = "ps"
    bench.payload.during = lambda stop, folder: eventually(lambda: told(bench))
    run(bench)
    assert told(bench)[0] == "> ps\nps of the usual"


def test_a_job_in_debug_mode_shows_its_tail_with_each_heartbeat(bench: Bench, eventually: Callable[..., None]) -> None:
    bench.heartbeat_s = 0.02
    bench.payload.during = lambda stop, folder: eventually(lambda: len(told(bench)) > 2)
    run(bench, definition(debug="True"))
    assert set(told(bench)) == {"tail of the usual"}


def test_no_secret_is_told_to_an_onlooker_and_no_job_ends_for_one(
    bench: Bench, eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    bench.server.commands["running"] = "tail open-sesame-42"
    bench.payload.during = lambda stop, folder: eventually(lambda: told(bench))
    run(bench, definition(secrets="open-sesame-42"))
    assert told(bench) == ["> tail ***\ntail of ***"]
    bench.payload.look_error = KeyError("a bug")
    bench.payload.during = lambda stop, folder: eventually(lambda: "cannot be answered" in caplog.text)
    bench.server.commands["running"] = "tail again"
    bench.server.updates.clear()
    assert run(bench, definition(4712)).outcome.state is JobState.FINISHED
    assert told(bench) == []


# --- for whoever wants to run it again --------------------------------------------------------------------------------


def left(bench: Bench, **job: Any) -> Replay:
    """The replay.json of a job, as its logs are collected."""
    documents: list[str] = []
    folder = bench.volume.jobs / "4711.2" / "logs"
    bench.logs.on_store = lambda stop: documents.append((folder / "replay.json").read_text())
    run(bench, definition(**job))
    found = read_replay(json.loads(documents[-1]))
    assert isinstance(found, Replay), found
    return found


def test_what_it_takes_to_run_it_again_lies_with_the_logs(bench: Bench) -> None:
    bench.payload.exit_code = 3
    found = left(bench, **WITH_INPUT, secrets="open-sesame-42", jobPars="--go")
    assert isinstance(found.job, Job)
    assert (found.job.parameters, found.isolation, found.pilot_version) == ("--go", "plain", "0.1.0")
    assert found.sources == {"in.fits": ("gs://bucket/in.fits",)}
    assert found.outcome is not None and found.outcome.trans_exit_code == 3
    assert (found.recipe.image, found.recipe.hidden) == ("gs://images/x.sif", ("PGPASSWORD",))


def test_a_secret_of_the_job_is_not_in_it(bench: Bench) -> None:
    found = left(bench, secrets="open-sesame-42", jobPars="--key open-sesame-42")
    assert isinstance(found.job, Job)
    assert (found.job.parameters, found.lost_command) == ("--key ***", "jobPars")


def test_it_is_there_from_before_the_payload_starts(bench: Bench) -> None:
    there: list[bool] = []
    bench.payload.during = lambda stop, folder: there.append((folder.logs / "replay.json").exists())
    run(bench)
    assert there == [True]


def test_a_job_whose_inputs_could_not_be_had_can_be_run_again_too(bench: Bench) -> None:
    bench.stager.in_error = StageInError(PilotError.MISSING_INPUT_FILE, "in.fits")
    found = left(bench, **WITH_INPUT)
    assert found.outcome is not None and found.outcome.pilot_error is not None
    assert found.outcome.pilot_error.code == 1331
    assert found.sources == {"in.fits": ("gs://bucket/in.fits",)}


@pytest.mark.parametrize(("event", "payload_code"), [(Event.PAYLOAD_EXITED, 7), (Event.STAGE_OUT_DONE, 0)])
def test_a_record_that_cannot_be_written_changes_nothing_of_what_has_happened(
    event: Event, payload_code: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_append = Journal.append

    def append(self: Journal, what: Event, **data: Any) -> None:
        if what is event:
            raise OSError(errno.EIO, "Input/output error")
        really_append(self, what, **data)

    monkeypatch.setattr(Journal, "append", append)
    bench.payload.exit_code = payload_code
    run(bench, definition(**WITH_OUTPUT))
    assert bench.server.final["trans_exit_code"] == payload_code
    assert bench.server.final["job_status"] == ("failed" if payload_code else "finished")


def test_a_definition_too_deep_for_a_journal_is_reported_failed(bench: Bench) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    run(bench, definition(unknown=deep))
    assert bench.server.final["job_status"] == "failed"
    assert bench.payload.runs == 0
    while deep:  # or Python would take them apart one within the other
        deep = deep.pop()
