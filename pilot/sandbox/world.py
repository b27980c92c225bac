"""The whole world in one object: PanDA server, CRIC, object stores, Google's endpoints, their state and their end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from pilot.sandbox.adder import Adder
from pilot.sandbox.callers import Callers
from pilot.sandbox.certs import PILOT_DN, Authority, make_proxy, write_private
from pilot.sandbox.control import Sandbox
from pilot.sandbox.control_server import ControlServer
from pilot.sandbox.cric_server import DATA_BUCKET, LOG_BUCKET, TRANSFORM_BUCKET, Cric
from pilot.sandbox.dispatcher import Dispatcher
from pilot.sandbox.faults import Faults
from pilot.sandbox.http_server import Listener, server_context
from pilot.sandbox.monitor import Monitor
from pilot.sandbox.panda_db import PandaDb
from pilot.sandbox.panda_server import STORE_FRONTS, PandaServer
from pilot.sandbox.public_logs import PublicLogs
from pilot.sandbox.store_front import StoreFront
from pilot.sandbox.stores import Stores
from pilot.sandbox.tokens import Google, Issuer, Renewals
from pilot.sandbox.upload import Uploads

ADDER_DELAY_S = 2.0
_ADDER_TICK_S = 0.1


class StateFolderBusy(RuntimeError):
    """Another sandbox is alive in this state folder."""


class World:
    """A running sandbox: `with World(folder) as world: ...`.

    The attribute `sandbox` is the client with which tests submit, kill, and order faults.
    `apis` is "both", "v1" or "legacy". `time_scale` 60 makes a server minute a second. `adder_delay_s` is in server
    seconds; None runs the Adder only when `run_adder` is called. `stores=False` leaves the object stores out;
    `store_fronts=True` puts a slower front before each ("gcs", "s3"), so that they too have ledger, faults and downtime.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        apis: str = "both",
        time_scale: float = 1.0,
        stores: bool = True,
        store_fronts: bool = False,
        adder_delay_s: float | None = ADDER_DELAY_S,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.time_scale = time_scale
        self._adder_delay_s = adder_delay_s
        self._store_fronts = stores and store_fronts
        self._stack = contextlib.ExitStack()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._timers: list[threading.Timer] = []
        self.ca_path = self.state_dir / "ca.pem"
        self._prepare(stores, apis)

    def _prepare(self, stores: bool, apis: str) -> None:
        """Everything that needs no port: folders, lock, certificates, tokens, database, rules."""
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._stack.enter_context(_locked(self.state_dir / "lock"))
        self.authority = Authority(self.state_dir)
        self._write_credentials()
        self.issuer = Issuer(self.state_dir)
        self.renewals = Renewals(self.issuer)
        self.google = Google(self.state_dir)
        self.cric = Cric(self.state_dir / "cric")
        self.db = PandaDb(self.state_dir / "panda.sqlite")
        self._stack.callback(self.db.close)
        self.faults = Faults()
        self.callers = Callers(self.issuer)
        self.dispatcher = Dispatcher(self.db, self.cric.queue_status, self._wake.set)
        self._adder = Adder(self.db, delay_s=self._adder_delay_s or 0.0, time_scale=self.time_scale)
        former = {} if self._store_fronts else _former_ports(self.state_dir)
        self._stores = Stores(self.state_dir, former) if stores else None
        if self._stores is not None:
            self._stack.callback(self._stores.stop)
        self.panda: PandaServer = PandaServer(
            self.db,
            self.dispatcher,
            self.callers,
            self.faults,
            self.cric,
            self.google,
            Uploads(self.state_dir / "cache"),
            self.renewals,
            ControlServer(self, self.admin_token),
            Monitor(self.db, PublicLogs(self._stores.gcs_port, self.ca_path) if self._stores else None),
            apis,
        )

    def _write_credentials(self) -> None:
        folder = self.state_dir
        self.authority.write_server(folder / "server.crt", folder / "server.key")
        client = self.authority.client(PILOT_DN)
        (folder / "client.crt").write_bytes(client.certificate_pem)
        write_private(folder / "client.key", client.key_pem)
        write_private(folder / "proxy.pem", make_proxy(client).proxy_pem)
        self.admin_token = secrets.token_urlsafe(24)
        write_private(folder / "admin-token", self.admin_token.encode())
        s3_key = folder / "s3-key"
        if not s3_key.exists():
            keys = {"access_key": "SANDBOX" + secrets.token_hex(6).upper(), "secret_key": secrets.token_urlsafe(30)}
            write_private(s3_key, yaml.safe_dump(keys).encode())

    # life

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        folder = self.state_dir
        context = server_context(str(folder / "server.crt"), str(folder / "server.key"), str(self.ca_path))
        answer = self.panda.answer
        # The plain one has no TLS: the metadata server, the operator's control calls, the monitor page for browsers.
        tls = {"panda": context, "cric": context, "google": context, "plain": None}
        if self._store_fronts:
            tls |= dict.fromkeys(STORE_FRONTS, context)
        ports = _former_ports(folder)
        self.listeners = {name: Listener(name, answer, tls[name], ports.get(name, 0)) for name in tls}
        for listener in self.listeners.values():
            self._stack.callback(listener.down)
            listener.start()
        if self._stores is not None:
            self._start_stores(self._stores)
        self._write_files()
        self.sandbox = self._stack.enter_context(Sandbox(folder))
        if self._adder_delay_s is not None:
            thread = threading.Thread(target=self._run_adder, name="sandbox-adder", daemon=True)
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._end_threads)

    def _start_stores(self, stores: Stores) -> None:
        folder = self.state_dir
        if self._store_fronts:
            self.panda.add_store("gcs", StoreFront(stores.gcs_port, self.ca_path).forward)
            self.panda.add_store("s3", StoreFront(stores.s3_port, self.ca_path).forward)
        keys = yaml.safe_load((folder / "s3-key").read_text())
        stores.make_buckets((DATA_BUCKET,), (LOG_BUCKET, TRANSFORM_BUCKET))
        gcs_url = self.gcs_url or ""
        stores.start(folder / "server.crt", folder / "server.key", keys["access_key"], keys["secret_key"], gcs_url)

    def stop(self) -> None:
        """Stop and reap everything; safe to call twice."""
        self._stack.close()

    def _end_threads(self) -> None:
        self._stopping.set()
        self._wake.set()
        for timer in self._timers:
            timer.cancel()
            timer.join()

    def _run_adder(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_ADDER_TICK_S)
            self._wake.clear()
            while self._adder.run_once():
                self.dispatcher.notify()

    def run_adder(self) -> None:
        """One round of the Adder over everything filed, without its delay."""
        while self._adder.run_once(ignore_delay=True):
            self.dispatcher.notify()

    # addresses

    @property
    def server_url(self) -> str:
        return self.listeners["panda"].url

    @property
    def cric_url(self) -> str:
        return self.listeners["cric"].url

    @property
    def google_url(self) -> str:
        return self.listeners["google"].url

    @property
    def plain_url(self) -> str:
        return self.listeners["plain"].url

    @property
    def monitor_url(self) -> str:
        return f"{self.plain_url}/monitor"

    @property
    def transforms_url(self) -> str:
        return f"{self.google_url}/transforms/"

    @property
    def gcs_url(self) -> str | None:
        return self._store_url("gcs")

    @property
    def s3_url(self) -> str | None:
        return self._store_url("s3")

    def _store_url(self, name: str) -> str | None:
        if self._stores is None:
            return None
        return self.listeners[name].url if self._store_fronts else f"https://localhost:{self._stores.ports[name]}"

    @property
    def metadata_host(self) -> str:
        return f"localhost:{self.listeners['plain'].port}"

    # faults of whole servers

    def take_down(self, name: str, seconds: float | None) -> None:
        """Refuse connections to the listener `name` for some wall-clock seconds, or until `bring_up` when None.

        The port is closed when this returns. Orders come through the plain listener, which therefore stays up.
        """
        if name not in self.listeners or name == "plain":
            able = ", ".join(known for known in self.listeners if known != "plain")
            raise ValueError(f"Only {able} can be taken down, not {name!r}.")
        listener = self.listeners[name]
        listener.down()
        if seconds is not None:
            timer = threading.Timer(seconds, listener.start)
            timer.daemon = True
            self._timers = [old for old in self._timers if old.is_alive()] + [timer]
            timer.start()

    def bring_up(self, name: str) -> None:
        self.listeners[name].start()

    def renew_token(self, *, lifetime_s: float | None = None) -> None:
        """Write a fresh bearer token to the file `token`."""
        token = self.issuer.token() if lifetime_s is None else self.issuer.token(lifetime_s=lifetime_s)
        write_private(self.state_dir / "token", token.encode())

    # files

    def _write_files(self) -> None:
        folder = self.state_dir
        self.renew_token()
        self.google.write_key_file(f"{self.google_url}/oauth/token")
        self.cric.write_endpoints(self.gcs_url or "https://localhost:1", self.s3_url or "https://localhost:1")
        settings = {
            "server": self.server_url,
            "cert": str(folder / "client.crt"),
            "key": str(folder / "client.key"),
            "ca": str(self.ca_path),
            "storage_ca": str(self.ca_path),
            "cric": self.cric_url,
            "gcs_endpoint": self.gcs_url,
            "s3_endpoint": self.s3_url,
            "cloud_logging_endpoint": self.google_url,
            "google_application_credentials": str(folder / "gcs-key.json"),
            "s3_key_file": str(folder / "s3-key"),
            "transform_bases": [self.transforms_url],
        }
        known = {name: value for name, value in settings.items() if value is not None}
        (folder / "pilot.yaml").write_text(yaml.safe_dump(known, sort_keys=False))
        (folder / "sandbox.json").write_text(json.dumps(self._description(), indent=1))

    def _description(self) -> dict[str, Any]:
        store_ports = self._stores.ports if self._stores and not self._store_fronts else {}
        return {
            "server": self.server_url,
            "cric": self.cric_url,
            "google": self.google_url,
            "gcs": self.gcs_url,
            "s3": self.s3_url,
            "public_logs": f"{self.gcs_url}/{LOG_BUCKET}/logs/" if self.gcs_url else None,
            "monitor": self.monitor_url,
            "control": self.plain_url,
            "metadata_host": self.metadata_host,
            "transforms": self.transforms_url,
            "ports": {**{name: listener.port for name, listener in self.listeners.items()}, **store_ports},
            "pids": [os.getpid(), *(self._stores.pids if self._stores else [])],
            "settings": str(self.state_dir / "pilot.yaml"),
            "time_scale": self.time_scale,
        }


def _former_ports(folder: Path) -> dict[str, int]:
    """The ports of the last run in this folder, wanted again so that links of old jobs stay alive."""
    try:
        ports: dict[str, int] = json.loads((folder / "sandbox.json").read_text())["ports"]
    except (OSError, ValueError, KeyError):
        return {}
    return ports


@contextlib.contextmanager
def _locked(path: Path) -> Any:
    stream: IO[str] = path.open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        message = f"Another sandbox is running in {path.parent}: stop it, or name another folder with --state."
        raise StateFolderBusy(message) from None
    try:
        yield
    finally:
        stream.close()
