"""``make bench PARTS=staging``: files down and up, by the pilot's engine and by its peers, from the same servers in the same run.

    python -m tests.bench.staging [--rounds 3] [--quick] [--json FILE] [--clients NAME...] [--scale F] [--target DIR]

Every client is a fresh process, start-up included; the clients take turns in rounds; what arrived is checked. Nothing is
asserted about time. docs/performance.md says how to read the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.bench.authority import make_certificates
from tests.bench.cells import Cell, Cells, Ground, Measured
from tests.bench.content import Shape, checksum_rate_bytes_per_s
from tests.bench.measure import MEMORY_FOLDER, Machine, scratch_folder
from tests.bench.peers import CLIENTS, Kind, require_peers
from tests.bench.staging_tables import tables
from tests.bench.tables import write_part

LARGE, MEDIUM, SMALL = Shape("1 GiB", 1, 1 << 30), Shape("5 MB", 200, 5_000_000), Shape("64 KiB", 2000, 64 << 10)
HASHED_BLOCK_BYTES = 256 << 10  # the engine's
QUICK_SCALE = 1 / 16


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
    """1 when a client left with an error."""
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
        for cell in cells(options.quick, scale):
            found += measuring.measure(cell, (True,) if options.quick else (True, False))
    record = {"machine": machine.record(), "rounds": rounds, "checksum_bytes_per_s": rates}
    record["cells"] = [one.record() for one in found]
    write_part(options.json, "staging", record, tables(found, clients, rates, machine))
    return 1 if any(one.failures for one in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
