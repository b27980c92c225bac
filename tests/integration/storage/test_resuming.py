"""Transfers that are cut are taken up again where they were cut, in the words of each store's protocol."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pilot.job.model import Checksum
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.download import SPAN_BYTES, fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import Refused, Stores
from pilot.storage.upload import FILE_PART_BYTES, send
from tests.integration.storage.conftest import Tls
from tests.integration.storage.loopback import Loopback, Recorded, Reply, serving
from tests.integration.storage.test_faults import crc32c_of

QUICK = RetryPolicy("quick", tries=3, first_s=0.01, cap_s=0.02, total_s=30)
BLOCK = bytes(range(256)) * 4096  # 1 MiB
CONTENT = BLOCK * 3
LARGE = BLOCK * (2 * SPAN_BYTES >> 20) + b"and a rest"
SCHEMES = pytest.mark.parametrize("scheme", ["gs", "s3", "https"])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, tls: Tls, key_file: Path, server: Loopback) -> Stores:
    options = StorageOptions(str(tls.ca), server.url, s3_key_file=key_file, gcs_endpoint=server.url, metadata_url=None)
    stores = open_stores(options)
    stack.callback(stores.close)
    return stores


def url_of(scheme: str, server: Loopback) -> str:
    return f"{server.url}/bucket/object" if scheme == "https" else f"{scheme}://bucket/object"


# --- downloads --------------------------------------------------------------------------------------------------------


class Shelf:
    """An object served in parts; each answer but every ``whole_after``-th is cut after so many bytes."""

    def __init__(self, content: bytes, cut_bytes: int, cuts: int) -> None:
        self.content, self.cut_bytes, self.cuts = content, cut_bytes, cuts

    def __call__(self, request: Recorded) -> Reply:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        first, last = (int(found[1]), int(found[2] or len(self.content) - 1)) if found else (0, len(self.content) - 1)
        body = self.content[first : last + 1]
        headers = {"x-goog-hash": f"crc32c={crc32c_of(self.content)}", "ETag": '"v1"', "x-goog-generation": "17"}
        if found:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(self.content)}"
        cut = None
        if self.cuts and len(body) > self.cut_bytes:
            self.cuts, cut = self.cuts - 1, self.cut_bytes
        return Reply(206 if found else 200, body, headers, cut=cut)


@SCHEMES
def test_a_download_goes_on_where_it_was_cut(
    scheme: str, stack: ExitStack, tls: Tls, s3_key_file: Path, tmp_path: Path
) -> None:
    server = stack.enter_context(serving(Shelf(CONTENT, 1_000_000, cuts=2), tls.server))
    stores = opened(stack, tls, s3_key_file, server)
    adler32 = Checksum("adler32", f"{zlib.adler32(CONTENT):08x}")
    fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), checksum=adler32, policy=QUICK)
    assert (tmp_path / "target").read_bytes() == CONTENT
    ranges = [request.headers.get("range", "") for request in server.requests]
    assert len(ranges) == 3
    assert [re.sub(r"\d+", "N", text) for text in ranges] == ["", "bytes=N-", "bytes=N-"]
    assert 0 < int(ranges[1][6:-1]) < int(ranges[2][6:-1])


@SCHEMES
def test_what_is_gone_on_with_is_the_same_object(
    scheme: str, stack: ExitStack, tls: Tls, s3_key_file: Path, tmp_path: Path
) -> None:
    server = stack.enter_context(serving(Shelf(CONTENT, 1_000_000, cuts=1), tls.server))
    stores = opened(stack, tls, s3_key_file, server)
    fetch(stores, url_of(scheme, server), tmp_path / "target", Stop(), policy=QUICK)
    second = server.requests[1]
    assert ("generation=17" in second.path) if scheme == "gs" else (second.headers["if-match"] == '"v1"')


@SCHEMES
def test_the_spans_of_a_large_file_go_on_each_for_itself(
    scheme: str, stack: ExitStack, tls: Tls, s3_key_file: Path, tmp_path: Path
) -> None:
    server = stack.enter_context(serving(Shelf(LARGE, 20_000_000, cuts=2), tls.server))
    stores = opened(stack, tls, s3_key_file, server)
    adler32 = Checksum("adler32", f"{zlib.adler32(LARGE):08x}")
    url = url_of(scheme, server)
    fetch(stores, url, tmp_path / "t", Stop(), checksum=adler32, size_bytes=len(LARGE), policy=QUICK)
    assert (tmp_path / "t").read_bytes() == LARGE
    assert len(server.requests) == 5


# --- uploads ----------------------------------------------------------------------------------------------------------


class Resumable:
    """Google's resumable upload; the part at ``loses_at`` gets no answer once, and ``keeps_bytes`` of it are kept."""

    def __init__(self, loses_at: int, keeps_bytes: int) -> None:
        self.loses_at, self.keeps_bytes = loses_at, keeps_bytes
        self.content = b""
        self.base = ""
        self.asked: list[str] = []

    def __call__(self, request: Recorded) -> Reply:
        if request.method == "POST":
            assert json.loads(request.body)["name"] == "object"
            return Reply(200, b"", {"Location": f"{self.base}/upload/session?upload_id=1"})
        span = request.headers["content-range"]
        self.asked.append(span)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", span)
        if found is None:
            return self._incomplete()
        first = int(found[1])
        assert first == len(self.content)
        if first == self.loses_at:
            self.loses_at = -1
            self.content += request.body[: self.keeps_bytes]
            return Reply(silent=True)
        self.content += request.body
        if found[3] == "*":
            return self._incomplete()
        assert int(found[3]) == len(self.content)
        return Reply(200, json.dumps({"size": found[3], "crc32c": crc32c_of(self.content)}).encode())

    def _incomplete(self) -> Reply:
        return Reply(308, b"", {"Range": f"bytes=0-{len(self.content) - 1}"} if self.content else {})


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "file"
    path.write_bytes(BLOCK * (FILE_PART_BYTES >> 20) + CONTENT)
    return path


@pytest.mark.parametrize("loses_at", [0, FILE_PART_BYTES])
@pytest.mark.parametrize("keeps_bytes", [0, 1 << 18, 1 << 21])
def test_a_resumable_upload_goes_on_with_what_was_not_kept(
    loses_at: int, keeps_bytes: int, stack: ExitStack, tls: Tls, s3_key_file: Path, large_file: Path
) -> None:
    google = Resumable(loses_at, keeps_bytes)
    server = stack.enter_context(serving(google, tls.server))
    google.base = server.url
    stored = send(opened(stack, tls, s3_key_file, server), large_file, "gs://bucket/object", Stop(), policy=QUICK)
    assert google.content == large_file.read_bytes()
    assert stored.adler32 == f"{zlib.adler32(google.content):08x}"
    assert google.asked.count("bytes */*") == 1


def test_an_upload_is_not_led_to_another_host(stack: ExitStack, tls: Tls, s3_key_file: Path, large_file: Path) -> None:
    google = Resumable(-1, 0)
    google.base = "https://elsewhere.example"
    server = stack.enter_context(serving(google, tls.server))
    with pytest.raises(Refused, match="another host"):
        send(opened(stack, tls, s3_key_file, server), large_file, "gs://bucket/object", Stop(), policy=QUICK)


class Multipart:
    """S3's multipart upload; the answer to part ``loses`` is lost once, ``spoils`` arrives changed once."""

    def __init__(self, loses: int = 0, spoils: int = 0) -> None:
        self.loses, self.spoils = loses, spoils
        self.parts: dict[int, bytes] = {}
        self.whole = b""
        self.deleted = False

    def __call__(self, request: Recorded) -> Reply:
        path, _question, query = request.path.partition("?")
        assert path == "/bucket/object"
        if request.method == "POST" and query == "uploads=":
            return Reply(200, b"<X><UploadId>an/id+1</UploadId></X>")
        if request.method == "HEAD":
            return Reply(200, b"", {"Content-Length": str(len(self.whole)), "ETag": '"0123-2"'})
        assert "uploadId=an%2Fid%2B1" in query
        if request.method == "DELETE":
            self.deleted = True
            return Reply(204)
        if request.method == "POST":
            self.whole = b"".join(self.parts[number] for number in sorted(self.parts))
            return Reply(200, b"<CompleteMultipartUploadResult/>")
        number = int(re.search(r"partNumber=(\d+)", query)[1])  # type: ignore[index]
        self.parts[number] = request.body
        if number == self.loses:
            self.loses = 0
            return Reply(silent=True)
        tag = hashlib.md5(request.body).hexdigest()
        if number == self.spoils:
            self.spoils, tag = 0, "0" * 32
        return Reply(200, b"", {"ETag": f'"{tag}"'})


def test_a_multipart_upload_sends_a_lost_part_again(
    stack: ExitStack, tls: Tls, s3_key_file: Path, large_file: Path
) -> None:
    store = Multipart(loses=2)
    server = stack.enter_context(serving(store, tls.server))
    stored = send(opened(stack, tls, s3_key_file, server), large_file, "s3://bucket/object", Stop(), policy=QUICK)
    assert store.whole == large_file.read_bytes()
    assert stored.adler32 == f"{zlib.adler32(store.whole):08x}"
    numbers = [re.search(r"partNumber=(\d+)", request.path) for request in server.requests]
    assert [int(number[1]) for number in numbers if number] == [1, 2, 2]
    assert not store.deleted


def test_a_part_that_arrives_changed_is_found_out(
    stack: ExitStack, tls: Tls, s3_key_file: Path, large_file: Path
) -> None:
    store = Multipart(spoils=1)
    server = stack.enter_context(serving(store, tls.server))
    send(opened(stack, tls, s3_key_file, server), large_file, "s3://bucket/object", Stop(), policy=QUICK)
    assert store.whole == large_file.read_bytes()
    assert store.deleted
