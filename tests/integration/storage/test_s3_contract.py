"""What our S3 requests look like. The servers of the tests are laxer than Google: these tests bind the request itself."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.download import fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import ChecksumMismatch, ObjectHeaders, StoreFull
from pilot.storage.upload import send
from tests.integration.storage.conftest import Tls
from tests.integration.storage.loopback import Recorded, Reply, serving

ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=5)
CONTENT = b"hello"
MD5 = hashlib.md5(CONTENT).hexdigest()
CRC32C = base64.b64encode(bytes.fromhex("9a71bb4c")).decode()


def like_google(request: Recorded) -> Reply:
    """An object store that describes every object as ``hello``."""
    headers = {"ETag": f'"{MD5}"', "x-goog-hash": f"crc32c={CRC32C}, md5=ignored"}
    if request.method == "PUT":
        return Reply(200, b"", headers)
    if request.method == "HEAD":
        return Reply(200, b"", {**headers, "Content-Length": str(len(CONTENT))})
    return Reply(200, CONTENT, headers)


def test_a_put_is_plain_signed_and_carries_nothing_google_refuses(tls: Tls, s3_key_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with serving(like_google, tls.server) as server:
        stores = open_stores(StorageOptions(str(tls.ca), server.url, s3_key_file=s3_key_file))
        headers = ObjectHeaders("text/plain", "no-cache", "gzip")
        send(stores, source, "s3://bucket/a/b c", Stop(), headers=headers, policy=ONCE)
        fetch(stores, "s3://bucket/a/b c", tmp_path / "target", Stop(), policy=ONCE)
        stores.close()
    put, get = server.requests
    assert [put.method, get.method] == ["PUT", "GET"]
    assert put.body == CONTENT
    assert put.headers["content-length"] == "5"
    assert put.headers["content-type"] == "text/plain"
    assert put.headers["cache-control"] == "no-cache"
    assert put.headers["content-encoding"] == "gzip"
    for request in server.requests:
        assert request.path == "/bucket/a/b%20c"
        names = " ".join(request.headers)
        assert "x-amz-checksum" not in names
        assert "x-amz-sdk-checksum" not in names
        assert "x-amz-trailer" not in names
        assert "x-amz-security-token" not in names
        assert "transfer-encoding" not in names
        assert "aws-chunked" not in str(request.headers)
        assert "TRAP" not in str(request.headers)
        authorization = request.headers["authorization"]
        assert authorization.startswith("AWS4-HMAC-SHA256 Credential=GOOGTESTACCESSKEY/")
        assert "/auto/s3/aws4_request" in authorization
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


@pytest.mark.parametrize("content", [b"hellp", b"hell"])
def test_an_object_that_is_not_what_was_sent_is_not_stored(
    tls: Tls, s3_key_file: Path, tmp_path: Path, content: bytes
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    with serving(like_google, tls.server) as server:
        stores = open_stores(StorageOptions(str(tls.ca), server.url, s3_key_file=s3_key_file))
        with pytest.raises(ChecksumMismatch):
            send(stores, source, "s3://bucket/o", Stop(), policy=ONCE)
        stores.close()


def test_an_etag_that_is_no_md5_is_not_compared(tls: Tls, s3_key_file: Path, tmp_path: Path) -> None:
    def in_parts(request: Recorded) -> Reply:
        return Reply(200, CONTENT, {"ETag": f'"{"0" * 32}-3"', "Content-Length": "5"})

    with serving(in_parts, tls.server) as server:
        stores = open_stores(StorageOptions(str(tls.ca), server.url, s3_key_file=s3_key_file))
        fetch(stores, "s3://bucket/o", tmp_path / "target", Stop(), policy=ONCE)
        stores.close()


def test_an_etag_that_is_an_md5_is_compared(tls: Tls, s3_key_file: Path, tmp_path: Path) -> None:
    with serving(lambda request: Reply(200, CONTENT, {"ETag": f'"{"0" * 32}"'}), tls.server) as server:
        stores = open_stores(StorageOptions(str(tls.ca), server.url, s3_key_file=s3_key_file))
        with pytest.raises(ChecksumMismatch, match="md5"):
            fetch(stores, "s3://bucket/o", tmp_path / "target", Stop(), policy=ONCE)
        stores.close()


def test_a_full_store_is_told_apart(tls: Tls, s3_key_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with serving(lambda request: Reply(507), tls.server) as server:
        stores = open_stores(StorageOptions(str(tls.ca), server.url, s3_key_file=s3_key_file))
        with pytest.raises(StoreFull):
            send(stores, source, "s3://bucket/o", Stop())
        stores.close()
    assert len(server.requests) == 1


def test_a_door_may_name_the_server_before_the_bucket(tls: Tls, s3_key_file: Path, tmp_path: Path) -> None:
    with serving(like_google, tls.server) as server:
        stores = open_stores(StorageOptions(str(tls.ca), server.url, s3_key_file=s3_key_file))
        fetch(stores, f"s3://{server.url.removeprefix('https://')}/bucket/o", tmp_path / "target", Stop(), policy=ONCE)
        stores.close()
    assert server.paths() == ["/bucket/o"]
