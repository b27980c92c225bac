"""A pilot's life with every part stood in for: what it asks for, when it leaves, and with which code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import ApiGeneration
from pilot.jobrun import JobParts
from pilot.ports import Acquired, AcquireRequest, CredentialsRefused, JobStatus, NoJob, ServerRefused, ServerUnreachable
from pilot.recovery import keep_secrets
from pilot.runtime.events import redactor
from pilot.runtime.journal import Event, Journal, read_journal
from pilot.runtime.stop import Stop, StopKind
from pilot.runtime.workdir import JobFolder
from pilot.worker import WorkerEnd
from tests.unit.parts import QUEUE, WITH_OUTPUT, Bench, definition

MB = 1 << 20


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "work")


def live(bench: Bench, **changes: Any) -> WorkerEnd:
    return bench.worker(**changes).live()


def test_jobs_are_run_one_after_the_other_until_there_are_none(bench: Bench) -> None:
    bench.server.to_give = [definition(1), definition(2)]
    end = live(bench)
    assert (end.exit_code, [job.panda_id for job in end.jobs]) == (ExitCode.OK, [1, 2])
    assert end.reason == "the server had no job 1 times in a row"
    assert bench.told == [1, 2]


def test_what_jobs_run_with_is_made_once_and_for_the_first(bench: Bench) -> None:
    made: list[str] = []
    worker = bench.worker()
    give = worker.make_parts
    worker.make_parts = lambda: _told(made, give)
    worker.live()
    assert made == []
    bench.server.to_give = [definition(1), definition(2)]
    worker = bench.worker()
    worker.make_parts = lambda: _told(made, give)
    worker.live()
    assert made == ["made"]


def _told(made: list[str], give: Callable[[], JobParts]) -> JobParts:
    made.append("made")
    return give()


def test_a_job_that_fails_is_no_failure_of_the_pilot(bench: Bench) -> None:
    bench.server.to_give = [definition()]
    bench.payload.exit_code = 1
    assert live(bench).exit_code is ExitCode.OK


# --- when it leaves ---------------------------------------------------------------------------------------------------


def test_it_leaves_after_max_jobs(bench: Bench) -> None:
    bench.server.to_give = [definition(number) for number in (1, 2, 3)]
    end = live(bench, max_jobs=2)
    assert len(end.jobs) == 2 and "2 jobs done" in end.reason
    assert len(bench.server.requests) == 2


def test_it_leaves_after_max_empty_answers_in_a_row(bench: Bench) -> None:
    bench.server.to_give = [NoJob("none"), definition(), NoJob("none"), NoJob("none"), NoJob("none"), definition(2)]
    end = live(bench, max_empty=3)
    assert len(end.jobs) == 1 and len(bench.server.requests) == 5
    assert end.exit_code is ExitCode.OK


def test_a_timefloor_of_0_is_one_job(bench: Bench) -> None:
    bench.server.to_give = [definition(1), definition(2)]
    end = live(bench, time_floor_s=0.0)
    assert len(end.jobs) == 1 and "timefloor" in end.reason


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_lifetime_that_passes_stops_the_job_and_reports_it(bench: Bench) -> None:
    bench.server.to_give = [definition()]
    bench.payload.during = lambda stop, folder: stop.wait(10)
    end = live(bench, lifetime_s=0.2)
    assert bench.server.final["pilot_error_code"] == 1213
    assert (end.exit_code, end.reason) == (ExitCode.OK, "the pilot's lifetime is over")


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_lifetime_that_passes_ends_the_wait_for_a_job(bench: Bench) -> None:
    end = live(bench, lifetime_s=0.1, max_empty=5, empty_wait_s=100.0)
    assert end.reason == "the pilot's lifetime is over"


@pytest.mark.parametrize(("kind", "code"), [(StopKind.SIGTERM, ExitCode.SIGTERM), (StopKind.SIGINT, ExitCode.SIGINT)])
def test_a_signal_ends_the_wait_for_a_job(bench: Bench, kind: StopKind, code: ExitCode) -> None:
    asking = threading.Timer(0.05, bench.end, (kind,))
    asking.start()
    assert live(bench, max_empty=5, empty_wait_s=100.0).exit_code is code
    asking.join()


def test_after_a_stop_no_job_is_asked_for(bench: Bench) -> None:
    bench.end(StopKind.SIGTERM)
    assert live(bench).exit_code is ExitCode.SIGTERM
    assert bench.server.requests == []


def test_a_signal_while_a_request_is_in_flight_is_no_crash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.worker.ACQUIRE_BOUND_S", 0.05)
    released = threading.Event()

    def hang() -> None:
        bench.end(StopKind.SIGTERM)
        released.wait(10)

    bench.server.on_acquire = hang
    end = live(bench)
    released.set()
    assert (end.exit_code, end.reason) == (ExitCode.SIGTERM, "the pilot received SIGTERM")


def test_a_job_that_arrives_with_the_signal_is_reported(bench: Bench) -> None:
    bench.server.to_give = [definition()]
    bench.server.on_acquire = lambda: bench.end(StopKind.SIGTERM)
    assert live(bench).exit_code is ExitCode.SIGTERM
    assert (bench.server.final["pilot_error_code"], bench.payload.runs) == (1201, 0)


class Impatient(Stop):
    """Notes how long it shall wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def wait(self, timeout_s: float | None) -> bool:
        self.waits_s.append(timeout_s or 0.0)
        return self.is_set()


def waits_s(tmp_path: Path, answers: list[Any], max_empty: int) -> list[float]:
    stop = Impatient()
    bench = Bench(tmp_path, stop=stop)
    bench.server.to_give = answers
    live(bench, max_empty=max_empty, empty_wait_s=10.0, time_floor_s=1e9)
    return stop.waits_s


def test_the_waits_for_a_job_grow_to_six_times_the_shortest_and_differ_from_pilot_to_pilot(tmp_path: Path) -> None:
    lives = [waits_s(tmp_path / str(number), [NoJob("none")] * 7, max_empty=7) for number in range(30)]
    by_number = list(zip(*lives, strict=True))
    assert len(by_number) == 6, "after the last answer it leaves and does not wait"
    for found, (least_s, most_s) in zip(by_number, [(10, 20), (20, 40), *[(30, 60)] * 4], strict=True):
        assert least_s <= min(found) < max(found) <= most_s
        assert max(found) - min(found) > (most_s - least_s) / 2, "a thousand pilots must not ask at once"


def test_after_a_job_the_waits_are_short_again(tmp_path: Path) -> None:
    answers = [*[NoJob("none")] * 3, definition(), NoJob("none"), NoJob("none")]
    _first, _second, before, after, *_more = waits_s(tmp_path, answers, max_empty=4)
    assert before >= 30 and after <= 20


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [ServerUnreachable("no route"), CredentialsRefused("expired"), ServerRefused("bug")]
)
def test_a_server_that_never_answers_is_exit_79_with_its_reason(bench: Bench, trouble: Exception) -> None:
    bench.server.to_give = [trouble, trouble]
    end = live(bench, max_empty=2)
    assert (end.exit_code, end.reason) == (ExitCode.SERVER_COMMUNICATION, str(trouble))


def test_a_server_that_falls_silent_after_a_job_is_no_failure(bench: Bench) -> None:
    bench.server.to_give = [definition(), ServerUnreachable("down")]
    assert live(bench).exit_code is ExitCode.OK


def test_a_server_that_sends_rubbish_is_not_asked_for_ever(bench: Bench) -> None:
    bench.server.to_give = [{"no": "PandaID"}] * 1000
    end = live(bench, max_empty=3)
    assert len(bench.server.requests) == 3 and end.jobs == ()


def test_an_undelivered_report_is_exit_79_and_stays_for_a_successor(bench: Bench) -> None:
    bench.server.to_give = [definition(1), definition(2)]
    bench.final_retry_s = 0.1
    bench.server.trouble["finished"] = [ServerUnreachable("down")] * 1000
    bench.server.trouble["status"] = [ServerUnreachable("down")] * 1000
    end = live(bench)
    assert end.exit_code is ExitCode.SERVER_COMMUNICATION
    assert "1.2" in end.reason and str(bench.volume.root) in end.reason
    assert bench.folders == ["1.2"] and len(bench.server.requests) == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.unit.parts import Bench, definition

bench = Bench(Path(sys.argv[1]))
bench.server.to_give = [definition()]
worker = bench.worker()
bench.volume.worker_journal.write_bytes(b"")
if sys.argv[2] == "before":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
else:
    bench.server.on_acquire = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
end = worker.live()
print(int(end.exit_code), len(bench.server.requests), bench.server.states, end.reason)
"""


@pytest.mark.parametrize(
    ("when", "said"), [("before", "66 0 [] the work folder"), ("during", "0 1 ['failed'] the server had no job")]
)
def test_a_full_disk_costs_no_job(tmp_path: Path, when: str, said: str) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), when]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60
    )
    assert "Traceback" not in done.stderr
    if when == "during":  # the job is reported, and asking for the next one is not possible
        assert done.stdout.startswith("66 1 ['failed'] the work folder")
    else:
        assert done.stdout.startswith(said)


# --- what it asks for -------------------------------------------------------------------------------------------------


def asked(bench: Bench, **changes: Any) -> AcquireRequest:
    live(bench, **changes)
    return bench.server.requests[0]


def test_the_request_names_the_queue_and_its_limits(bench: Bench) -> None:
    request = asked(bench, label="test", job_type="managed", harvester_id="h", worker_id=7)
    assert request == AcquireRequest(
        site_name="Q_RESOURCE",
        prod_source_label="test",
        memory_mb=1800,
        disk_space_mb=100,
        remaining_time_s=None,
        resource_type="SCORE",
        computing_element="Q",
        node="node-7",
        job_type="managed",
        scheduler_id="harvester-x",
        harvester_id="h",
        worker_id=7,
    )


@pytest.mark.parametrize(
    ("workdir_mb", "pod_mb", "free_bytes", "sent_mb"),
    [
        (100, None, 500 * MB, 100),
        (100, 50, 500 * MB, 50),
        (100, 50, 20 * MB, 20),
        (None, None, 20 * MB, 20),
        (100, 50, 0, 1),  # 0 would be no limit at all
    ],
)
def test_the_disk_space_is_the_smallest_of_queue_pod_and_volume(
    bench: Bench, workdir_mb: int | None, pod_mb: int | None, free_bytes: int, sent_mb: int
) -> None:
    from dataclasses import replace

    queue = replace(QUEUE, max_workdir_bytes=workdir_mb * MB if workdir_mb else None)
    bench.volume.free_bytes = lambda: free_bytes  # type: ignore[method-assign]
    limit = pod_mb * MB if pod_mb else None
    assert asked(bench, queue=queue, disk_limit_bytes=limit).disk_space_mb == sent_mb


@pytest.mark.parametrize(("lifetime_s", "max_time_s", "low"), [(100.0, None, 95), (0.0, 200, 195), (100.0, 50, 45)])
def test_the_remaining_time_is_what_is_left_of_lifetime_and_queue(
    bench: Bench, lifetime_s: float, max_time_s: int | None, low: int
) -> None:
    from dataclasses import replace

    request = asked(bench, lifetime_s=lifetime_s, queue=replace(QUEUE, max_time_s=max_time_s))
    assert request.remaining_time_s is not None and low <= request.remaining_time_s <= low + 5


def test_each_request_and_its_result_stand_in_the_workers_journal(bench: Bench) -> None:
    bench.server.to_give = [definition(), ServerUnreachable("down")]
    live(bench, max_empty=2)
    records = read_journal(bench.volume.worker_journal)
    assert [record.event for record in records] == [Event.ACQUIRE_INTENT, Event.ACQUIRE_RESULT] * 3
    assert [record.data["job"] for record in records[1::2]] == [True, False, False]


# --- PUSH, Harvester, recovery ----------------------------------------------------------------------------------------


def test_a_given_job_is_run_and_none_is_asked_for(bench: Bench) -> None:
    end = live(bench, push_job=Acquired(definition(), ApiGeneration.LEGACY))
    assert (end.exit_code, len(end.jobs), bench.server.requests) == (ExitCode.OK, 1, [])


def test_a_given_job_that_was_brought_to_its_end_before_is_not_run_again(bench: Bench) -> None:
    given = Acquired(definition(), ApiGeneration.V1)
    assert live(bench, push_job=given).exit_code is ExitCode.OK
    said = len(bench.server.updates)
    end = live(bench, push_job=given)
    assert end.exit_code is ExitCode.OK
    assert "before" in end.reason
    assert len(bench.server.updates) == said


def test_a_given_job_is_reported_when_the_queue_gives_no_work(bench: Bench) -> None:
    refusal = PilotCannotWork(ExitCode.QUEUE_NOT_ONLINE, "the queue is offline")
    given = Acquired(definition(), ApiGeneration.V1)
    end = live(bench, refusal=refusal, push_job=given)
    assert (end.exit_code, end.reason) == (ExitCode.QUEUE_NOT_ONLINE, "the queue is offline")
    final = bench.server.final
    assert (final["job_status"], final["pilot_error_code"]) == ("failed", 1386)
    assert "the queue is offline" in str(final["pilot_error_diag"])
    assert (bench.payload.runs, bench.stager.staged, bench.folders) == (0, [], [])
    assert [attempt.panda_id for attempt in bench.logs.stored] == [4711]
    live(bench, refusal=refusal, push_job=given)
    assert len(bench.server.updates) == 1, "it is over"


def test_a_refused_job_that_cannot_be_reported_stays_for_a_successor(bench: Bench) -> None:
    bench.final_retry_s = 0.05
    bench.server.trouble = {name: [ServerUnreachable("down")] * 1000 for name in ("failed", "status")}
    refusal = PilotCannotWork(ExitCode.QUEUE_NOT_ACTIVE, "the queue is not active")
    end = live(bench, refusal=refusal, push_job=Acquired(definition(), ApiGeneration.V1))
    assert (end.exit_code, bench.folders) == (ExitCode.SERVER_COMMUNICATION, ["4711.2"])


def undelivered(bench: Bench) -> dict[str, Any]:
    """Leave a job whose report was never delivered; its prepared body."""
    bench.server.to_give = [definition(**WITH_OUTPUT)]
    bench.final_retry_s = 0.05
    bench.server.trouble = {name: [ServerUnreachable("down")] * 1000 for name in ("finished", "status")}
    live(bench)
    bench.server.trouble, bench.final_retry_s = {}, 5.0
    journal = bench.volume.jobs / "4711.2" / "journal"
    body: dict[str, Any] = next(r for r in read_journal(journal) if r.event is Event.FINAL_PREPARED).data["body"]
    return body


def test_a_successor_resends_the_same_report_before_it_asks_for_a_job(bench: Bench) -> None:
    body = undelivered(bench)
    bench.server.requests.clear()
    bench.server.on_acquire = lambda: asked_after.append(len(bench.server.updates))
    asked_after: list[int] = []
    updates = len(bench.server.updates)
    end = live(bench)
    assert bench.server.updates[updates:] == [body]
    assert asked_after == [updates + 1]
    assert (end.exit_code, bench.folders) == (ExitCode.OK, [])


def test_a_successor_that_cannot_deliver_either_leaves_it_and_takes_no_job(bench: Bench) -> None:
    undelivered(bench)
    bench.server.requests.clear()
    bench.final_retry_s = 0.05
    bench.server.trouble = {name: [ServerUnreachable("down")] * 1000 for name in ("finished", "status")}
    end = live(bench)
    assert (end.exit_code, bench.folders) == (ExitCode.SERVER_COMMUNICATION, ["4711.2"])
    assert bench.server.requests == []


def test_to_recover_only_is_to_take_no_job(bench: Bench) -> None:
    undelivered(bench)
    bench.server.requests.clear()
    end = live(bench, recover_only=True)
    assert (end.exit_code, bench.server.requests, bench.folders) == (ExitCode.OK, [], [])


def test_a_queue_that_gives_no_work_keeps_no_report_from_its_delivery(bench: Bench) -> None:
    undelivered(bench)
    refusal = PilotCannotWork(ExitCode.QUEUE_NOT_ONLINE, "the queue is offline")
    end = live(bench, refusal=refusal)
    assert (end.exit_code, end.reason) == (ExitCode.QUEUE_NOT_ONLINE, "the queue is offline")
    assert [fields["job_status"] for fields in bench.server.updates if fields["job_status"] in ("finished", "failed")]
    assert bench.folders == []


def left_at(
    bench: Bench, *events: tuple[Event, dict[str, Any]], of_job: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """A job folder as a pilot that died left it."""
    folder = bench.volume.jobs / "4711.2"
    for name in ("work", "logs", "control"):
        (folder / name).mkdir(parents=True)
    journal = Journal(folder / "journal")
    acquired = {"attempt": [4711, 2], "definition": definition(**of_job), "api": "v1", "batch_id": "old-pod"}
    for event, data in ((Event.ACQUIRED, acquired), *events):
        journal.append(event, **data)
    journal.close()


def test_a_job_left_before_its_payload_is_reported_failed_under_its_old_batch_id(bench: Bench) -> None:
    left_at(bench, (Event.STARTING_ACCEPTED, {}))
    live(bench, recover_only=True)
    final = bench.server.final
    assert (final["job_status"], final["pilot_error_code"], final["batch_id"]) == ("failed", 1319, "old-pod")
    assert bench.payload.runs == 0 and bench.folders == []


def test_a_job_left_in_its_payload_is_laid_to_rest_and_never_run_again(bench: Bench) -> None:
    left_at(bench, (Event.PAYLOAD_STARTING, {"isolation": "plain", "boot_id": "boot-1"}))
    live(bench, recover_only=True)
    assert bench.server.final["pilot_error_code"] == 1200
    assert bench.payload.runs == 0 and bench.payload.laid_to_rest[0]["boot_id"] == "boot-1"


def test_what_is_known_of_a_payload_outlasts_the_record_of_its_pid(bench: Bench) -> None:
    marks = {"tracking": "4711.2.x", "boot_id": "boot-1", "oom_kills": 3, "uid": 1001}
    left_at(bench, (Event.PAYLOAD_STARTING, {"isolation": "plain", **marks}), (Event.PAYLOAD_PID, {"pid": 77}))
    live(bench, recover_only=True)
    assert marks.items() <= bench.payload.laid_to_rest[0].items()


def test_a_job_is_reported_also_when_its_remains_cannot_be_cleared_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_mark: object, _folder: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bench.payload, "lay_to_rest", fail)
    left_at(bench, (Event.PAYLOAD_STARTING, {"isolation": "plain", "boot_id": "boot-1"}))
    live(bench, recover_only=True)
    assert (bench.server.final["job_status"], bench.server.final["pilot_error_code"]) == ("failed", 1319)


def test_a_journal_that_cannot_be_read_is_kept_with_its_job(bench: Bench) -> None:
    left_at(bench, (Event.STARTING_ACCEPTED, {}))
    journal = bench.volume.jobs / "4711.2" / "journal"
    journal.rename(journal.with_name("elsewhere"))
    journal.mkdir()  # reading it fails
    end = live(bench)
    assert (end.exit_code, bench.folders) == (ExitCode.MISSING_FILE, ["4711.2"])
    assert "cannot be read: Is a directory; it is kept there" in end.reason


def test_a_log_that_was_told_and_not_stored_outlasts_the_folder_of_its_job(bench: Bench) -> None:
    report = {"log.tgz": {"guid": "g", "fsize": 11, "adler32": "0a0b0c0d"}}
    body = {"job_id": 4711, "attempt_nr": 2, "job_status": "finished", "job_output_report": json.dumps(report)}
    left_at(bench, (Event.FINAL_PREPARED, {"attempt": [4711, 2], "api": "v1", "body": body}), of_job=WITH_OUTPUT)
    (bench.volume.jobs / "4711.2/logs/log.tgz").write_text("what happened")
    live(bench, recover_only=True)
    assert (bench.root / "unstored-logs/4711.2.log.tgz").read_text() == "what happened"
    assert bench.folders == []


def test_the_secrets_of_a_job_are_masked_in_the_logs_that_a_successor_stores(bench: Bench) -> None:
    left_at(bench, (Event.PAYLOAD_STARTING, {"isolation": "plain", "boot_id": "boot-1"}))
    keep_secrets(JobFolder(bench.volume.jobs / "4711.2"), ["open-sesame-42"])
    seen: list[str] = []
    bench.logs.on_store = lambda _stop: seen.append(redactor.clean("say open-sesame-42"))
    live(bench, recover_only=True)
    assert seen == ["say ***"]
    assert redactor.clean("say open-sesame-42") == "say open-sesame-42"


def test_a_job_that_was_reported_without_a_word_in_the_journal_is_not_reported_again(bench: Bench) -> None:
    left_at(bench, (Event.PAYLOAD_STARTING, {"isolation": "plain", "boot_id": "boot-1"}))
    bench.server.statuses[4711] = JobStatus("holding", 2)
    live(bench, recover_only=True)
    assert bench.server.updates == [] and bench.folders == []
    assert bench.payload.laid_to_rest[0]["boot_id"] == "boot-1"


def test_a_job_of_which_the_server_cannot_be_asked_is_kept_for_later(bench: Bench) -> None:
    left_at(bench, (Event.PAYLOAD_STARTING, {"isolation": "plain", "boot_id": "boot-1"}))
    bench.server.trouble["status"] = [ServerUnreachable("down")] * 1000
    bench.final_retry_s = 0.05
    end = live(bench, recover_only=True)
    assert end.exit_code is ExitCode.SERVER_COMMUNICATION
    assert bench.server.updates == [] and len(bench.folders) == 1


def test_a_folder_without_a_durable_job_is_removed(bench: Bench) -> None:
    (bench.volume.jobs / "1.0" / "work").mkdir(parents=True)
    (bench.volume.jobs / "1.0" / "journal").write_bytes(b"torn")
    live(bench, recover_only=True)
    assert bench.folders == [] and bench.server.updates == []


def test_a_settled_folder_is_removed_and_nothing_is_said_again(bench: Bench) -> None:
    left_at(bench, (Event.FINAL_PREPARED, {"attempt": [4711, 2], "api": "v1", "body": {}}), (Event.FINAL_ACKED, {}))
    live(bench, recover_only=True)
    assert bench.folders == [] and bench.server.updates == []


@pytest.mark.parametrize(
    "record",
    [
        (Event.PAYLOAD_EXITED, {"outcome": {"state": "teleported"}, "usage": {"new_figure": 1}}),
        (Event.FINAL_PREPARED, {"attempt": [4711, 2], "api": "v3", "body": {}}),
        (Event.STAGE_OUT_DONE, {"files": [{"name_of_a_later_version": 1}]}),
    ],
)
def test_a_record_of_a_later_version_is_no_crash(bench: Bench, record: tuple[Event, dict[str, Any]]) -> None:
    left_at(bench, record)
    bench.server.to_give = [definition(5)]
    end = live(bench)
    assert 5 in [job.panda_id for job in end.jobs]


def test_without_room_for_a_job_none_is_asked_for(bench: Bench) -> None:
    end = bench.worker(min_free_bytes=1 << 60).live()
    assert end.exit_code is ExitCode.NO_LOCAL_SPACE
    assert end.reason.startswith(f"the work folder {bench.root} has ")
    assert end.reason.endswith("free some space, give another with --workdir DIR, or a smaller --min-free-mib")
    assert bench.server.requests == []
