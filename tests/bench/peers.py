"""Who moves the files: the wire itself, the pilot, and its peers; how each is called and what it makes sure of."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tests.bench.authority import GOOGLE_HOST, Certificates, seeing_google_here
from tests.bench.content import Content
from tests.bench.measure import REPOSITORY, BenchError

PEERS = REPOSITORY / "build" / "peers" / "bin"
S3_KEY = "access_key: BENCHBENCH\nsecret_key: benchbenchbench\n"
STREAMS = 4  # of the wire's own clients, as many as the pilot's
UNCHECKED = "nothing"
WIRE_AND_FILE, WIRE_FILE_AND_SUMS = "wire and file", "wire, file, sums"


class Kind(Enum):
    """What a client is to the comparison."""

    LIMIT = "limit"
    PILOT = "pilot"
    NATIVE = "native"
    PYTHON = "Python"


@dataclass(frozen=True)
class Order:
    """One run of one client: what is to be moved, where from and where to. ``folder``: of the local files."""

    direction: str
    endpoint: str
    certificates: Certificates
    bucket: str
    folder: Path
    contents: Sequence[Content]
    scratch: Path

    @property
    def prefix(self) -> str:
        """The folder all keys begin with."""
        return self.contents[0].key.partition("/")[0]

    @property
    def down(self) -> bool:
        return self.direction == "down"

    def errand(self, **more: Any) -> str:
        """The file that the Python clients read."""
        key_file = self.scratch / "s3-key"
        key_file.write_text(S3_KEY)
        key_file.chmod(0o600)
        errand = {
            "direction": self.direction,
            "endpoint": self.endpoint,
            "ca": str(self.certificates.ca),
            "bucket": self.bucket,
            "folder": str(self.folder),
            "key_file": str(key_file),
            "files": [(content.key, content.size_bytes, content.adler32) for content in self.contents],
        }
        path = self.scratch / "errand.json"
        path.write_text(json.dumps(errand | more))
        return str(path)


@dataclass(frozen=True)
class Client:
    """``down`` and ``up``: what it compares of what it moved, as it is called here. ``bucket``: another than the bench's."""

    name: str
    kind: Kind
    command: Callable[[Order], list[str]]
    down: str | None
    up: str | None
    environment: Mapping[str, str] = field(default_factory=dict)
    bucket: str = ""

    def takes(self, direction: str) -> bool:
        return (self.down if direction == "down" else self.up) is not None

    def verifies(self, direction: str) -> str:
        return (self.down if direction == "down" else self.up) or ""


def environment(certificates: Certificates, home: Path) -> dict[str, str]:
    """What every client finds: the bench's authority, one identity, and nothing of the person's who runs the bench."""
    ca = str(certificates.ca)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "SSL_CERT_FILE": ca,
        "REQUESTS_CA_BUNDLE": ca,
        "CURL_CA_BUNDLE": ca,
        "AWS_CA_BUNDLE": ca,
        "AWS_ACCESS_KEY_ID": "BENCHBENCH",
        "AWS_SECRET_ACCESS_KEY": "benchbenchbench",
        "AWS_REGION": "auto",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
    }


def require_peers() -> None:
    """Raises BenchError when the peers are not installed."""
    if not (PEERS / "python").exists():
        raise BenchError("the peers are not installed: make bench-peers")


def _module(python: str, name: str, *arguments: str) -> list[str]:
    return [python, "-m", f"tests.bench.clients.{name}", *arguments]


def _wire(target: str, streams: int) -> Callable[[Order], list[str]]:
    return lambda order: _module(sys.executable, "wire", order.errand(target=target, streams=streams))


def _pilot(scheme: str) -> Callable[[Order], list[str]]:
    return lambda order: _module(sys.executable, "with_pilot", order.errand(scheme=scheme))


def _pilot_s3_at_google(order: Order) -> list[str]:
    """Google's S3 tells the crc32c of what it took, and the pilot knows it by its host name."""
    endpoint = order.endpoint.replace("localhost", GOOGLE_HOST)
    command = _module(sys.executable, "with_pilot", order.errand(scheme="s3", endpoint=endpoint))
    return seeing_google_here(order.certificates.hosts, command)


def _python(name: str, *arguments: str) -> Callable[[Order], list[str]]:
    return lambda order: _module(str(PEERS / "python"), name, *arguments, order.errand())


def _curl(*how: str) -> Callable[[Order], list[str]]:
    def command(order: Order) -> list[str]:
        local = "output" if order.down else "upload-file"
        lines = [
            f'{local} = "{order.folder / content.key}"\nurl = "{order.endpoint}/{order.bucket}/{content.key}"\n'
            for content in order.contents
        ]
        listed = order.scratch / "curl.list"
        listed.write_text("".join(lines))
        return ["curl", "-q", "-sS", "--fail", "--no-progress-meter", *how, "--config", str(listed)]

    return command


def _s5cmd(order: Order) -> list[str]:
    program = [str(PEERS / "s5cmd"), "--no-sign-request", "--endpoint-url", order.endpoint, "--log", "error", "cp"]
    there, here = f"s3://{order.bucket}/{order.prefix}/", f"{order.folder / order.prefix}/"
    return [*program, f"{there}*", here] if order.down else [*program, here, there]


def _aws(order: Order) -> list[str]:
    program = [str(PEERS / "python"), "-m", "awscli", "s3", "cp", "--recursive", "--only-show-errors"]
    there, here = f"s3://{order.bucket}/{order.prefix}/", f"{order.folder / order.prefix}/"
    return [*program, "--endpoint-url", order.endpoint, *((there, here) if order.down else (here, there))]


NO_TRAILERS = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}
CLIENTS = (
    Client("pilot gs", Kind.PILOT, _pilot("gs"), "size, adler32, crc32c", "size, crc32c"),
    Client("pilot s3", Kind.PILOT, _pilot("s3"), "size, adler32, crc32c", None),
    Client("pilot s3 at Google", Kind.PILOT, _pilot_s3_at_google, None, "size, crc32c"),
    Client("pilot s3 elsewhere", Kind.PILOT, _pilot("s3"), None, "size, md5", bucket="md5-bench"),
    Client("curl", Kind.NATIVE, _curl(), UNCHECKED, UNCHECKED),
    Client("curl, 4 at a time", Kind.NATIVE, _curl("-Z", "--parallel-max", "4"), UNCHECKED, UNCHECKED),
    Client("s5cmd", Kind.NATIVE, _s5cmd, UNCHECKED, UNCHECKED),
    Client("obstore s3", Kind.PYTHON, _python("with_obstore", "s3"), UNCHECKED, UNCHECKED),
    Client("obstore gs", Kind.PYTHON, _python("with_obstore", "gs"), UNCHECKED, UNCHECKED),
    Client("boto3", Kind.PYTHON, _python("with_boto3", "default"), UNCHECKED, "sends crc32"),
    Client("boto3, tuned", Kind.PYTHON, _python("with_boto3", "tuned"), UNCHECKED, UNCHECKED),
    Client("google-cloud-storage", Kind.PYTHON, _python("with_google"), "crc32c", "crc32c"),
    Client("aws cli", Kind.PYTHON, _aws, UNCHECKED, UNCHECKED, NO_TRAILERS),
    Client(f"wire, {STREAMS} streams", Kind.LIMIT, _wire("nothing", STREAMS), UNCHECKED, UNCHECKED),
    Client(f"{WIRE_AND_FILE}, 1 stream", Kind.LIMIT, _wire("file", 1), UNCHECKED, UNCHECKED),
    Client(f"{WIRE_AND_FILE}, {STREAMS} streams", Kind.LIMIT, _wire("file", STREAMS), UNCHECKED, UNCHECKED),
    Client(f"{WIRE_FILE_AND_SUMS}, 1 stream", Kind.LIMIT, _wire("sums", 1), UNCHECKED, UNCHECKED),
    Client(f"{WIRE_FILE_AND_SUMS}, {STREAMS} streams", Kind.LIMIT, _wire("sums", STREAMS), UNCHECKED, UNCHECKED),
)
