"""What goes wrong on the wire: recovered where another try can help, refused where it cannot, and never a wrong file."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.job.model import Checksum
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.storage.checksum import Checksums
from pilot.storage.download import fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import AccessRefused, ChecksumMismatch, Refused, StoreError, Stores, TimedOut, Unavailable
from pilot.storage.transfer import Slowest
from pilot.storage.upload import send
from tests.integration.storage.conftest import Tls
from tests.integration.storage.loopback import Loopback, Recorded, Reply, serving

ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=20)
QUICK = RetryPolicy("quick", tries=4, first_s=0.01, cap_s=0.02, total_s=20)
CONTENT = bytes(range(256)) * 1024 * 4  # 1 MiB
FLIPPED = CONTENT[:5000] + bytes([CONTENT[5000] ^ 1]) + CONTENT[5001:]
SCHEMES = pytest.mark.parametrize("scheme", ["gs", "s3", "https"])


def crc32c_of(content: bytes) -> str:
    """As ``x-goog-hash`` has it."""
    sums = Checksums(("crc32c",))
    sums.update(content)
    found = sums.get("crc32c")
    assert found is not None
    return base64.b64encode(bytes.fromhex(found.hexdigest)).decode()


def whole(body: bytes = CONTENT) -> Reply:
    crc32c = crc32c_of(CONTENT)
    return Reply(200, body, {"x-goog-hash": f"crc32c={crc32c}", "ETag": '"x"'})


def cut(at: int, reset: bool = False) -> Reply:
    return Reply(200, CONTENT, {"x-goog-hash": whole().headers["x-goog-hash"], "ETag": '"x"'}, cut=at, reset=reset)


def adler32() -> Checksum:
    sums = Checksums(("adler32",))
    sums.update(CONTENT)
    return Checksum("adler32", sums.adler32)


class Lab:
    def __init__(self, tls: Tls, key_file: Path, stack: ExitStack) -> None:
        self._tls, self._key_file, self._stack = tls, key_file, stack

    def serve(self, answer: Callable[[Recorded], Reply]) -> tuple[Loopback, Stores]:
        server = self._stack.enter_context(serving(answer, self._tls.server))
        options = StorageOptions(
            str(self._tls.ca), server.url, s3_key_file=self._key_file, gcs_endpoint=server.url, metadata_url=None
        )
        stores = open_stores(options)
        self._stack.callback(stores.close)
        return server, stores

    def replies(self, *replies: Reply) -> tuple[Loopback, Stores]:
        """The replies in turn; the last one again and again."""
        left = list(replies)
        return self.serve(lambda request: left.pop(0) if len(left) > 1 else left[0])


@pytest.fixture
def lab(tls: Tls, s3_key_file: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(tls, s3_key_file, stack)


def url_of(scheme: str, server: Loopback) -> str:
    return f"{server.url}/bucket/object" if scheme == "https" else f"{scheme}://bucket/object"


@SCHEMES
@pytest.mark.parametrize(
    "fault",
    [cut(300_000), cut(300_000, reset=True), cut(0), Reply(503), Reply(429), Reply(500), Reply(408)],
    ids=["truncated", "reset", "empty", "503", "429", "500", "408"],
)
def test_what_passes_is_tried_again(scheme: str, fault: Reply, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(fault, whole())
    fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), checksum=adler32(), policy=QUICK)
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert len(list(tmp_path.iterdir())) == 1


@SCHEMES
def test_a_flipped_bit_is_repaired_by_another_try(scheme: str, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(whole(FLIPPED), whole())
    fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), checksum=adler32(), policy=QUICK)
    assert (tmp_path / "target").read_bytes() == CONTENT


@SCHEMES
def test_a_flipped_bit_that_stays_is_refused_and_leaves_nothing(scheme: str, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(whole(FLIPPED))
    with pytest.raises(ChecksumMismatch):
        fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), checksum=adler32(), policy=QUICK)
    assert len(server.requests) == 2  # the same wrong bytes twice are enough
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_flipped_bit_is_seen_without_a_checksum_from_the_job(scheme: str, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(whole(FLIPPED))
    with pytest.raises(ChecksumMismatch, match="crc32c"):
        fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), policy=QUICK)


@SCHEMES
def test_what_never_gets_better_is_given_up(scheme: str, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(Reply(503))
    with pytest.raises(Unavailable, match="503"):
        fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), policy=QUICK)
    assert len(server.requests) == QUICK.tries


@SCHEMES
@pytest.mark.parametrize("status", [400, 412, 418])
def test_what_is_refused_for_good_is_not_asked_again(scheme: str, status: int, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(Reply(status))
    with pytest.raises(Refused, match=str(status)):
        fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), policy=QUICK)
    assert len(server.requests) == 1


@SCHEMES
def test_the_store_s_own_waiting_time_is_kept(scheme: str, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(Reply(503, headers={"Retry-After": "1"}), whole())
    began_s = time.monotonic()
    fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), policy=QUICK)
    assert time.monotonic() - began_s >= 1.0


@SCHEMES
def test_a_stop_ends_a_transfer_at_its_next_block(scheme: str, lab: Lab, tmp_path: Path) -> None:
    stop, go_on = Stop(), threading.Event()

    def answer(request: Recorded) -> Reply:
        return Reply(200, CONTENT, {"x-goog-hash": whole().headers["x-goog-hash"], "ETag": '"x"'}, 300_000, stall=go_on)

    server, stores = lab.serve(answer)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fetch(stores, url_of(scheme, server), tmp_path / "target", stop, policy=QUICK)
        except Stopped as stopped:
            failures.append(stopped)

    thread = threading.Thread(target=run)
    thread.start()
    while not any(path.stat().st_size > 200_000 for path in tmp_path.glob(".*.part")):
        assert thread.is_alive()
        time.sleep(0.005)
    stop.request(StopReason(StopKind.SIGTERM))
    go_on.set()
    thread.join(10)
    assert isinstance(failures[0], Stopped)
    assert list(tmp_path.iterdir()) == []


@SCHEMES
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_stop_ends_a_transfer_whose_peer_is_silent(scheme: str, connection: str, lab: Lab, tmp_path: Path) -> None:
    stop, never = Stop(), threading.Event()
    headers = {**whole().headers, "Connection": connection}
    server, stores = lab.replies(replace(whole(), headers=headers, cut=300_000, stall=never))
    ended: list[BaseException] = []

    def run() -> None:
        try:
            fetch(stores, url_of(scheme, server), tmp_path / "target", stop, policy=QUICK)
        except Stopped as stopped:
            ended.append(stopped)

    thread = threading.Thread(target=run)
    thread.start()
    while not any(path.stat().st_size > 200_000 for path in tmp_path.glob(".*.part")):
        assert thread.is_alive()
        time.sleep(0.005)
    stop.request(StopReason(StopKind.SIGTERM))
    thread.join(3)
    assert not thread.is_alive()
    assert isinstance(ended[0], Stopped)
    assert list(tmp_path.iterdir()) == []
    never.set()


@SCHEMES
def test_a_trickle_is_given_up(scheme: str, lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(replace(whole(), trickle=True))
    with pytest.raises(TimedOut, match="moved only"):
        fetch(stores, url_of(scheme, server), tmp_path / "t", Stop(), policy=ONCE, slowest=Slowest(1024, 0.3))


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_an_upload_is_tried_again_from_its_start(scheme: str, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    kept: list[Recorded] = []

    def answer(request: Recorded) -> Reply:
        if request.method in ("PUT", "POST"):
            kept.append(request)
            if len(kept) == 1:
                return Reply(503)
        crc32c = crc32c_of(CONTENT)
        if scheme == "gs":
            return Reply(200, f'{{"size": "{len(CONTENT)}", "crc32c": "{crc32c}"}}'.encode())
        return Reply(
            200,
            b"",
            {"x-goog-hash": f"crc32c={crc32c}", "Content-Length": str(len(CONTENT))}
            if request.method == "HEAD"
            else {},
        )

    _server, stores = lab.serve(answer)
    stored = send(stores, tmp_path / "source", f"{scheme}://bucket/o", Stop(), policy=QUICK)
    assert stored.size_bytes == len(CONTENT)
    assert stored.adler32 == adler32().hexdigest
    assert len(kept) == 2
    assert CONTENT in kept[1].body


def test_a_store_that_keeps_other_bytes_is_found_out(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    other = crc32c_of(FLIPPED)
    _server, stores = lab.replies(Reply(200, f'{{"size": "{len(CONTENT)}", "crc32c": "{other}"}}'.encode()))
    with pytest.raises(ChecksumMismatch):
        send(stores, tmp_path / "source", "gs://bucket/o", Stop(), policy=QUICK)


def test_nobody_at_the_other_end_is_a_sentence(lab: Lab, tmp_path: Path) -> None:
    stores = open_stores(
        StorageOptions(
            s3_endpoint="https://127.0.0.1:9",
            s3_key_file=lab._key_file,
            gcs_endpoint="https://127.0.0.1:9",
            metadata_url=None,
        )
    )
    for url in ("gs://bucket/o", "s3://bucket/o", "https://127.0.0.1:9/o"):
        with pytest.raises(Unavailable, match="the connection failed: Connection refused"):
            fetch(stores, url, tmp_path / "target", Stop(), policy=QUICK)
    stores.close()


def test_a_web_redirect_is_followed_on_the_same_host_only(lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.serve(
        lambda request: whole() if request.path == "/b" else Reply(302, headers={"Location": "/b"})
    )
    fetch(stores, f"{server.url}/a", tmp_path / "target", Stop(), policy=QUICK)
    _plain, stores = lab.replies(Reply(302, headers={"Location": "http://169.254.169.254/token"}))
    with pytest.raises(StoreError, match="redirects to another host"):
        fetch(stores, f"{_plain.url}/a", tmp_path / "target", Stop(), policy=QUICK)


def test_a_signature_in_a_query_is_not_told(lab: Lab, tmp_path: Path) -> None:
    server, stores = lab.replies(Reply(403))
    with pytest.raises(StoreError) as refused:
        fetch(stores, f"{server.url}/image.sif?X-Goog-Signature=hush", tmp_path / "target", Stop(), policy=QUICK)
    assert "hush" not in str(refused.value)


@SCHEMES
def test_a_store_that_closes_after_each_answer_is_read_to_the_end(lab: Lab, scheme: str, tmp_path: Path) -> None:
    closing = Reply(200, CONTENT, {**whole().headers, "Connection": "close"})
    server, stores = lab.serve(lambda _request: closing)
    for number in range(3):
        fetch(stores, url_of(scheme, server), tmp_path / f"target{number}", Stop(), checksum=adler32(), policy=ONCE)
        assert (tmp_path / f"target{number}").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["gs://unread/object", "s3://unread/object"])
def test_a_store_that_refuses_before_it_has_read_the_file_is_understood(lab: Lab, url: str, tmp_path: Path) -> None:
    """It answers and hangs up while the bytes are still on their way: what it said counts, and not that it hung up."""
    (tmp_path / "source").write_bytes(CONTENT * 40)
    server, stores = lab.serve(lambda _request: Reply(500))
    refused = 0
    for _ in range(20):
        try:
            send(stores, tmp_path / "source", url, Stop(), policy=ONCE)
        except AccessRefused as error:
            assert "403" in str(error)
            refused += 1
        except Unavailable:  # a reset can overtake the answer: then nobody can know it
            continue
    assert refused >= 1 and len(server.requests) >= 20
