"""Transport as a whole: nothing switches verification off, nobody is led to another host, no back door is open."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pilot.job.errors import SettingsError
from pilot.options import OPTIONS, Option
from pilot.runtime.http import MAX_ANSWER_BYTES, Session, TransportError, call
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.stop import Stop
from pilot.runtime.tls import client_context
from pilot.sandbox.world import World
from pilot.settings import read_settings
from pilot.storage.download import fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import StoreError, Stores
from pilot.storage.upload import send
from tests.integration.pilot.pilotrun import HASTY, Pilots, log_url, processes_of, public, submit
from tests.integration.storage.conftest import Tls, tls  # noqa: F401  (a fixture)
from tests.integration.storage.loopback import Loopback, Recorded, Reply, serving

ONCE = RetryPolicy("once", tries=1, first_s=0.01, cap_s=0.01, total_s=20)

# --- no setting switches verification off -----------------------------------------------------------------------------

OFF = ("false", "False", "0", "no", "none", "off", "disable", "insecure", "", " ", "/dev/null")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_no_value_of_any_option_turns_verification_off(option: Option, source: str, tmp_path: Path) -> None:
    for word in OFF:
        flags: dict[str, Any] = {"queue": "Q"}
        env = {"HOME": "/h"}
        files: tuple[Path, ...] = ()
        if source == "flag":
            flags[option.name] = [word] if option.repeatable else word
        elif source == "environment":
            env |= dict.fromkeys((f"PILOT_{option.name.upper()}", *option.environment), word)
        else:
            path = tmp_path / "pilot.yaml"
            path.write_text(json.dumps({option.name: word}))
            files = (path,)
        try:
            settings = read_settings(flags, env, files)
        except SettingsError:
            continue
        for ca in (settings.ca, settings.storage_ca):
            try:
                context = client_context(None if ca is None else str(ca))
            except OSError:
                continue  # nobody is trusted
            assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        for url in (*settings.server, settings.gcs_endpoint, settings.s3_endpoint, *settings.transform_bases):
            assert url.startswith("https://")
        assert settings.cric.startswith("https://") or "://" not in settings.cric


@pytest.mark.parametrize("ca", ["false", "0", "None", "/dev/null"])
def test_a_ca_that_is_none_trusts_nobody(tls: Tls, ca: str, tmp_path: Path) -> None:  # noqa: F811
    with serving(lambda _request: Reply(200, b"x"), tls.server) as server:
        stores = open_stores(StorageOptions(ca_path=ca, gcs_endpoint=server.url, metadata_url=None))
        for url in (f"{server.url}/o", "gs://bucket/o"):
            with pytest.raises((StoreError, OSError)):
                fetch(stores, url, tmp_path / "target", Stop(), policy=ONCE)
        stores.close()
    assert server.requests == []


# --- nobody is led to another host ------------------------------------------------------------------------------------


@dataclass
class Lured:
    """Stores whose server redirects everything to a trap; ``tokens`` of the Google key come from ``token_uri``."""

    server: Loopback
    trap: Loopback
    stores: Stores


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lured(stack: ExitStack, tls: Tls, folder: Path, status: int, token_status: int = 200) -> Lured:  # noqa: F811
    trap = stack.enter_context(
        serving(lambda _request: Reply(200, b'{"access_token": "t", "expires_in": 9}'), tls.server)
    )

    def answer(request: Recorded) -> Reply:
        moved = {
            "Location": trap.url + request.path,
            "x-amz-bucket-region": "eu-south-1",
            "Content-Type": "application/xml",
        }
        if request.path == "/token" and token_status == 200:
            return Reply(200, b'{"access_token": "token", "expires_in": 3600}', {"Content-Type": "application/json"})
        endpoint = f"<Endpoint>{trap.url.removeprefix('https://')}</Endpoint><Region>eu-south-1</Region>"
        body = f"<Error><Code>PermanentRedirect</Code>{endpoint}</Error>"
        return Reply(token_status if request.path == "/token" else status, body.encode(), moved)

    server = stack.enter_context(serving(answer, tls.server))
    (folder / "s3-key").write_text("access_key: AKIAKEY\nsecret_key: secret-of-the-key\n")
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    about = {"type": "service_account", "client_email": "p@x", "private_key": key.decode(), "private_key_id": "1"}
    (folder / "google.json").write_text(json.dumps({**about, "token_uri": f"{server.url}/token"}))
    stores = open_stores(
        StorageOptions(
            ca_path=str(tls.ca),
            s3_endpoint=server.url,
            s3_key_file=folder / "s3-key",
            gcs_endpoint=server.url,
            gcs_key_file=folder / "google.json",
        )
    )
    stack.callback(stores.close)
    return Lured(server, trap, stores)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_store_follows_a_redirect_to_another_host(
    stack: ExitStack,
    tls: Tls,  # noqa: F811
    tmp_path: Path,
    status: int,
) -> None:
    lure = lured(stack, tls, tmp_path, status)
    (tmp_path / "source").write_bytes(b"content")
    for url in ("gs://bucket/o", "s3://bucket/o", f"{lure.server.url}/o"):
        with pytest.raises(StoreError):
            fetch(lure.stores, url, tmp_path / "target", Stop(), policy=ONCE)
        with pytest.raises(StoreError):
            lure.stores.for_url(url).stat(url, Stop())
        with pytest.raises(StoreError):
            send(lure.stores, tmp_path / "source", url, Stop(), policy=ONCE)
    assert len(lure.server.requests) >= 8
    assert lure.trap.requests == []


def test_the_key_is_not_shown_to_a_host_the_token_server_names(stack: ExitStack, tls: Tls, tmp_path: Path) -> None:  # noqa: F811
    lure = lured(stack, tls, tmp_path, 307, token_status=307)
    with pytest.raises(StoreError):
        fetch(lure.stores, "gs://bucket/o", tmp_path / "target", Stop(), policy=ONCE)
    assert "/token" in lure.server.paths()
    assert lure.trap.requests == []


def test_the_panda_server_and_cric_lead_nobody_elsewhere(stack: ExitStack, tls: Tls, tmp_path: Path) -> None:  # noqa: F811
    lure = lured(stack, tls, tmp_path, 307)
    with Session(str(tls.ca)) as session:
        assert call(session, "POST", f"{lure.server.url}/server/panda/getJob", body=b"x").status == 307
        with pytest.raises(TransportError, match="another host"):
            call(session, "GET", f"{lure.server.url}/api", allow_redirects=True)
    assert lure.trap.requests == []


@pytest.mark.parametrize("url", ["gs://bucket/o", "s3://bucket/o"])
def test_answers_without_an_end_are_given_up(stack: ExitStack, tls: Tls, tmp_path: Path, url: str) -> None:  # noqa: F811
    """A store that answers an upload with an endless text fills nobody's memory."""
    endless = Reply(400, b"x" * (2 * MAX_ANSWER_BYTES), {"Content-Type": "text/plain"})
    server = stack.enter_context(serving(lambda _request: endless, tls.server))
    (tmp_path / "s3-key").write_text("access_key: AKIAKEY\nsecret_key: secret-of-the-key\n")
    options = StorageOptions(
        ca_path=str(tls.ca),
        s3_endpoint=server.url,
        s3_key_file=tmp_path / "s3-key",
        gcs_endpoint=server.url,
        metadata_url=None,
    )
    stores = open_stores(options)
    stack.callback(stores.close)
    (tmp_path / "source").write_bytes(b"content")
    with pytest.raises(StoreError, match="answered 400"):
        send(stores, tmp_path / "source", url, Stop(), policy=ONCE)


def test_headers_without_an_end_are_given_up(stack: ExitStack, tls: Tls) -> None:  # noqa: F811
    many = {f"X-{number}": "x" for number in range(200)}
    server = stack.enter_context(serving(lambda _request: Reply(200, b"", many), tls.server))
    with Session(str(tls.ca)) as session, pytest.raises(TransportError):
        call(session, "GET", server.url)


# --- the back doors, of a whole process -------------------------------------------------------------------------------


@dataclass
class TrapDoor:
    """A port that counts who comes."""

    socket: socket.socket
    came: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def count(self) -> None:
        while True:
            try:
                caller, _address = self.socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(0.5)
                try:
                    self.came.append(caller.recv(200))
                except OSError:
                    self.came.append(b"")


@pytest.fixture
def trap_door() -> Iterator[TrapDoor]:
    door = TrapDoor(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=door.count, name="trap-door", daemon=True)
    thread.start()
    yield door
    door.socket.shutdown(socket.SHUT_RDWR)
    door.socket.close()
    thread.join(5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), adder_delay_s=0.0) as world:
        yield world


@pytest.fixture
def pilots(world: World, tmp_path: Path) -> Iterator[Pilots]:
    pilots = Pilots(world, tmp_path)
    try:
        yield pilots
        assert not processes_of(tmp_path)
    finally:
        pilots.stop_all()


def trap_files(home: Path, url: str) -> tuple[Path, ...]:
    """Files that libraries look for by themselves. Whoever reads one changes its time of access."""
    touch = f"touch {home / 'credential-process-ran'}"
    profile = f"endpoint_url = {url}\nregion = x\ncredential_process = {touch}\n"
    texts = {
        ".netrc": "default login trap password trapped\n",
        ".aws/config": f"[default]\n{profile}[profile trap]\n{profile}",
        ".aws/credentials": f"[default]\naws_access_key_id = TRAP\naws_secret_access_key = TRAP\ncredential_process = {touch}\n",
        ".boto": f"[Boto]\nproxy = 127.0.0.1\nproxy_port = {url.rpartition(':')[2]}\nhttps_validate_certificates = False\n",
        ".config/gcloud/application_default_credentials.json": json.dumps(
            {"type": "authorized_user", "token_uri": url}
        ),
        ".config/gcloud/configurations/config_default": "[core]\nproject = trap\n",
        ".pgpass": "*:*:*:*:trap\n",
    }
    paths = tuple(home / name for name in texts)
    for path, text in zip(paths, texts.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        not_read_yet(path)
    return paths


def not_read_yet(path: Path) -> None:
    os.utime(path, (1_000_000, path.stat().st_mtime))


def was_read(path: Path) -> bool:
    return path.stat().st_atime > 1_000_000


def trap_variables(home: Path, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    proxies = (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "GRPC_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "grpc_proxy",
    )
    endpoints = ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "API_ENDPOINT_OVERRIDE")
    collectors = (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    )
    certificates = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE")
    return {
        **dict.fromkeys((*proxies, *endpoints, *collectors), url),
        **dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"), f"127.0.0.1:{port}"),
        **dict.fromkeys(certificates, "/dev/null"),
        "NO_PROXY": "",
        "NETRC": str(home / ".netrc"),
        "AWS_PROFILE": "trap",
        "AWS_CONFIG_FILE": str(home / ".aws/config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / ".aws/credentials"),
        "AWS_EC2_METADATA_DISABLED": "false",
        "BOTO_CONFIG": str(home / ".boto"),
        "CLOUDSDK_CONFIG": str(home / ".config/gcloud"),
        "GOOGLE_CLOUD_PROJECT": "trap-project",
        "GCLOUD_PROJECT": "trap-project",
        "GOOGLE_API_USE_CLIENT_CERTIFICATE": "true",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "trap.example",
        "PGPASSFILE": str(home / ".pgpass"),
        "SSLKEYLOGFILE": str(home / "tls-keys"),
        "PYTHONHTTPSVERIFY": "0",
        "PYTHONWARNINGS": "ignore",
        "APPTAINERENV_TRAP": "trapped",
        "SINGULARITYENV_TRAP": "trapped",
        "LD_TRAP": "trapped",
    }


def test_a_pilot_among_traps_does_its_job_and_touches_none(
    world: World, pilots: Pilots, trap_door: TrapDoor, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    files = trap_files(home, f"http://127.0.0.1:{trap_door.port}")
    traps = trap_variables(home, trap_door.port)
    control = files[0].with_name("control")
    control.write_text("x")
    not_read_yet(control)
    control.read_text()
    assert was_read(control), "this file system does not tell who reads"

    panda_id = submit(world, "tr '\\0' '\\n' < /proc/$$/environ; sleep 0.5")
    pilot = pilots.start(*HASTY, env={"HOME": str(home), **traps})
    log = pilot.workdir / f"jobs/{panda_id}.0/logs/payload.stdout"
    pilot.wait_until(lambda: log.exists() and log.stat().st_size, "the payload ran")
    limits = Path(f"/proc/{pilot.process.pid}/limits").read_text()
    assert limits.partition("Max core file size")[2].split()[:2] == ["0", "0"]
    end = pilot.end()

    assert end.exit_code == 0 and end.jobs[panda_id]["state"] == "finished", end.stderr
    assert end.jobs[panda_id]["max_pss_bytes"] > 0 and "pssIsRss" not in end.stderr
    assert trap_door.came == []
    assert [path for path in files if was_read(path)] == []
    assert not (home / "credential-process-ran").exists() and not (home / "tls-keys").exists()
    seen = public(world, log_url(world, panda_id, "payload.stdout")).text
    assert "PANDAID=" in seen
    assert not [line for line in seen.splitlines() if line.partition("=")[0] in traps or "trapped" in line]


def test_certificates_named_in_the_environment_are_not_trusted(world: World, pilots: Pilots) -> None:
    ca = str(world.ca_path)
    env = dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE"), ca)
    end = pilots.run(
        *HASTY, config=pilots.settings(without=("ca", "storage_ca")), env={**env, "PYTHONHTTPSVERIFY": "0"}
    )
    assert end.exit_code not in (0, None)
    assert "verif" in end.stderr.lower()
    assert "Traceback" not in end.stderr
