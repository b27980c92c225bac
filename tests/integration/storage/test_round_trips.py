"""Every store, up and down, against real servers."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest
import requests

from pilot.job.model import Checksum
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.storage.download import LARGE_BYTES, fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import (
    AccessRefused,
    BadUrl,
    ChecksumMismatch,
    MissingCredentials,
    NotFound,
    ObjectHeaders,
    SizeMismatch,
    Stores,
    TooLarge,
    Untrusted,
)
from pilot.storage.upload import FILE_PART_BYTES, StreamUpload, send
from tests.integration.storage.conftest import Tls
from tests.integration.storage.servers import StoreServers

ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=5)
BUCKETS = pytest.mark.parametrize("bucket", ["gs://outputs", "s3://outputs"])
SMALL = b"a line of a log\n" * 1000
LARGE = bytes(range(256)) * 4096 * 9 + b"odd"  # 9 MiB and a bit


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


@BUCKETS
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_what_is_sent_comes_back(bucket: str, content: bytes, stores: Stores, tmp_path: Path) -> None:
    url = f"{bucket}/there and/back+{len(content)}#1?.bin"
    sent = send(stores, _file(tmp_path, content), url, Stop())
    fetched = fetch(
        stores, url, tmp_path / "target", Stop(), checksum=Checksum("md5", hashlib.md5(content).hexdigest())
    )
    assert (tmp_path / "target").read_bytes() == content
    assert sent.size_bytes == fetched.size_bytes == len(content)
    assert sent.adler32 == fetched.adler32 == f"{zlib.adler32(content):08x}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


@pytest.mark.parametrize("bucket", ["gs://outputs", "s3://outputs", "file://{}/disk"])
def test_what_is_removed_is_no_more_and_may_be_removed_again(bucket: str, stores: Stores, tmp_path: Path) -> None:
    url = f"{bucket.format(tmp_path)}/gone #1?.bin"
    store = stores.for_url(url)
    send(stores, _file(tmp_path, SMALL), url, Stop())
    assert store.stat(url, Stop()).size_bytes == len(SMALL)
    store.remove(url, Stop())
    with pytest.raises(NotFound):
        store.stat(url, Stop())
    store.remove(url, Stop())


def test_nothing_is_removed_from_a_plain_web_server(stores: Stores) -> None:
    with pytest.raises(BadUrl, match="nothing is changed on plain https servers"):
        stores.for_url("https://localhost/x").remove("https://localhost/x", Stop())


@BUCKETS
def test_a_large_file_goes_in_parts_and_comes_in_spans(bucket: str, stores: Stores, tmp_path: Path) -> None:
    content = LARGE * 8
    assert len(content) > max(FILE_PART_BYTES, LARGE_BYTES)
    adler32 = Checksum("adler32", f"{zlib.adler32(content):08x}")
    sent = send(stores, _file(tmp_path, content), f"{bucket}/large", Stop())
    fetched = fetch(stores, f"{bucket}/large", tmp_path / "target", Stop(), size_bytes=len(content), checksum=adler32)
    assert sent.adler32 == fetched.adler32 == adler32.hexdigest
    assert fetched.path.read_bytes() == content


@pytest.mark.parametrize("place", ["gs://outputs", "s3://outputs", "disk"])
def test_what_was_stored_can_be_removed_and_what_is_not_there_is_removed_already(
    place: str, stores: Stores, tmp_path: Path
) -> None:
    url = f"{tmp_path / 'disk'}/probe é+#.txt" if place == "disk" else f"{place}/check/probe é+#.txt"
    store = stores.for_url(url)
    send(stores, _file(tmp_path, SMALL), url, Stop())
    store.remove(url, Stop())
    with pytest.raises(NotFound):
        store.stat(url, Stop())
    store.remove(url, Stop())


def test_a_place_without_rights_or_outside_of_what_may_be_used_is_not_removed_from(
    stores: Stores, store_servers: StoreServers, tls: Tls, tmp_path: Path
) -> None:
    wrong_key = tmp_path / "key.yaml"
    wrong_key.write_text("access_key: NOBODY\nsecret_key: nothing-at-all\n")
    strangers = open_stores(
        StorageOptions(ca_path=str(tls.ca), s3_endpoint=store_servers.s3_url, s3_key_file=wrong_key)
    )
    with pytest.raises(AccessRefused):
        strangers.for_url("s3://outputs/x").remove("s3://outputs/x", Stop())
    strangers.close()
    outside = tmp_path / "outside"
    outside.write_text("")
    with pytest.raises(BadUrl):
        stores.for_url(str(outside)).remove(str(outside), Stop())
    assert outside.exists()


@BUCKETS
@pytest.mark.parametrize("pieces", [0, 1, 30])
def test_a_stream_is_stored_whole(bucket: str, pieces: int, stores: Stores, tmp_path: Path) -> None:
    upload = StreamUpload(stores, f"{bucket}/stream{pieces}", Stop(), ObjectHeaders("application/gzip"))
    for _piece in range(pieces):
        upload.write(LARGE[: 1 << 20])
    stored = upload.finish()
    upload.abandon()
    fetched = fetch(stores, f"{bucket}/stream{pieces}", tmp_path / "target", Stop())
    assert fetched.path.read_bytes() == LARGE[: 1 << 20] * pieces
    assert (stored.size_bytes, stored.adler32) == (fetched.size_bytes, fetched.adler32)


@BUCKETS
def test_an_object_can_be_written_again(bucket: str, stores: Stores, tmp_path: Path) -> None:
    for content in (b"first", b"second and longer", b"3"):
        send(stores, _file(tmp_path, content), f"{bucket}/again", Stop())
    fetch(stores, f"{bucket}/again", tmp_path / "target", Stop())
    assert (tmp_path / "target").read_bytes() == b"3"


@BUCKETS
def test_a_missing_object_is_told_apart_at_once(bucket: str, stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no/such/thing"):
        fetch(stores, f"{bucket}/no/such/thing", tmp_path / "target", Stop())
    assert list(tmp_path.iterdir()) == []


@BUCKETS
def test_a_wrong_checksum_is_refused(bucket: str, stores: Stores, tmp_path: Path) -> None:
    send(stores, _file(tmp_path, SMALL), f"{bucket}/sum", Stop())
    with pytest.raises(ChecksumMismatch, match="adler32:0000000f was expected") as refused:
        fetch(stores, f"{bucket}/sum", tmp_path / "x", Stop(), checksum=Checksum("adler32", "0000000f"), policy=ONCE)
    assert refused.value.algorithm == "adler32"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@BUCKETS
@pytest.mark.parametrize("announced", [len(SMALL) - 1, len(SMALL) + 1])
def test_a_wrong_size_is_refused(bucket: str, announced: int, stores: Stores, tmp_path: Path) -> None:
    send(stores, _file(tmp_path, SMALL), f"{bucket}/size", Stop())
    with pytest.raises(SizeMismatch, match=str(announced)):
        fetch(stores, f"{bucket}/size", tmp_path / "target", Stop(), size_bytes=announced, policy=ONCE)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@BUCKETS
def test_more_than_allowed_is_refused(bucket: str, stores: Stores, tmp_path: Path) -> None:
    send(stores, _file(tmp_path, SMALL), f"{bucket}/big", Stop())
    with pytest.raises(TooLarge):
        fetch(stores, f"{bucket}/big", tmp_path / "target", Stop(), max_bytes=len(SMALL) - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@BUCKETS
def test_a_stopped_scope_moves_nothing(bucket: str, stores: Stores, tmp_path: Path) -> None:
    send(stores, _file(tmp_path, SMALL), f"{bucket}/stop", Stop())
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    with pytest.raises(Stopped):
        fetch(stores, f"{bucket}/stop", tmp_path / "target", stop)
    with pytest.raises(Stopped):
        send(stores, tmp_path / "source", f"{bucket}/stop", stop)


def test_a_log_is_served_as_text_that_is_not_cached(
    stores: Stores, store_servers: StoreServers, tls: Tls, tmp_path: Path
) -> None:
    url = "gs://outputs/logs/DOMA_LSST_DEV/PandaJob_1/payload.stdout"
    headers = ObjectHeaders("text/plain; charset=utf-8", cache_control="no-cache")
    send(stores, _file(tmp_path, SMALL), url, Stop(), headers=headers)
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(url.replace("gs://", f"{store_servers.gcs_url}/"), verify=str(tls.ca), timeout=5)
    assert answer.content == SMALL
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"


def test_a_plain_web_download_is_verified(stores: Stores, store_servers: StoreServers, tmp_path: Path) -> None:
    send(stores, _file(tmp_path, SMALL), "gs://outputs/public/image.sif", Stop())
    url = f"{store_servers.gcs_url}/outputs/public/image.sif"
    digest = hashlib.sha256(SMALL).hexdigest()
    fetch(stores, url, tmp_path / "image.sif", Stop(), checksum=Checksum("sha256", digest), max_bytes=1 << 20)
    assert (tmp_path / "image.sif").read_bytes() == SMALL


def test_local_files_below_the_roots_are_moved(stores: Stores, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/disk/a/b/c"
    assert send(stores, _file(tmp_path, SMALL), url, Stop()).size_bytes == len(SMALL)
    fetch(stores, str(tmp_path / "disk/a/b/c"), tmp_path / "target", Stop(), size_bytes=len(SMALL))
    assert (tmp_path / "target").read_bytes() == SMALL


@pytest.mark.parametrize("scheme", ["gs", "s3", "https"])
def test_an_unknown_authority_is_never_trusted(
    scheme: str, store_servers: StoreServers, s3_key_file: Path, tmp_path: Path
) -> None:
    stores = open_stores(
        StorageOptions(
            s3_endpoint=store_servers.s3_url,
            s3_key_file=s3_key_file,
            gcs_endpoint=store_servers.gcs_url,
            metadata_url=None,
        )
    )
    host = store_servers.gcs_url.removeprefix("https://") + "/" if scheme == "https" else ""
    with pytest.raises(Untrusted):
        fetch(stores, f"{scheme}://{host}outputs/x", tmp_path / "target", Stop())
    stores.close()


def test_a_wrong_s3_secret_is_refused_and_not_told(store_servers: StoreServers, tls: Tls, tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    key_file.write_text('{"access_key": "GOOGTESTACCESSKEY", "secret_key": "wrong-secret"}')
    stores = open_stores(StorageOptions(ca_path=str(tls.ca), s3_endpoint=store_servers.s3_url, s3_key_file=key_file))
    with pytest.raises(AccessRefused) as refused:
        fetch(stores, "s3://outputs/x", tmp_path / "target", Stop())
    assert "wrong-secret" not in str(refused.value)
    stores.close()


def test_a_rotated_s3_key_is_taken_up(store_servers: StoreServers, tls: Tls, s3_key_file: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    key_file.write_text('{"access_key": "GOOGTESTACCESSKEY", "secret_key": "wrong-secret"}')
    stores = open_stores(StorageOptions(ca_path=str(tls.ca), s3_endpoint=store_servers.s3_url, s3_key_file=key_file))
    source = _file(tmp_path, SMALL)
    with pytest.raises(AccessRefused):
        send(stores, source, "s3://outputs/rotated", Stop())
    key_file.write_text(s3_key_file.read_text())
    assert send(stores, source, "s3://outputs/rotated", Stop()).size_bytes == len(SMALL)
    stores.close()


@pytest.mark.parametrize("content", [None, "", "access_key: only", "[1, 2]", "{not yaml"])
def test_an_unusable_s3_key_file_is_named(content: str | None, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    if content is not None:
        key_file.write_text(content)
    stores = open_stores(StorageOptions(s3_key_file=key_file))
    with pytest.raises(MissingCredentials, match=str(key_file)):
        fetch(stores, "s3://outputs/x", tmp_path / "target", Stop())


def test_an_url_without_an_object_is_refused(stores: Stores, tmp_path: Path) -> None:
    for url in ("gs://outputs", "s3://outputs/", "s3:///x", "ftp://host/x", "outputs/x", "http://localhost/x"):
        with pytest.raises(BadUrl):
            fetch(stores, url, tmp_path / "target", Stop())
