"""Handing in a worker's log, against the sandbox's server: both forms, every kind of caller, refusals and trouble."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from pilot.job.errors import SettingsError
from pilot.job.model import ApiGeneration
from pilot.panda import file_cache
from pilot.panda.auth import Credentials, TokenCredentials, X509Credentials
from pilot.panda.file_cache import CacheForm, FileCache, FormBody, stored, worker_log_forms
from pilot.panda.meaning import Accepted, Refused, Retry, WrongGeneration
from pilot.ports import ServerRefused, ServerUnreachable
from pilot.runtime.http import Answer
from pilot.runtime.secret import SecretFile
from pilot.runtime.stop import Deadline, Stop, StopKind, Stopped, StopReason
from pilot.sandbox.certs import PILOT_DN, Authority, make_proxy, write_private
from pilot.sandbox.world import World

V1, LEGACY = ApiGeneration.V1, ApiGeneration.LEGACY
TEXT = b"a line of the log\n" * 1000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), stores=False, adder_delay_s=None) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(world: World) -> Iterator[None]:
    yield
    world.sandbox.clear_faults()
    world.sandbox.set_apis("both")
    for file in (world.state_dir / "cache").iterdir():
        file.unlink()


def credentials(world: World) -> Credentials:
    return Credentials(X509Credentials(world.state_dir / "client.crt", world.state_dir / "client.key"))


def opened_text(text: bytes = TEXT) -> Callable[[bool], AbstractContextManager[tuple[BinaryIO, int]]]:
    @contextmanager
    def opened(packed: bool) -> Iterator[tuple[BinaryIO, int]]:
        data = gzip.compress(text) if packed else text
        yield io.BytesIO(data), len(data)

    return opened


def upload(
    world: World,
    *forms: CacheForm,
    who: Credentials | None = None,
    text: bytes = TEXT,
    within_s: float = 20.0,
    stop: Stop | None = None,
) -> CacheForm:
    cache = FileCache(f"{world.server_url}/server/panda", who or credentials(world), str(world.ca_path))
    return cache.upload(forms, opened_text(text), Deadline(within_s), stop or Stop())


def kept(world: World) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (world.state_dir / "cache").iterdir()}


FORMS = worker_log_forms((V1, LEGACY), None, "h", 7)


# --- both forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "name", "packed"),
    [("v1", "h_7_gz.out", True), ("legacy", "h_7.out", False), ("both", "h_7_gz.out", True)],
)
def test_the_log_is_kept_in_the_form_the_server_offers(world: World, offered: str, name: str, packed: bool) -> None:
    world.sandbox.set_apis(offered)
    form = upload(world, *FORMS)
    assert (form.name, form.packed) == (name, packed)
    found = kept(world)
    assert list(found) == [name]
    assert (gzip.decompress(found[name]) if packed else found[name]) == TEXT


def test_a_harvester_of_2021_gets_what_it_announced_from_a_server_of_both(world: World) -> None:
    assert upload(world, *reversed(FORMS)).name == "h_7.out"
    assert kept(world) == {"h_7.out": TEXT}


def test_a_large_log_is_sent_whole_with_its_length_and_in_one_part(world: World) -> None:
    text = bytes(range(256)) * (40 << 10)  # 10 MiB, nothing of it text
    upload(world, CacheForm(LEGACY, "h_7.out", packed=False), text=text)
    assert kept(world) == {"h_7.out": text}


def test_where_neither_form_is_offered_that_is_said(world: World) -> None:
    world.sandbox.set_apis("legacy")
    with pytest.raises(ServerUnreachable, match="offers no upload of files: HTTP 404"):
        upload(world, FORMS[0])


# --- who --------------------------------------------------------------------------------------------------------------


def test_a_proxy_is_enough_and_so_is_a_token_with_its_origin(world: World, tmp_path: Path) -> None:
    proxy = world.state_dir / "proxy.pem"
    upload(world, CacheForm(V1, "proxy.out", packed=False), who=Credentials(X509Credentials(proxy, proxy)))
    token = TokenCredentials(SecretFile(world.state_dir / "token"), "Rubin.production")
    upload(world, CacheForm(V1, "token.out", packed=False), who=Credentials(None, token))
    upload(world, CacheForm(LEGACY, "token2.out", packed=False), who=Credentials(None, token))
    assert set(kept(world)) == {"proxy.out", "token.out", "token2.out"}


@pytest.mark.parametrize("api", [V1, LEGACY])
def test_a_limited_proxy_is_refused_in_words_and_that_is_a_refusal(
    world: World, tmp_path: Path, api: ApiGeneration
) -> None:
    client = Authority(world.state_dir).client(f"{PILOT_DN}/CN=limited proxy")
    write_private(tmp_path / "limited", make_proxy(client).proxy_pem)
    who = Credentials(X509Credentials(tmp_path / "limited", tmp_path / "limited"))
    with pytest.raises(ServerRefused, match=r"limited proxy|SSL secure"):
        upload(world, CacheForm(api, "h_7.out", packed=False), who=who)
    assert kept(world) == {}


def test_an_expired_token_is_refused_and_a_missing_one_is_said(world: World, tmp_path: Path) -> None:
    write_private(tmp_path / "token", world.issuer.token(lifetime_s=-5).encode())
    for name, words in (("token", "Token authentication failed"), ("none", "cannot be read")):
        who = Credentials(None, TokenCredentials(SecretFile(tmp_path / name), "Rubin.production"))
        with pytest.raises(ServerRefused, match=words):
            upload(world, FORMS[0], who=who)


def test_a_server_that_cannot_be_verified_gets_nothing(world: World) -> None:
    cache = FileCache(f"{world.server_url}/server/panda", credentials(world), None)
    with pytest.raises(ServerRefused, match="TLS verification"):
        cache.upload(FORMS, opened_text(), Deadline(10), Stop())
    assert kept(world) == {}


@pytest.mark.parametrize(
    "frontend", ["http://plain.example/server/panda", "ftp://x", "https://user:word@host", "words"]
)
def test_only_an_https_address_is_one(world: World, frontend: str) -> None:
    with pytest.raises(SettingsError):
        FileCache(frontend, credentials(world), None)


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_exists_is_refused(world: World, form: CacheForm) -> None:
    upload(world, form)
    with pytest.raises(ServerRefused, match="cannot overwrite file"):
        upload(world, form, text=b"other")
    assert b"other" not in kept(world)[form.name]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_too_large_is_refused_although_the_answer_is_http_200(world: World, form: CacheForm) -> None:
    with pytest.raises(ServerRefused, match="Exceeded size limit"):
        upload(world, CacheForm(form.api, "h_7.tgz", packed=False), text=b"x" * (11 << 20))


@pytest.mark.parametrize("fault", ["reset", "status", "garbage", "empty", "html", "truncated"])
@pytest.mark.parametrize("form", FORMS)
def test_trouble_that_passes_is_tried_again(world: World, form: CacheForm, fault: str) -> None:
    options = {"status": 502} if fault == "html" else {}
    world.sandbox.fault(fault, contains="form-data", **options)
    assert upload(world, form) == form
    assert form.name in kept(world)


def test_an_answer_that_was_lost_is_no_refusal_of_the_second_try(world: World) -> None:
    world.sandbox.fault("reset-after-commit", contains="form-data")
    assert upload(world, FORMS[0]) == FORMS[0]
    assert gzip.decompress(kept(world)["h_7_gz.out"]) == TEXT


def test_a_server_that_is_not_there_is_given_up_soon(world: World) -> None:
    world.sandbox.down("panda")
    try:
        with pytest.raises(ServerUnreachable, match=r"did not take h_7_gz\.out"):
            upload(world, *FORMS)
    finally:
        world.sandbox.up("panda")


def test_an_upload_ends_with_its_time(world: World) -> None:
    world.sandbox.fault("hang", contains="form-data", delay_s=30.0, count=10)
    with pytest.raises((ServerUnreachable, Stopped)):
        upload(world, FORMS[0], within_s=0.3)


def test_an_upload_that_is_stopped_sends_no_further_piece(world: World) -> None:
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    with pytest.raises(Stopped, match="SIGTERM"):
        upload(world, FORMS[1], stop=stop)
    assert kept(world) == {}


def test_a_file_that_shrinks_is_not_sent_for_the_whole(world: World) -> None:
    @contextmanager
    def opened(packed: bool) -> Iterator[tuple[BinaryIO, int]]:
        yield io.BytesIO(b"short"), 1000

    cache = FileCache(f"{world.server_url}/server/panda", credentials(world), str(world.ca_path))
    with pytest.raises(ServerUnreachable, match="shorter"):
        cache.upload(FORMS[1:], opened, Deadline(20), Stop())
    assert kept(world) == {}


# --- pure -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "status", "body", "kind"),
    [
        (V1, 200, b'{"success": true, "message": "", "data": null}', Accepted),
        (V1, 200, b'{"success": false, "message": "ERROR: cannot write file", "data": null}', Refused),
        (V1, 200, b"True", Retry),
        (V1, 200, b"ERROR", Retry),
        (V1, 403, b"ERROR : method upload_cache_file is forbidden", WrongGeneration),
        (V1, 404, b"<html>", WrongGeneration),
        (V1, 503, b"", Retry),
        (LEGACY, 200, b"True", Accepted),
        (LEGACY, 200, b"True\n", Accepted),
        (LEGACY, 200, b"ERROR : cannot overwrite file", Refused),
        (LEGACY, 200, b"ERROR: upload failure", Refused),
        (LEGACY, 200, b"False", Retry),
        (LEGACY, 200, b"", Retry),
        (LEGACY, 200, b"<html>a portal</html>", Retry),
        (LEGACY, 403, b"ERROR : method putFile is forbidden", WrongGeneration),
        (LEGACY, 500, b"Traceback", Retry),
    ],
)
def test_what_an_answer_means(api: ApiGeneration, status: int, body: bytes, kind: type) -> None:
    assert isinstance(stored(Answer(status, {}, body), api), kind)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["h_7_gz.out", "h_7.out"]),
        ("mine.out", ["mine.out", "mine.out"]),
        ("../../etc/passwd", ["h_7_gz.out", "h_7.out"]),
        ('a"\r\nb: c', ["h_7_gz.out", "h_7.out"]),
        (".hidden", ["h_7_gz.out", "h_7.out"]),
    ],
)
def test_the_name_is_the_announced_one_unless_that_is_no_name(given: str | None, names: list[str]) -> None:
    forms = worker_log_forms((V1, LEGACY), given, "h", 7)
    assert [form.name for form in forms] == names
    assert [form.packed for form in forms] == [given != "mine.out", False]


@pytest.mark.parametrize(("harvester_id", "worker_id"), [(None, 7), ("h", None), ("h/x", 7), ("h" * 250, 7)])
def test_without_both_ids_there_is_no_name(harvester_id: str | None, worker_id: int | None) -> None:
    assert worker_log_forms((V1, LEGACY), None, harvester_id, worker_id) == ()
    assert len(worker_log_forms((V1, LEGACY), "given.out", None, None)) == 2


def test_a_form_has_the_length_it_announces_and_is_read_in_small_pieces() -> None:
    text = TEXT * 20
    body = FormBody("h_7.out", io.BytesIO(text), len(text), lambda: None)
    pieces = list(body)
    assert sum(map(len, pieces)) == len(body)
    assert max(map(len, pieces)) <= file_cache.BLOCK_BYTES < len(text)
