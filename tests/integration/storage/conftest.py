"""Real object stores over TLS on loopback, and an environment full of traps that must change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import Stores
from tests.integration.storage.servers import StoreServers, store_servers_at

ACCESS_KEY = "GOOGTESTACCESSKEY"
SECRET_KEY = "made-up-secret-of-the-tests"


@dataclass(frozen=True)
class Tls:
    """Paths: the authority's certificate; the server's chain and key."""

    ca: Path
    chain: Path
    key: Path

    @property
    def server(self) -> tuple[Path, Path]:
        return self.chain, self.key


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(folder / "chain.pem"), append=True)
    return Tls(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")


@pytest.fixture(scope="session")
def store_servers(tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServers]:
    """rclone's S3 and fake-gcs-server, with the buckets ``inputs`` and ``outputs`` in each."""
    folder = tmp_path_factory.mktemp("stores")
    with store_servers_at(folder, tls.chain, tls.key, (ACCESS_KEY, SECRET_KEY), ("inputs", "outputs")) as servers:
        yield servers


@pytest.fixture(autouse=True)
def traps(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Variables and files that the libraries would obey if they were let."""
    home = tmp_path_factory.mktemp("home")
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(
        "[default]\nregion = nowhere-1\nendpoint_url = https://127.0.0.1:9\ns3 =\n  addressing_style = virtual\n"
        "[profile other]\nregion = nowhere-2\n"
    )
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = TRAP\naws_secret_access_key = TRAP\n")
    (home / ".netrc").write_text("machine localhost login trap password trap\n")
    nowhere = "http://127.0.0.1:9"
    for name, text in {
        "HOME": str(home),
        "REQUESTS_CA_BUNDLE": "/nonexistent/ca.pem",
        "CURL_CA_BUNDLE": "/nonexistent/ca.pem",
        "AWS_CA_BUNDLE": "/nonexistent/ca.pem",
        "HTTPS_PROXY": nowhere,
        "https_proxy": nowhere,
        "HTTP_PROXY": nowhere,
        "http_proxy": nowhere,
        "ALL_PROXY": nowhere,
        "AWS_PROFILE": "missing",
        "AWS_ACCESS_KEY_ID": "TRAP",
        "AWS_SECRET_ACCESS_KEY": "TRAP",
        "AWS_SESSION_TOKEN": "TRAP",
        "AWS_REGION": "nowhere-3",
        "AWS_DEFAULT_REGION": "nowhere-3",
        "AWS_ENDPOINT_URL": "https://127.0.0.1:9",
        "AWS_ENDPOINT_URL_S3": "https://127.0.0.1:9",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_DEFAULTS_MODE": "auto",
        "AWS_CONFIG_FILE": str(home / ".aws" / "config"),
        "AWS_BEARER_TOKEN_S3": "TRAP",
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional",
        "AWS_DATA_PATH": str(home),
        "STORAGE_EMULATOR_HOST": nowhere,
        "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/key.json",
        "GOOGLE_CLOUD_PROJECT": "trap",
        "GOOGLE_API_USE_CLIENT_CERTIFICATE": "true",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "trap.example",
        "GCE_METADATA_HOST": "127.0.0.1:9",
        "NETRC": str(home / ".netrc"),
    }.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture(scope="session")
def s3_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s3-key") / "key.yaml"
    path.write_text(f"access_key: {ACCESS_KEY}\nsecret_key: {SECRET_KEY}\n")
    return path


@pytest.fixture(scope="session")
def rsa_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def google_key(pem: str, token_uri: str) -> str:
    """A made-up service account key."""
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "made-up",
            "private_key_id": "1",
            "private_key": pem,
            "client_email": "pilot@made-up.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": token_uri,
        }
    )


@pytest.fixture
def stores(store_servers: StoreServers, tls: Tls, s3_key_file: Path, tmp_path: Path) -> Iterator[Stores]:
    """The pilot's stores against the real servers; anonymous at Google's."""
    opened = open_stores(
        StorageOptions(
            ca_path=str(tls.ca),
            s3_endpoint=store_servers.s3_url,
            s3_key_file=s3_key_file,
            gcs_endpoint=store_servers.gcs_url,
            metadata_url=None,
            local_roots=(tmp_path / "disk",),
        )
    )
    yield opened
    opened.close()
