"""A cell of the staging comparison: one shape of files in one direction, moved by all clients in turns from one server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pilot.runtime.stop import Deadline
from tests.bench.authority import Certificates
from tests.bench.content import Content, Shape, check_files, make_files
from tests.bench.measure import BenchError, Cost, Figure, in_rounds, measured, say
from tests.bench.nginx import DownloadServer, serving
from tests.bench.peers import Client, Kind, Order, environment
from tests.bench.sink import Sink, running_sink

BUCKET = "bench"
PREFIX = "in"
MORE_ROUNDS_S = 50.0  # of a cell over one transport; after that no further round begins
OUTRUN = 2.0  # times as slow as the pilot: measured once a cell, over TLS


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to do: ``direction`` is down or up."""

    direction: str
    shape: Shape

    @property
    def name(self) -> str:
        return f"{self.shape.count} x {self.shape.name} {self.direction}"


@dataclass
class Measured:
    """All rounds of one cell over one transport, by client."""

    cell: Cell
    tls: bool
    costs: dict[str, list[Cost]]
    failures: dict[str, str] = field(default_factory=dict)  # of clients that left with an error: their last words

    def speed(self, client: str) -> Figure:
        """Megabytes a second."""
        return Figure.of(self.cell.shape.total_bytes / 1e6 / cost.wall_s for cost in self.costs[client])

    def outrun(self, client: str) -> bool:
        """True once its first round took several times as long as the pilot's: a further one would tell no more."""
        pilots = [costs[0].wall_s for name, costs in self.costs.items() if costs and name.startswith("pilot")]
        mine = self.costs[client]
        return bool(mine and pilots) and not client.startswith("pilot") and mine[0].wall_s > OUTRUN * min(pilots)

    def cpu_s_per_gb(self, client: str) -> Figure:
        return Figure.of(cost.cpu_s / (self.cell.shape.total_bytes / 1e9) for cost in self.costs[client])

    def started(self, client: str, what: str) -> Figure | None:
        """``cpu_s`` or ``wall_s`` without the start of the process, of a client that tells them."""
        told = [cost.told[what] for cost in self.costs[client] if what in cost.told]
        return Figure.of(told) if told else None

    def max_rss_bytes(self, client: str) -> float:
        return Figure.of(cost.max_rss_bytes for cost in self.costs[client]).median

    @property
    def rounds(self) -> int:
        """How many the most-asked client has had."""
        return max((len(costs) for costs in self.costs.values()), default=0)

    def record(self) -> dict[str, Any]:
        return {
            "cell": self.cell.name,
            "tls": self.tls,
            "bytes": self.cell.shape.total_bytes,
            "files": self.cell.shape.count,
            "clients": {name: [asdict(cost) for cost in costs] for name, costs in self.costs.items()},
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Ground:
    """Where all happens: scratch and source in memory, downloads below ``target``."""

    scratch: Path
    target: Path
    certificates: Certificates

    @contextmanager
    def empty_target(self) -> Iterator[Path]:
        folder = self.target / "arrived"
        (folder / PREFIX).mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


class Cells:
    """Measures cells: makes the files, starts the server, lets the clients take turns, removes the files."""

    def __init__(self, ground: Ground, clients: Sequence[Client], rounds: int) -> None:
        self._ground, self._clients = ground, clients
        self._rounds = {True: rounds, False: -(-rounds // 3)}
        (ground.scratch / "home").mkdir()
        self._environment = environment(ground.certificates, ground.scratch / "home")

    def measure(self, cell: Cell, transports: Sequence[bool]) -> list[Measured]:
        """The cell over each transport (True: TLS). Plain is a third of the rounds, and for those TLS did not leave behind:

        nobody moves data in the clear; what TLS costs is all that it tells.
        """
        clients = {client.name: client for client in self._clients if client.takes(cell.direction)}
        source, found = self._ground.scratch / "source", list[Measured]()
        try:
            contents = make_files(cell.shape, source / BUCKET, PREFIX)
            with self._server(cell, source, contents) as server:
                for tls in transports:
                    say(f"{cell.name}, {'TLS' if tls else 'plain'}")
                    running = {name: one for name, one in clients.items() if not any(m.outrun(name) for m in found)}
                    found.append(self._rounds_of(cell, tls, server, running, source, contents))
        finally:
            shutil.rmtree(source, ignore_errors=True)
        return found

    @contextmanager
    def _server(self, cell: Cell, source: Path, contents: Sequence[Content]) -> Iterator[DownloadServer | Sink]:
        certificates = self._ground.certificates
        if cell.direction == "up":
            with running_sink(certificates.certificate, certificates.key) as sink:
                yield sink
            return
        scratch = self._ground.scratch / "nginx"
        scratch.mkdir()
        try:
            with serving(source, BUCKET, contents, certificates.certificate, certificates.key, scratch) as server:
                yield server
        finally:
            shutil.rmtree(scratch)

    def _rounds_of(
        self,
        cell: Cell,
        tls: bool,
        server: DownloadServer | Sink,
        clients: dict[str, Client],
        source: Path,
        contents: Sequence[Content],
    ) -> Measured:
        found = Measured(cell, tls, {name: [] for name in clients})
        begun, time = {0}, Deadline(MORE_ROUNDS_S)

        def once(name: str) -> Cost:
            if isinstance(server, Sink):
                return self._up(clients[name], server, tls, source / BUCKET, contents)
            return self._down(clients[name], server.url(tls), source / BUCKET, contents)

        def run(name: str, number: int) -> None:
            if not time.passed():
                begun.add(number)  # a round that is begun is gone through
            if number not in begun or name in found.failures or found.outrun(name):
                return
            try:
                found.costs[name].append(once(name))
            except BenchError as error:
                say(f"{name}: {error}")
                found.failures[name] = str(error)

        with suppress(BenchError):  # it will be told when its turn comes
            once(list(clients)[-1])  # not counted: whoever comes first would pay for a server that has just started
        in_rounds(list(clients), self._rounds[tls], run)
        return found

    def _down(self, client: Client, endpoint: str, source: Path, contents: Sequence[Content]) -> Cost:
        with self._ground.empty_target() as folder:
            cost = self._run(client, "down", endpoint, folder, contents)
            if client.kind is not Kind.LIMIT:
                check_files(contents, source, folder)
        return cost

    def _up(self, client: Client, sink: Sink, tls: bool, source: Path, contents: Sequence[Content]) -> Cost:
        sink.forget()
        cost = self._run(client, "up", sink.url(tls), source, contents)
        if client.kind is not Kind.LIMIT:
            _check_kept(sink, client.bucket or BUCKET, contents)
        return cost

    def _run(self, client: Client, direction: str, endpoint: str, folder: Path, contents: Sequence[Content]) -> Cost:
        ground = self._ground
        bucket = client.bucket or BUCKET
        order = Order(direction, endpoint, ground.certificates, bucket, folder, contents, ground.scratch)
        return measured(client.command(order), self._environment | dict(client.environment), ground.scratch)


def _check_kept(sink: Sink, bucket: str, contents: Sequence[Content]) -> None:
    """Raises BenchError unless the sink has taken every file whole, by size and crc32c, and nothing is left half done."""
    kept = sink.kept()
    arrived = {
        entry["key"]: (entry["size_bytes"], entry["crc32c"]) for entry in kept["objects"] if entry["bucket"] == bucket
    }
    wrong = [content.key for content in contents if arrived.get(content.key) != (content.size_bytes, content.crc32c)]
    if wrong or kept["unfinished"] or len(kept["objects"]) != len(contents):
        raise BenchError(f"the store did not get what was sent: {wrong[:5]}, {kept['unfinished']} unfinished")
