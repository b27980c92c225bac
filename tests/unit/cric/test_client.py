from __future__ import annotations

import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilot.cric.client import CricClient, CricUnreachable
from pilot.cric.parse import BadEndpointData, BadQueueData, UnknownEndpoint, UnknownQueue
from pilot.job.errors import ExitCode, SettingsError
from pilot.job.queue import QueueNotActive, QueueNotOnline, require_usable
from pilot.runtime.http import Timeouts
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason

DATA = Path(__file__).parents[2] / "data" / "cric"
QUEUES = ("DOMA_LSST_DEV", "DOMA_LSST_GOOGLE_TEST", "DOMA_LSST_GOOGLE_TEST_HIMEM")
DEV, RSE = QUEUES[0], "GKE-LSST_LOGS"
DEV_JSON = (DATA / f"{DEV}.json").read_bytes()
RSE_JSON = (DATA / f"{RSE}.json").read_bytes()
BARE_DEV_JSON = json.dumps(json.loads(DEV_JSON)[DEV]).encode()
CRIC_PATH = f"/api/atlas/pandaqueue/query/?json&pandaqueue={DEV}"
RSE_PATH = f"/api/atlas/ddmendpoint/query/?json&ddmendpoint={RSE}"
PANDA_PATH = f"/cache/schedconfig/{DEV}.all.json"
BUCKET_PATH = f"/bucket/{DEV}.json"
QUICK = RetryPolicy("quick", tries=3, first_s=0.01, cap_s=0.02, total_s=5)
HOUR_S = 3600.0


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    before_s: float = 0.0
    trickle_s: float = 0.0  # one byte each


class QuietServer(ThreadingHTTPServer):
    """Joins its threads when closed, and says nothing of clients that hang up."""

    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Cric:
    """A loopback HTTP server with replies by path, given in order; the last one stays. Unknown paths get 404."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        self.server = QuietServer(("127.0.0.1", 0), self._handler())
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, path: str, *replies: Reply | bytes) -> None:
        self.replies[path] = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cric = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                cric.asked.append(self.path)
                replies = cric.replies.get(self.path, [Reply(b"not here", 404)])
                reply = replies.pop(0) if len(replies) > 1 else replies[0]
                cric.closing.wait(reply.before_s)
                try:
                    self.send_response(reply.status)
                    for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self._send(reply)
                except OSError:
                    self.close_connection = True

            def _send(self, reply: Reply) -> None:
                if not reply.trickle_s:
                    self.wfile.write(reply.body)
                    return
                for position in range(len(reply.body)):
                    if cric.closing.wait(reply.trickle_s):
                        return
                    self.wfile.write(reply.body[position : position + 1])
                    self.wfile.flush()

            def log_message(self, *_words: object) -> None:
                pass

        return Handler

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def cric() -> Iterator[Cric]:
    server = Cric()
    yield server
    server.close()


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def dead_url() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def client(
    source: str | Path,
    cache_dir: Path,
    *servers: str,
    bucket_url: str | None = None,
    timeouts: Timeouts | None = None,
    budget_s: float = 10.0,
) -> CricClient:
    return CricClient(
        source,
        servers,
        cache_dir,
        bucket_url=bucket_url,
        timeouts=timeouts or Timeouts(1, 1),
        policy=QUICK,
        budget_s=budget_s,
    )


def cached_file(cache_dir: Path) -> Path:
    return cache_dir / f"pandaqueue-{DEV}.json"


def age(path: Path, hours: float) -> None:
    moment = time.time() - hours * HOUR_S
    os.utime(path, (moment, moment))


# --- CRIC itself -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_comes_from_cric_by_its_url(cric: Cric, cache: Path, stop: Stop, name: str) -> None:
    path = f"/api/atlas/pandaqueue/query/?json&pandaqueue={name}"
    cric.says(path, (DATA / f"{name}.json").read_bytes())
    queue = client(f"{cric.url}/", cache).queue(name, stop)
    require_usable(queue)
    assert queue.name == name
    assert cric.asked == [path]


def test_a_storage_comes_from_cric_by_its_url(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(RSE_PATH, RSE_JSON)
    assert client(cric.url, cache).endpoint(RSE, stop).bucket == "drp-us-central1-logging"
    assert cric.asked == [RSE_PATH]


def test_server_errors_are_tried_again(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, Reply(b"busy", 503), Reply(b"bad", 500), Reply(DEV_JSON))
    assert client(cric.url, cache).queue(DEV, stop).name == DEV
    assert len(cric.asked) == 3


def test_a_dropped_connection_and_a_body_cut_short_are_tried_again(cric: Cric, cache: Path, stop: Stop) -> None:
    cut = Reply(DEV_JSON[:100], headers={"Content-Length": str(len(DEV_JSON)), "Connection": "close"})
    cric.says(CRIC_PATH, cut, Reply(DEV_JSON))
    assert client(cric.url, cache).queue(DEV, stop).name == DEV
    assert len(cric.asked) == 2


def test_a_refusal_is_not_tried_again(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, Reply(b"no", 403))
    with pytest.raises(
        CricUnreachable, match=r"queue DOMA_LSST_DEV could not be had .* answered with HTTP 403"
    ) as lost:
        client(cric.url, cache).queue(DEV, stop)
    assert lost.value.exit_code is ExitCode.NO_QUEUEDATA
    assert len(cric.asked) == 1


def test_a_redirect_to_another_host_is_not_followed(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, Reply(b"", 302, {"Location": f"http://localhost:1{CRIC_PATH}"}))
    with pytest.raises(CricUnreachable, match="redirects to another host"):
        client(cric.url, cache).queue(DEV, stop)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>Sign in</html>", "gave no JSON but a web page"),
        (b"garbage", "gave no JSON but 'garbage'"),
        (b"", "gave no JSON but nothing"),
        (b'{"a": NaN}', "gave no JSON"),
        (b"\xff\xfe\x00", "gave no JSON"),
        (b"[" * 100 + b"]" * 100, "JSON with more than 32 levels"),
        (b"[" * 200_000, "gave no JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "gave no JSON"),
    ],
)
def test_an_answer_that_is_no_json_is_a_sentence_and_not_cached(
    cric: Cric, cache: Path, stop: Stop, body: bytes, said: str
) -> None:
    cric.says(CRIC_PATH, body)
    with pytest.raises(CricUnreachable, match=said):
        client(cric.url, cache).queue(DEV, stop)
    assert not cache.exists()


def test_an_endless_answer_is_cut_off(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, b" " * (17 << 20))
    with pytest.raises(CricUnreachable, match="sent more than 16777216 bytes"):
        client(cric.url, cache).queue(DEV, stop)


def test_json_that_is_no_queue_is_bad_data_with_exit_72(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, b"[1, 2]")
    cric.says(RSE_PATH, b'"text"')
    with pytest.raises(BadQueueData) as refused:
        client(cric.url, cache).queue(DEV, stop)
    assert refused.value.exit_code is ExitCode.BAD_QUEUEDATA
    with pytest.raises(BadEndpointData):
        client(cric.url, cache).endpoint(RSE, stop)


def test_a_name_that_cric_does_not_know_is_unknown_with_exit_71(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, b"{}")
    cric.says(RSE_PATH, b"{}")
    with pytest.raises(UnknownQueue, match="CRIC knows no queue DOMA_LSST_DEV") as refused:
        client(cric.url, cache).queue(DEV, stop)
    assert refused.value.exit_code is ExitCode.NO_QUEUEDATA
    with pytest.raises(UnknownEndpoint, match="CRIC knows no storage GKE-LSST_LOGS"):
        client(cric.url, cache).endpoint(RSE, stop)


def test_an_offline_or_inactive_queue_is_had_and_then_refused(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, DEV_JSON.replace(b'"status": "online"', b'"status": "offline"'))
    with pytest.raises(QueueNotOnline):
        require_usable(client(cric.url, cache).queue(DEV, stop))
    cached_file(cache).unlink()
    cric.says(CRIC_PATH, DEV_JSON.replace(b'"state": "ACTIVE"', b'"state": "DISABLED"'))
    with pytest.raises(QueueNotActive):
        require_usable(client(cric.url, cache).queue(DEV, stop))


@pytest.mark.parametrize("name", ["", "..", "a/b", "../etc/passwd", "Q&x=1", "Q\n", "ä", "x" * 101])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(
    cric: Cric, cache: Path, stop: Stop, name: str
) -> None:
    with pytest.raises(SettingsError, match="is no queue name"):
        client(cric.url, cache).queue(name, stop)
    with pytest.raises(SettingsError, match="is no storage name"):
        client(cric.url, cache).endpoint(name, stop)
    assert cric.asked == []


@pytest.mark.parametrize(
    "url", ["ftp://host", "https://", "https://host/?x", "http://[bad", "https://u:p@host", "https://host:x"]
)
def test_a_url_that_is_none_is_refused_at_once(cache: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="is no place for CRIC data"):
        client(url, cache)


# --- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_silent_cric_uses_only_its_share_of_the_time(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, Reply(DEV_JSON, before_s=30))
    cric.says(PANDA_PATH, BARE_DEV_JSON)
    assert client(cric.url, cache, cric.url, budget_s=1, timeouts=Timeouts(5, 30)).queue(DEV, stop).name == DEV


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_cric_that_trickles_does_not_hold_the_pilot(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, Reply(DEV_JSON, trickle_s=0.05))
    with pytest.raises(CricUnreachable, match="did not finish its answer in time"):
        client(cric.url, cache, budget_s=0.5, timeouts=Timeouts(5, 30)).queue(DEV, stop)


def test_a_stop_ends_the_search(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, Reply(b"busy", 503, {"Retry-After": "9"}))
    patient = RetryPolicy("patient", tries=3, first_s=0.01, cap_s=0.02, total_s=60)
    asker = CricClient(cric.url, (cric.url,), cache, policy=patient)
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            asker.queue(DEV, stop)
        except Stopped as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not cric.asked:
        time.sleep(0.005)
    stop.request(StopReason(StopKind.SIGTERM))
    thread.join(5)
    assert not thread.is_alive() and len(ended) == 1
    assert PANDA_PATH not in cric.asked
    with pytest.raises(Stopped):
        asker.queue(DEV, stop)


# --- the other sources -------------------------------------------------------------------------------------------------


def test_the_panda_servers_copy_is_next(cric: Cric, cache: Path, stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    cric.says(PANDA_PATH, BARE_DEV_JSON)
    with caplog.at_level(logging.WARNING, "pilot.cric"):
        queue = client(dead_url(), cache, dead_url(), cric.url).queue(DEV, stop)
    assert queue.max_rss_bytes == 1800 << 20
    assert cric.asked == [PANDA_PATH]
    assert "no answer from" in caplog.text


def test_a_bucket_is_last_and_serves_storages_too(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(PANDA_PATH, b'{"error": "no such file"}')
    cric.says(BUCKET_PATH, DEV_JSON)
    cric.says(f"/bucket/{RSE}.json", RSE_JSON)
    asker = client(dead_url(), cache, cric.url, bucket_url=f"{cric.url}/bucket")
    assert asker.queue(DEV, stop).name == DEV
    assert asker.endpoint(RSE, stop).name == RSE
    assert cric.asked == [PANDA_PATH, BUCKET_PATH, f"/bucket/{RSE}.json"]


def test_a_bad_record_in_cric_is_a_reason_to_ask_the_next(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, b'{"DOMA_LSST_DEV": {"status": "strange"}}')
    cric.says(PANDA_PATH, BARE_DEV_JSON)
    assert client(cric.url, cache, cric.url).queue(DEV, stop).name == DEV


def test_when_nothing_answers_the_error_names_every_source_with_exit_71(cache: Path, stop: Stop) -> None:
    with pytest.raises(CricUnreachable) as lost:
        client(dead_url(), cache, dead_url(), bucket_url=dead_url()).queue(DEV, stop)
    assert lost.value.exit_code is ExitCode.NO_QUEUEDATA
    assert len(lost.value.problems) == 3
    assert all(problem.startswith("no answer from 127.0.0.1:") for problem in lost.value.problems)
    assert "\n" not in str(lost.value)


# --- files a person gave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_a_folder_is_the_only_source_and_is_not_cached(cric: Cric, cache: Path, stop: Stop, as_text: bool) -> None:
    asker = client(f"file://{DATA}" if as_text else DATA, cache, cric.url)
    assert asker.queue(DEV, stop).name == DEV
    assert asker.endpoint(RSE, stop).name == RSE
    with pytest.raises(UnknownQueue, match=r"there is no .*/NOT_THERE\.json"):
        asker.queue("NOT_THERE", stop)
    assert cric.asked == [] and not cache.exists()


def test_a_single_file_holds_the_queue(cache: Path, stop: Stop) -> None:
    asker = client(str(DATA / f"{DEV}.json"), cache)
    assert asker.queue(DEV, stop).name == DEV
    with pytest.raises(UnknownQueue):
        asker.queue("OTHER", stop)


def test_a_broken_or_unreadable_file_is_named(tmp_path: Path, cache: Path, stop: Stop) -> None:
    (tmp_path / f"{DEV}.json").write_text("{")
    os.mkfifo(tmp_path / f"{RSE}.json")
    asker = client(tmp_path, cache)
    with pytest.raises(BadQueueData, match=rf"/{DEV}\.json gave no JSON"):
        asker.queue(DEV, stop)
    with pytest.raises(BadEndpointData, match="not a regular file"):
        asker.endpoint(RSE, stop)


# --- the cache ---------------------------------------------------------------------------------------------------------


def test_a_fresh_cached_record_is_used_without_asking(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    first = client(cric.url, cache).queue(DEV, stop)
    age(cached_file(cache), hours=2.9)
    assert client(cric.url, cache).queue(DEV, stop) == first
    assert len(cric.asked) == 1


@pytest.mark.parametrize("hours", [3.1, -1.0])
def test_a_cached_record_that_is_old_or_from_the_future_is_fetched_anew(
    cric: Cric, cache: Path, stop: Stop, hours: float
) -> None:
    cric.says(CRIC_PATH, DEV_JSON, DEV_JSON.replace(b'"maxrss": 1800', b'"maxrss": 1900'))
    client(cric.url, cache).queue(DEV, stop)
    age(cached_file(cache), hours)
    assert client(cric.url, cache).queue(DEV, stop).max_rss_bytes == 1900 << 20
    assert abs(cached_file(cache).stat().st_mtime - time.time()) < 60


def test_an_old_record_is_used_with_a_warning_when_nobody_answers(
    cric: Cric, cache: Path, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    client(cric.url, cache).queue(DEV, stop)
    age(cached_file(cache), hours=48)
    cric.says(CRIC_PATH, Reply(b"down", 500))
    with caplog.at_level(logging.WARNING, "pilot.cric"):
        assert client(cric.url, cache).queue(DEV, stop).name == DEV
    assert "no source has it, so the record of 48.0 hours ago" in caplog.text
    age(cached_file(cache), hours=31 * 24)
    with pytest.raises(CricUnreachable):
        client(cric.url, cache).queue(DEV, stop)


def test_an_old_record_is_not_used_against_crics_word_that_the_queue_is_gone(
    cric: Cric, cache: Path, stop: Stop
) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    client(cric.url, cache).queue(DEV, stop)
    age(cached_file(cache), hours=48)
    cric.says(CRIC_PATH, b"{}")
    with pytest.raises(UnknownQueue):
        client(cric.url, cache).queue(DEV, stop)


def test_a_record_from_another_cric_is_not_used(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    client(cric.url, cache).queue(DEV, stop)
    with pytest.raises(CricUnreachable):
        client(dead_url(), cache).queue(DEV, stop)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"source": "x"}', b"\xff"])
def test_a_spoilt_cache_file_is_left_aside_and_replaced(cric: Cric, cache: Path, stop: Stop, content: bytes) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    cache.mkdir()
    cached_file(cache).write_bytes(content)
    assert client(cric.url, cache).queue(DEV, stop).name == DEV
    assert json.loads(cached_file(cache).read_bytes())["source"] == cric.url + CRIC_PATH


def test_a_cached_record_that_is_no_queue_any_more_is_fetched_anew(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    cache.mkdir()
    cached_file(cache).write_text(
        json.dumps({"source": cric.url + CRIC_PATH, "document": {DEV: {"status": "strange"}}})
    )
    assert client(cric.url, cache).queue(DEV, stop).name == DEV


def test_the_cache_keeps_the_raw_record_and_is_the_pilots_alone(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    client(cric.url, cache).queue(DEV, stop)
    kept = json.loads(cached_file(cache).read_bytes())
    assert kept["document"] == json.loads(DEV_JSON)
    assert kept["source"] == cric.url + CRIC_PATH
    assert kept["fetched_at"].endswith("+00:00")
    assert stat.S_IMODE(cached_file(cache).stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [path.name for path in cache.iterdir()] == [cached_file(cache).name]


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    cric: Cric, tmp_path: Path, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "pilot.cric"):
        assert client(cric.url, tmp_path / "file" / "cache").queue(DEV, stop).name == DEV
    assert "could not be cached" in caplog.text


def test_many_writers_at_once_never_show_half_a_record(cric: Cric, cache: Path, stop: Stop) -> None:
    cric.says(CRIC_PATH, DEV_JSON)
    seen: list[str] = []

    def write() -> None:
        asker = CricClient(cric.url, (), cache, max_age_s=-1e9, policy=QUICK)  # nothing is ever fresh
        seen.extend(asker.queue(DEV, stop).name for _ in range(10))

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    looks = 0
    while any(writer.is_alive() for writer in writers):
        if cached_file(cache).exists():
            assert json.loads(cached_file(cache).read_bytes())["document"].keys() == {DEV}
            looks += 1
    for writer in writers:
        writer.join()
    assert seen == [DEV] * 60 and looks
    assert [path.name for path in cache.iterdir()] == [cached_file(cache).name]
