"""A PostgreSQL server of this machine's packages, in a folder of its own, for a Butler registry as in a real deployment.

The server refuses to run as root, and an account of its own could not reach below root's folders. So root starts it in a
user namespace in which root is called ``nobody``: nothing has to be given away, and no account has to exist.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from pilot.sandbox.certs import write_private
from pilot.sandbox.free_ports import held_port, port_of
from pilot.sandbox.production import Registry

ADDRESS = "127.0.0.1"
ADMINISTRATOR = "postgres"
ACCOUNT = "payload"
DATABASE = "minirc2"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.05
_NOBODY = 65534
# A registry that lives as long as a test: nothing is kept for a power cut.
_SETTINGS = {
    "listen_addresses": ADDRESS,
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "64MB",
    "max_connections": "50",
    "autovacuum": "off",
    "logging_collector": "off",
}


class PostgresUnavailable(RuntimeError):
    """There is no PostgreSQL on this machine, or it does not start; the message says what to do."""


class Postgres:
    """`with Postgres(folder) as postgres:` a running server with an empty database and the payload's account in it.

    `folder` is made and must not exist. `registry` is what a Production wants. Nothing is left running afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._binaries = _binaries()
        self._administrators_password = secrets.token_urlsafe(18)
        self._process: subprocess.Popen[bytes] | None = None
        self._held = held_port()
        self.port = port_of(self._held)
        self.registry = Registry(
            f"postgresql://{ADDRESS}:{self.port}/{DATABASE}", ACCOUNT, password=secrets.token_urlsafe(18)
        )

    def __enter__(self) -> Postgres:
        self._folder.mkdir(mode=0o700)
        try:
            self._make_cluster()
            self._start()
            self._make_database()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and wait for it; safe to call twice."""
        self._held.close()
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)  # its "fast" shutdown: sessions are ended, data are written
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _make_cluster(self) -> None:
        password_file = self._folder / "administrators-password"
        write_private(password_file, self._administrators_password.encode())
        self._run(
            "initdb",
            "--pgdata", str(self._data),
            "--username", ADMINISTRATOR,
            "--pwfile", str(password_file),
            "--auth", "scram-sha-256",
            "--encoding", "UTF8",
            "--locale", "C",
            "--no-sync",
            "--no-instructions",
        )  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in {**_SETTINGS, "port": str(self.port)}.items())

    def _start(self) -> None:
        command = [*_not_as_root(), "setpriv", "--pdeathsig", "INT", str(self._binaries / "postgres")]
        self._held.close()
        with (self._folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-D", str(self._data)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end_s = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise PostgresUnavailable(f"PostgreSQL does not start; see {self._folder / 'postgres.log'}.")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        command = [str(self._binaries / "pg_isready"), "--quiet", "--host", ADDRESS, "--port", str(self.port)]
        return subprocess.run(command, env=_environment(), timeout=START_TIMEOUT_S).returncode == 0

    def _make_database(self) -> None:
        """The database as a Butler wants it. The password goes in through stdin: an argv can be read by anybody."""
        account, password = self.registry.user, self.registry.password
        self._psql("postgres", f"CREATE ROLE {account} LOGIN PASSWORD '{password}'; CREATE DATABASE {DATABASE};")
        extension = "CREATE EXTENSION btree_gist;"  # time spans of calibrations may not overlap: the registry's rule
        self._psql(DATABASE, f"{extension} GRANT CREATE, TEMPORARY ON DATABASE {DATABASE} TO {account};")

    def _psql(self, database: str, statements: str) -> None:
        self._run(
            "psql",
            "--quiet",
            "--no-psqlrc",
            "--set", "ON_ERROR_STOP=1",
            "--host", ADDRESS,
            "--port", str(self.port),
            "--username", ADMINISTRATOR,
            "--dbname", database,
            "--file", "-",
            variables={"PGPASSWORD": self._administrators_password},
            stdin=statements.replace("; ", ";\n"),
        )  # fmt: skip

    def _run(self, name: str, *arguments: str, variables: dict[str, str] | None = None, stdin: str = "") -> None:
        done = subprocess.run(
            [*_not_as_root(), str(self._binaries / name), *arguments],
            env={**_environment(), **(variables or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise PostgresUnavailable(f"{name} failed with {done.returncode}: {' | '.join(words[-3:])}")


def _binaries() -> Path:
    """The newest PostgreSQL of Debian's packages."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise PostgresUnavailable(
            "There is no PostgreSQL server on this machine: run scripts/prepare-machine postgresql."
        )
    return max(found, key=lambda path: float(path.parent.name))


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": "/nonexistent"}


def _not_as_root() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    return ("unshare", "--user", f"--map-users=0,{_NOBODY},1", f"--map-groups=0,{_NOBODY},1")
