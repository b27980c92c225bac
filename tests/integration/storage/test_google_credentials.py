"""Who we are to Google: a key file against a token endpoint, Workload Identity against a metadata server, nobody."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.storage.download import fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import AccessRefused, MissingCredentials, Stores, Unavailable
from pilot.storage.upload import send
from tests.integration.storage.conftest import Tls, google_key
from tests.integration.storage.loopback import Answer, Loopback, Recorded, Reply, serving

ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=5)
QUICK = RetryPolicy("quick", tries=3, first_s=0.01, cap_s=0.01, total_s=10)
CRC32C_OF_HELLO = base64.b64encode(bytes.fromhex("9a71bb4c")).decode()


def token_reply(token: str, lifetime_s: int = 3600) -> Reply:
    body = json.dumps({"access_token": token, "expires_in": lifetime_s, "token_type": "Bearer"}).encode()
    return Reply(200, body, {"Content-Type": "application/json"})


class Google:
    """A store that takes one token, and whatever else a test starts."""

    def __init__(self, tls: Tls, stack: ExitStack) -> None:
        self._tls, self._stack = tls, stack
        self.good_token = "good-token"
        self.refuse_status: int | None = None
        self.store = self.start(self._answer)

    def start(self, answer: Answer, https: bool = True) -> Loopback:
        return self._stack.enter_context(serving(answer, self._tls.server if https else None))

    def _answer(self, request: Recorded) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.good_token}":
            return Reply(401, b'{"error": {"message": "Invalid Credentials"}}')
        if self.refuse_status:
            return Reply(self.refuse_status, b'{"error": {"message": "does not have storage.objects.get access"}}')
        if request.method == "POST":
            described = {"name": "o", "bucket": "b", "size": "5", "crc32c": CRC32C_OF_HELLO}
            return Reply(200, json.dumps(described).encode(), {"Content-Type": "application/json"})
        return Reply(200, b"hello", {"x-goog-hash": f"crc32c={CRC32C_OF_HELLO}"})

    def stores(self, key_file: Path | None = None, metadata_url: str | None = None) -> Stores:
        opened = open_stores(
            StorageOptions(
                ca_path=str(self._tls.ca),
                gcs_endpoint=self.store.url,
                gcs_key_file=key_file,
                metadata_url=metadata_url,
            )
        )
        self._stack.callback(opened.close)
        return opened


@pytest.fixture
def google(tls: Tls) -> Iterator[Google]:
    with ExitStack() as stack:
        yield Google(tls, stack)


def key_file(tmp_path: Path, pem: str, endpoint: Loopback) -> Path:
    path = tmp_path / "google.json"
    path.write_text(google_key(pem, f"{endpoint.url}/token"))
    return path


def test_a_key_buys_a_token_once_for_many_files(google: Google, rsa_pem: str, tmp_path: Path) -> None:
    endpoint = google.start(lambda request: token_reply("good-token"))
    stores = google.stores(key_file(tmp_path, rsa_pem, endpoint))
    for number in range(3):
        fetch(stores, "gs://b/o", tmp_path / f"target{number}", Stop(), policy=ONCE)
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    assert send(stores, source, "gs://b/o", Stop(), policy=ONCE).size_bytes == 5
    (asked,) = endpoint.requests
    claims = parse_qs(asked.body.decode())["assertion"][0].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"].endswith("/devstorage.read_write")


def test_an_expired_token_is_renewed_on_the_way(google: Google, rsa_pem: str, tmp_path: Path) -> None:
    tokens = iter(["old-token", "good-token"])
    endpoint = google.start(lambda request: token_reply(next(tokens)))
    fetch(google.stores(key_file(tmp_path, rsa_pem, endpoint)), "gs://b/o", tmp_path / "target", Stop(), policy=ONCE)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "Invalid JWT: key expired"}'),
        (401, b'{"error": "unauthorized_client"}'),
        (403, b'{"error": "access_denied"}'),
    ],
)
def test_a_key_the_token_endpoint_refuses_is_refused_access(
    google: Google, rsa_pem: str, tmp_path: Path, status: int, body: bytes
) -> None:
    endpoint = google.start(lambda request: Reply(status, body, {"Content-Type": "application/json"}))
    with pytest.raises(AccessRefused, match="no access token") as refused:
        fetch(google.stores(key_file(tmp_path, rsa_pem, endpoint)), "gs://b/o", tmp_path / "target", Stop())
    assert len(endpoint.requests) == 1
    assert "PRIVATE KEY" not in str(refused.value)


def test_a_token_the_store_never_takes_is_refused_access(google: Google, rsa_pem: str, tmp_path: Path) -> None:
    endpoint = google.start(lambda request: token_reply("bad-token"))
    with pytest.raises(AccessRefused, match="401") as refused:
        fetch(google.stores(key_file(tmp_path, rsa_pem, endpoint)), "gs://b/o", tmp_path / "target", Stop())
    assert "bad-token" not in str(refused.value)


def test_a_forbidden_object_is_refused_access_without_retries(google: Google, rsa_pem: str, tmp_path: Path) -> None:
    endpoint = google.start(lambda request: token_reply("good-token"))
    google.refuse_status = 403
    with pytest.raises(AccessRefused, match="403"):
        fetch(google.stores(key_file(tmp_path, rsa_pem, endpoint)), "gs://b/o", tmp_path / "target", Stop())
    assert len(google.store.requests) == 1


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"private_key": "hush-hush"}', "hush-hush"])
def test_an_unusable_key_file_is_named_and_not_quoted(google: Google, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "google.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MissingCredentials, match=str(path)) as missing:
        fetch(google.stores(path), "gs://b/o", tmp_path / "target", Stop())
    assert "hush-hush" not in repr(missing.value)
    assert missing.value.__cause__ is None or isinstance(missing.value.__cause__, OSError)


def test_a_replaced_key_file_is_taken_up(google: Google, rsa_pem: str, tmp_path: Path) -> None:
    refusing = google.start(lambda request: Reply(401, b'{"error": "unauthorized_client"}'))
    granting = google.start(lambda request: token_reply("good-token"))
    stores = google.stores(key_file(tmp_path, rsa_pem, refusing))
    with pytest.raises(AccessRefused):
        fetch(stores, "gs://b/o", tmp_path / "target", Stop())
    key_file(tmp_path, rsa_pem, granting)
    fetch(stores, "gs://b/o", tmp_path / "target", Stop())


def test_without_a_key_the_metadata_server_is_asked(google: Google, tmp_path: Path) -> None:
    metadata = google.start(lambda request: token_reply("good-token"), https=False)
    fetch(google.stores(metadata_url=metadata.url), "gs://b/o", tmp_path / "target", Stop())
    (asked,) = metadata.requests
    assert asked.path == "/computeMetadata/v1/instance/service-accounts/default/token"
    assert asked.headers["metadata-flavor"] == "Google"


def test_a_metadata_server_that_is_late_is_asked_again(google: Google, tmp_path: Path) -> None:
    replies = iter([Reply(503), Reply(503), token_reply("good-token")])
    metadata = google.start(lambda request: next(replies), https=False)
    fetch(google.stores(metadata_url=metadata.url), "gs://b/o", tmp_path / "target", Stop(), policy=QUICK)


@pytest.mark.parametrize("reply", [Reply(404), Reply(200, b"what?"), Reply(200, b"[]"), Reply(200, b"{}")])
def test_a_metadata_server_without_a_token_is_refused_access(google: Google, tmp_path: Path, reply: Reply) -> None:
    metadata = google.start(lambda request: reply, https=False)
    with pytest.raises(AccessRefused, match="metadata server"):
        fetch(google.stores(metadata_url=metadata.url), "gs://b/o", tmp_path / "target", Stop())


def test_no_metadata_server_is_a_sentence(google: Google, tmp_path: Path) -> None:
    stores = google.stores(metadata_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no Google key file is set and the metadata server gives no token"):
        fetch(stores, "gs://b/o", tmp_path / "target", Stop(), policy=QUICK)


def test_nobody_may_read_what_is_public_and_write_nothing(google: Google, tmp_path: Path) -> None:
    with pytest.raises(AccessRefused):
        fetch(google.stores(), "gs://b/o", tmp_path / "target", Stop())
    assert "authorization" not in google.store.requests[0].headers


def test_only_the_object_is_ever_asked_for(google: Google, rsa_pem: str, tmp_path: Path) -> None:
    """Not the bucket: that would need storage.buckets.get. No access lists either."""
    endpoint = google.start(lambda request: token_reply("good-token"))
    stores = google.stores(key_file(tmp_path, rsa_pem, endpoint))
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    send(stores, source, "gs://b/o", Stop(), policy=ONCE)
    fetch(stores, "gs://b/o", tmp_path / "target", Stop(), policy=ONCE)
    stores.close()
    up, down = google.store.paths()
    assert up.startswith("/upload/storage/v1/b/b/o?uploadType=multipart")
    assert "acl" not in up.lower()
    assert down.startswith("/download/storage/v1/b/b/o/o?alt=media")
    assert b"\r\n\r\nhello\r\n--" in google.store.requests[0].body
