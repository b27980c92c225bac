"""Cloud logging without a cloud: what becomes an entry, what waits, what is dropped and counted."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.model import Attempt, Job, Resources
from pilot.logs import cloud
from pilot.logs.cloud import CloudLogs, CloudNames, Sender, Tail, Waiting, cloud_logs, line_entry
from pilot.logs.collect import LogFile
from pilot.logs.google_logging import EntriesRefused, ServiceUnreachable
from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, StopReason
from pilot.runtime.workdir import JobFolder
from pilot.storage.store import LocalFileError

NAMES = CloudNames("gke-node-7", "h", 12)
JOB = Job(Attempt(4711, 2), 99, "isr-1", "run.sh", "", "managed", Resources())


def entries(waiting: Waiting) -> list[dict[str, Any]]:
    """What waits, in order, taken out."""
    found = []
    while batch := waiting.batch():
        found += [json.loads(entry.as_json("p")) for entry in batch]
        waiting.done(batch)
    return found


class Service:
    """Takes entries, or fails as it is told to."""

    def __init__(self, *troubles: Exception) -> None:
        self.troubles = list(troubles)
        self.written: list[dict[str, Any]] = []
        self.requests = 0
        self.gate = threading.Event()
        self.gate.set()

    def project(self) -> str:
        return "p"

    def write(self, entries: Sequence[bytes]) -> None:
        self.requests += 1
        assert self.gate.wait(10)
        if self.troubles:
            raise self.troubles.pop(0)
        self.written += [json.loads(entry) for entry in entries]

    def close(self) -> None:
        pass


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "severity", "payload"),
    [
        (b'{"levelname": "ERROR", "message": "no"}', "ERROR", {"levelname": "ERROR", "message": "no"}),
        (b'{"levelname": "LOUD", "MDC": {"RUN": "r"}}', "DEFAULT", {"levelname": "LOUD", "MDC": {"RUN": "r"}}),
        (b'{"levelname": 40, "a": [1, 2.5, null, true]}', "DEFAULT", {"levelname": 40, "a": [1, 2.5, None, True]}),
        (b"plain words\r", "DEFAULT", {"message": "plain words"}),
        (b"[1, 2]", "DEFAULT", {"message": "[1, 2]"}),
        (b'{"cut', "DEFAULT", {"message": '{"cut'}),
        (b"\xff\xfe", "DEFAULT", {"message": "\ufffd\ufffd"}),
        (b'{"n": NaN, "i": -Infinity, "f": 1e999}', "DEFAULT", {"n": "nan", "i": "-inf", "f": "inf"}),
        (b'{"big": 123456789012345678901234567890}', "DEFAULT", {"big": "123456789012345678901234567890"}),
        (b"[" * 100_000, "DEFAULT", {"message": "[" * 50_000, "cut_characters": 50_000}),
    ],
)
def test_a_line_is_an_entry_whatever_it_holds(line: bytes, severity: str, payload: dict[str, Any]) -> None:
    assert line_entry(line) == (severity, payload)


def test_nesting_has_an_end() -> None:
    deep = b'{"a": ' * 30 + b"1" + b"}" * 30
    assert json.dumps(line_entry(deep)[1]).count("{") == cloud.DEPTH_MAX + 1
    assert "..." in json.dumps(line_entry(deep)[1])


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(), st.floats() | st.text() | st.integers()).map(repr).map(str.encode)
)
def test_any_line_can_be_sent(line: bytes) -> None:
    waiting = Waiting()
    severity, payload = line_entry(line)
    waiting.put("log", severity, payload)
    (entry,) = entries(waiting)
    assert entry["severity"] == severity


def test_a_lone_surrogate_spoils_no_request() -> None:
    waiting = Waiting()
    waiting.put("log", *line_entry(b'{"message": "\\ud800 x"}'))
    assert entries(waiting)[0]["jsonPayload"] == {"message": "? x"}


# --- the queue --------------------------------------------------------------------------------------------------------


def test_entries_have_ids_of_their_own_and_the_logs_full_name() -> None:
    waiting = Waiting()
    for _ in range(3):
        waiting.put("Panda-RubinLog", "INFO", {"message": "m"})
    found = entries(waiting)
    assert len({entry["insertId"] for entry in found}) == 3
    assert sorted(found, key=lambda entry: entry["insertId"]) == found
    assert {entry["logName"] for entry in found} == {"projects/p/logs/Panda-RubinLog"}
    assert all(entry["timestamp"].endswith("Z") for entry in found)
    waiting.put("a/b c", "INFO", {})
    assert entries(waiting)[0]["logName"] == "projects/p/logs/a%2Fb%20c"


def test_a_request_is_of_bounded_size() -> None:
    waiting = Waiting()
    for _ in range(cloud.BATCH_MAX_ENTRIES + 1):
        waiting.put("log", "INFO", {})
    assert len(waiting.batch()) == cloud.BATCH_MAX_ENTRIES
    entries(waiting)
    for _ in range(30):
        waiting.put("log", "INFO", {"message": "x" * 50_000})
    assert sum(len(entry.rest) for entry in waiting.batch()) <= cloud.BATCH_MAX_BYTES


def test_what_does_not_fit_is_counted_and_nobody_waits() -> None:
    waiting = Waiting(max_bytes=1000)
    for _ in range(100):
        waiting.put("log", "INFO", {"message": "x" * 100})
    kept = len(waiting.batch())
    assert 1 <= kept < 10 and waiting.lost == 100
    assert waiting.take_dropped() == 100 - kept and waiting.take_dropped() == 0
    entries(waiting)
    waiting.put("log", "INFO", {"message": "room again"})
    assert len(entries(waiting)) == 1


def test_many_threads_may_put_at_once() -> None:
    waiting = Waiting()

    def put() -> None:
        for _ in range(200):
            waiting.put("log", "INFO", {})

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({entry["insertId"] for entry in entries(waiting)}) == 1600


# --- the sender -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "GATHER_S", 0.01)
    monkeypatch.setattr(cloud, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(cloud, "POLL_S", 0.01)


def test_an_outage_ends_with_everything_sent_and_told_once(
    caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    service = Service(*[ServiceUnreachable("no route")] * 5)
    with caplog.at_level(logging.INFO, "pilot"), cloud_logs(NAMES, service, Stop(), 10.0) as logs:
        logs._waiting.put("log", "INFO", {"message": "patience"})
        eventually(lambda: service.written)
        eventually(lambda: service.requests > 5)
    assert [e["jsonPayload"] for e in service.written if e["logName"].endswith("/log")] == [{"message": "patience"}]
    assert caplog.text.count("cloud logging is out of reach: no route") == 1


def test_what_was_dropped_is_told_when_there_is_room_again(eventually: Callable[..., None]) -> None:
    waiting, service, stop = Waiting(max_bytes=1000), Service(ServiceUnreachable("down")), Stop()
    for _ in range(50):
        waiting.put("log", "INFO", {"message": "x" * 100})
    lost = 50 - len(waiting.batch())
    sender = threading.Thread(target=Sender(waiting, service).run, args=(stop,))
    sender.start()
    eventually(lambda: any(entry["logName"].endswith(cloud.WORKER_LOG) for entry in service.written))
    stop.request(StopReason(StopKind.PAYLOAD_DONE))
    sender.join()
    notices = [e["jsonPayload"] for e in service.written if e["logName"].endswith(cloud.WORKER_LOG)]
    assert [notice["dropped"] for notice in notices] == [lost]


def test_entries_that_are_refused_are_not_sent_for_ever(eventually: Callable[..., None]) -> None:
    waiting, service, stop = Waiting(), Service(EntriesRefused("too large", 1)), Stop()
    for number in range(3):
        waiting.put("log", "INFO", {"number": number})
    sender = threading.Thread(target=Sender(waiting, service).run, args=(stop,))
    sender.start()
    eventually(lambda: service.requests)
    waiting.put("log", "INFO", {"number": 3})
    eventually(lambda: any(entry["jsonPayload"].get("dropped") == 1 for entry in service.written))
    stop.request(StopReason(StopKind.PAYLOAD_DONE))
    sender.join()
    assert [e["jsonPayload"]["number"] for e in service.written if "number" in e["jsonPayload"]] == [3]


def test_at_the_end_what_waits_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "GATHER_S", 1000.0)
    service = Service()
    with cloud_logs(NAMES, service, Stop(), 10.0) as logs:
        logs._waiting.put("log", "INFO", {"message": "last words"})
    assert [entry["jsonPayload"]["message"] for entry in service.written] == ["last words"]


def test_a_service_that_hangs_holds_the_end_up_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    service, stop = Service(), Stop()
    service.gate.clear()
    with caplog.at_level(logging.INFO, "pilot"), cloud_logs(NAMES, service, stop, 0.05) as logs:
        for _ in range(7):
            logs._waiting.put("log", "INFO", {})
        eventually(lambda: service.requests)
        stop.request(StopReason(StopKind.SIGTERM))
    assert "7 entries are not sent" in caplog.text
    service.gate.set()


# --- the pilot's events -----------------------------------------------------------------------------------------------


def test_the_pilots_events_carry_host_worker_and_job() -> None:
    service = Service()
    logger = logging.getLogger("pilot.of.a.test")
    with redactor.knowing([Secret("sesame-open")]), cloud_logs(NAMES, service, Stop(), 10.0):
        logger.warning("job %s: the word is %s", "4711.2", "sesame-open")
        try:
            raise ValueError("inside")
        except ValueError:
            logger.exception("it broke")
        logging.getLogger("elsewhere").warning("not ours")
    first, second = (entry["jsonPayload"] for entry in service.written)
    assert (first["hostname"], first["Harvester_ID"], first["Harvester_WorkerID"]) == ("gke-node-7", "h", "12")
    assert (first["message"], first["PandaJobID"]) == ("job 4711.2: the word is ***", "4711")
    assert "ValueError: inside" in second["message"] and "PandaJobID" not in second
    assert [entry["severity"] for entry in service.written] == ["WARNING", "ERROR"]
    assert {entry["logName"] for entry in service.written} == {"projects/p/logs/Panda-WorkerLog"}


# --- the payload's files ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path / "4711.2")
    folder.work.mkdir(parents=True)
    return folder


def follow(
    folder: JobFolder, during: Callable[[Path], object], names: CloudNames = NAMES, within: Waiting | None = None
) -> list[dict[str, Any]]:
    """What a follower sends of what ``during`` does to the payload's log."""
    waiting, stop = within or Waiting(), Stop()
    thread = threading.Thread(target=CloudLogs(names, waiting).follow, args=(JOB, folder, stop))
    thread.start()
    try:
        during(folder.work / "payload-log.json")
    finally:
        stop.request(StopReason(StopKind.PAYLOAD_DONE))
        thread.join()
    return entries(waiting)


def test_each_line_is_sent_once_with_the_jobs_ids_and_the_payload_cannot_forge_them(folder: JobFolder) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b'{"message": "one", "PandaJobID": "1"}\n\ntwo\n{"message": "no line end"}')

    found = follow(folder, write)
    ids = {"TaskID": "99", "PandaJobID": "4711", "Harvester_ID": "h", "Harvester_WorkerID": "12"}
    assert [entry["jsonPayload"] for entry in found] == [
        {"message": "one"} | ids,
        {"message": "two"} | ids,
        {"message": "no line end"} | ids,
    ]
    assert {entry["logName"] for entry in found} == {"projects/p/logs/Panda-RubinLog"}


def test_a_secret_of_the_job_is_not_sent(folder: JobFolder) -> None:
    with redactor.knowing([Secret("sesame-open")]):
        found = follow(folder, lambda path: path.write_bytes(b'{"message": "sesame-open!"}\n'))
    assert found[0]["jsonPayload"]["message"] == "***********!"


def test_a_payload_that_floods_is_followed_in_pieces_and_the_loss_is_told(folder: JobFolder) -> None:
    line = b'{"message": "' + b"x" * 80 + b'"}\n'
    (folder.work / "payload-log.json").write_bytes(line * 200_000)  # 19 MB
    found = follow(folder, lambda path: None)
    told = [e["jsonPayload"]["message"] for e in found if "left out" in e["jsonPayload"].get("message", "")]
    assert len(told) == 1 and told[0].startswith(str(len(line) * 200_000 - cloud.READ_MAX_BYTES))
    whole = [e for e in found if e["jsonPayload"].get("message") == "x" * 80]
    assert len(whole) == len(found) - 1, "no line is cut where the gap begins or ends"
    assert 0 < len(whole) * len(line) <= cloud.READ_MAX_BYTES


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", "", "."])
def test_only_a_file_of_the_work_folder_is_followed(folder: JobFolder, name: str) -> None:
    (folder.root / "outside").write_text("secret\n")
    assert follow(folder, lambda path: None, CloudNames("n", None, None, files=(name,))) == []


def test_a_link_or_a_pipe_is_no_log(folder: JobFolder) -> None:
    (folder.root / "outside").write_text("secret\n")
    (folder.work / "payload-log.json").symlink_to("../outside")
    os.mkfifo(folder.work / "pipe")
    assert follow(folder, lambda path: None, CloudNames("n", None, None, files=("payload-log.json", "pipe"))) == []


def tail(path: Path) -> Tail:
    return Tail(LogFile(path.name, path.parent))


def test_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    following = tail(path)
    with pytest.raises(LocalFileError):
        following.read()
    with path.open("ab", buffering=0) as file:
        file.write(b"one\ntw")
        assert following.read() == ([b"one"], 0)
        assert following.read() == ([], 0)
        file.write(b"o\n")
        assert following.read() == ([b"two"], 0)
        file.write(b"three")
        assert following.read() == ([], 0)
        assert following.read(ended=True) == ([b"three"], 0)
        assert following.read(ended=True) == ([], 0)


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"the first, and longer\n")
    following = tail(path)
    assert following.read()[0] == [b"the first, and longer"]
    path.write_bytes(b"second\n")
    assert following.read()[0] == [b"second"]


def test_a_line_without_end_is_given_out_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "READ_MAX_BYTES", 10)
    path = tmp_path / "log"
    path.write_bytes(b"x" * 25)
    following = tail(path)
    assert [following.read(ended=True)[0] for _ in range(4)] == [[b"x" * 10], [b"x" * 10], [b"x" * 5], []]


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_however_it_grows_it_is_the_same_lines(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "log"
    path.write_bytes(b"")
    following, found = tail(path), []
    for chunk in chunks:
        with path.open("ab") as file:
            file.write(chunk)
        found += following.read()[0]
    while lines := following.read(ended=True)[0]:
        found += lines
    assert found == [line for line in b"".join(chunks).split(b"\n") if line.strip()]
