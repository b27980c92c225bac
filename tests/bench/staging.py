"""``make bench-staging``: files down and up, by the pilot's engine and by its peers, from the same servers in the same run.

    python -m tests.bench.staging [--rounds 3] [--quick] [--json FILE] [--clients NAME...] [--scale F] [--target DIR]

Every client is a fresh process, start-up included; the clients take turns in rounds; what arrived is checked. Nothing is
asserted about time. docs/performance.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.authority import Certificates, make_certificates
from tests.bench.content import Content, Shape, check_files, checksum_rate_bytes_per_s, make_files
from tests.bench.measure import (
    MEMORY_FOLDER,
    BenchError,
    Cost,
    Figure,
    Machine,
    in_rounds,
    measured,
    say,
    scratch_folder,
)
from tests.bench.nginx import DownloadServer, serving
from tests.bench.peers import CLIENTS, Client, Kind, Order, environment, require_peers
from tests.bench.sink import Sink, running_sink
from tests.bench.staging_tables import tables
from tests.bench.tables import write_part

BUCKET = "bench"
PREFIX = "in"
LARGE, MEDIUM, SMALL = Shape("1 GiB", 1, 1 << 30), Shape("5 MB", 200, 5_000_000), Shape("64 KiB", 2000, 64 << 10)
HASHED_BLOCK_BYTES = 256 << 10  # the engine's
QUICK_SCALE = 1 / 16


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
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def speed(self, client: str) -> Figure:
        """Megabytes a second."""
        return Figure.of(self.cell.shape.total_bytes / 1e6 / cost.wall_s for cost in self.costs[client])

    def cpu_s_per_gb(self, client: str) -> Figure:
        return Figure.of(cost.cpu_s / (self.cell.shape.total_bytes / 1e9) for cost in self.costs[client])

    def started(self, client: str) -> Measured:
        """The same without start-up, for a client that tells it."""
        told = [Cost(cost.told["wall_s"], cost.told["cpu_s"], cost.max_rss_bytes) for cost in self.costs[client]]
        return Measured(self.cell, self.tls, {client: told})

    def max_rss_bytes(self, client: str) -> float:
        return Figure.of(cost.max_rss_bytes for cost in self.costs[client]).median

    def record(self) -> dict[str, Any]:
        return {
            "cell": self.cell.name,
            "tls": self.tls,
            "bytes": self.cell.shape.total_bytes,
            "files": self.cell.shape.count,
            "clients": {
                name: [{"wall_s": c.wall_s, "cpu_s": c.cpu_s, "max_rss_bytes": c.max_rss_bytes, "told": dict(c.told)} for c in costs]
                for name, costs in self.costs.items()
            },
        }  # fmt: skip


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
        self._ground, self._clients, self._rounds = ground, clients, rounds
        (ground.scratch / "home").mkdir()
        self._environment = environment(ground.certificates, ground.scratch / "home")

    def measure(self, cell: Cell, transports: Sequence[bool]) -> list[Measured]:
        """The cell over each transport (True: TLS)."""
        clients = {client.name: client for client in self._clients if client.takes(cell.direction)}
        source, found = self._ground.scratch / "source", []
        try:
            contents = make_files(cell.shape, source / BUCKET, PREFIX)
            with self._server(cell, source, contents) as server:
                for tls in transports:
                    say(f"{cell.name}, {'TLS' if tls else 'plain'}")
                    found.append(self._rounds_of(cell, tls, server, clients, source, contents))
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

        def run(name: str, _round: int) -> None:
            client, files = clients[name], source / BUCKET
            if isinstance(server, Sink):
                cost = self._up(client, server, tls, files, contents)
            else:
                cost = self._down(client, server.url(tls), files, contents)
            found.costs[name].append(cost)

        in_rounds(list(clients), self._rounds, run)
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
    arrived = {entry["key"]: (entry["size_bytes"], entry["crc32c"]) for entry in kept["objects"] if entry["bucket"] == bucket}
    wrong = [content.key for content in contents if arrived.get(content.key) != (content.size_bytes, content.crc32c)]
    if wrong or kept["unfinished"] or len(kept["objects"]) != len(contents):
        raise BenchError(f"the store did not get what was sent: {wrong[:5]}, {kept['unfinished']} unfinished")


def scaled(shape: Shape, scale: float) -> Shape:
    """A large file becomes smaller, many files become fewer."""
    if scale == 1.0:
        return shape
    if shape.count == 1:
        size_bytes = max(1, round(shape.size_bytes * scale))
        return Shape(f"{size_bytes / 1e6:.0f} MB", 1, size_bytes)
    return Shape(shape.name, max(1, round(shape.count * scale)), shape.size_bytes)


def cells(quick: bool, scale: float) -> list[Cell]:
    """What is measured, in the order of the tables."""
    wanted = [("down", LARGE), ("down", MEDIUM), ("down", SMALL), ("up", LARGE), ("up", MEDIUM)]
    if quick:
        wanted = [("down", LARGE), ("down", SMALL), ("up", MEDIUM)]
    return [Cell(direction, scaled(shape, scale)) for direction, shape in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, TLS only, a sixteenth of three of the five")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--clients", nargs="+", metavar="NAME", help="only those whose names begin so")
    parser.add_argument("--scale", type=float, metavar="F", help="make the large file smaller and the many files fewer")
    parser.add_argument("--target", type=Path, default=MEMORY_FOLDER, metavar="DIR", help="download below this folder")
    options = parser.parse_args(arguments)
    wanted = tuple(options.clients or ("",))
    clients = [client for client in CLIENTS if client.name.startswith(wanted)]
    if any(client.kind is Kind.PYTHON or client.name == "s5cmd" for client in clients):
        require_peers()
    scale = options.scale or (QUICK_SCALE if options.quick else 1.0)
    rounds = 1 if options.quick else options.rounds
    machine, found = Machine(), list[Measured]()
    rates = {name: checksum_rate_bytes_per_s(bytes(HASHED_BLOCK_BYTES), name) for name in ("adler32", "crc32c")}
    with scratch_folder() as scratch, scratch_folder(options.target) as target:
        ground = Ground(scratch, target, make_certificates(scratch))
        measuring = Cells(ground, clients, rounds)
        if not options.quick:
            Cells.measure_once(measuring, Shape("warming up", 2, 64 << 10))
        for cell in cells(options.quick, scale):
            found += measuring.measure(cell, (True,) if options.quick else (True, False))
    record = {"machine": machine.record(), "rounds": rounds, "checksum_bytes_per_s": rates}
    record["cells"] = [one.record() for one in found]
    write_part(options.json, "staging", record, tables(found, clients, rates, machine))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
