"""The tables of the staging comparison: one for each cell and transport, and one that holds the pilot against its goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.cells import OUTRUN, Measured
from tests.bench.measure import Machine
from tests.bench.peers import UNCHECKED, WIRE_AND_FILE, WIRE_FILE_AND_SUMS, Client, Kind
from tests.bench.tables import table

OF_NATIVE_GOAL, OF_LIMIT_GOAL, MS_A_FILE_GOAL = 0.9, 0.8, 1.0
SMALL_BYTES = 1 << 20
HEAD = ("client", "compares", "MB/s", "CPU s/GB", "CPU ms/file", "RSS MB", "limit: MB/s", "of it")


@dataclass(frozen=True, slots=True)
class Limit:
    """What nothing that does this much work exceeded, and the step of the work that costs the most: ``wire``, ``disk``,
    ``checksum``. MB/s."""

    step: str
    speed: float

    def text(self) -> str:
        return f"{self.step} {self.speed:,.0f}"


class Limits:
    """The limits of a cell, measured in it: bytes dropped, written to a file, and both checksums computed on the way.

    Each is the best median of anything that did that work or more, so that no row is above its limit.
    """

    def __init__(self, one: Measured, clients: Sequence[Client]) -> None:
        verified = [client.name for client in clients if _verifies(client, one)]
        self._sums = _best(one, lambda name: name.startswith(WIRE_FILE_AND_SUMS) or name in verified)
        limits = [client.name for client in clients if client.kind is Kind.LIMIT]
        on_disk = _best(one, lambda name: name.startswith(WIRE_AND_FILE) or name not in limits)
        self._disk = max(on_disk, self._sums)
        self._wire = max(_best(one, lambda _name: True), self._disk)

    def of(self, client: Client, one: Measured) -> Limit:
        if client.kind is Kind.LIMIT and not client.name.startswith((WIRE_AND_FILE, WIRE_FILE_AND_SUMS)):
            return Limit("wire", self._wire)
        if not _verifies(client, one) and not client.name.startswith(WIRE_FILE_AND_SUMS):
            return Limit(_dearest({"disk": (self._wire, self._disk)}, self._wire), self._disk)
        steps = {"disk": (self._wire, self._disk), "checksum": (self._disk, self._sums)}
        return Limit(_dearest(steps, self._wire), self._sums)


def _verifies(client: Client, one: Measured) -> bool:
    return client.kind is not Kind.LIMIT and client.verifies(one.cell.direction) != UNCHECKED


def _best(one: Measured, wanted: Callable[[str], bool]) -> float:
    return max((one.speed(name).median for name, costs in one.costs.items() if costs and wanted(name)), default=0.0)


def _dearest(steps: Mapping[str, tuple[float, float]], wire: float) -> str:
    """The step that takes the most time for a byte; ``steps``: MB/s before and with each."""
    spent = {"wire": 1 / wire if wire else 0.0}
    spent |= {name: 1 / after - 1 / before if after and before else 0.0 for name, (before, after) in steps.items()}
    return max(spent, key=lambda name: spent[name])


def tables(found: Sequence[Measured], clients: Sequence[Client], rates: Mapping[str, float], machine: Machine) -> str:
    """All of it in Markdown."""
    parts = [_goals(found, clients), _how_to_read(rates, machine)]
    return "\n\n".join([*parts, *(_cell(one, clients) for one in found)])


def _how_to_read(rates: Mapping[str, float], machine: Machine) -> str:
    hashing = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates.items())
    return (
        f"{machine.sentence()} Median (least–most) of the rounds; whole processes, start-up included; source and target "
        f"in memory. *compares*: what a client itself holds against what store or job say; the others take what comes. *limit*: "
        f"the best of all that did as much work in the same cell, and which part of that work takes most of the time; a core "
        f"computes {hashing}. ¹ one round, over TLS: it took more than {OUTRUN:.0f} times as long as the "
        f"pilot."
    )


def _cell(one: Measured, clients: Sequence[Client]) -> str:
    limits, cell = Limits(one, clients), one.cell
    known = [client for client in clients if one.costs.get(client.name)]
    known.sort(key=lambda client: (client.kind is Kind.LIMIT, -one.speed(client.name).median))
    rows = [_row(one, client, limits.of(client, one)) for client in known]
    rows += [(name, "left with an error", *("" for _ in HEAD[2:])) for name in one.failures]
    rounds = "1 round" if one.rounds == 1 else f"{one.rounds} rounds"
    return f"**{cell.name}, {'TLS' if one.tls else 'plain'}, {rounds}**\n\n{table(HEAD, rows)}"


def _row(one: Measured, client: Client, limit: Limit) -> tuple[str, ...]:
    speed, compares = one.speed(client.name), client.verifies(one.cell.direction)
    if client.name.startswith(WIRE_FILE_AND_SUMS):
        compares = "nothing (computes)"
    return (
        f"{client.name}{' ¹' if one.outrun(client.name) else ''}",
        compares,
        speed.text(),
        one.cpu_s_per_gb(client.name).text(2),
        f"{_ms_a_file(one, client.name):,.2f}",
        f"{one.max_rss_bytes(client.name) / 1e6:.0f}",
        limit.text(),
        f"{speed.median / limit.speed:.2f}" if limit.speed else "",
    )


def _ms_a_file(one: Measured, name: str) -> float:
    return 1e3 * one.cpu_s_per_gb(name).median * one.cell.shape.total_bytes / 1e9 / one.cell.shape.count


def _goals(found: Sequence[Measured], clients: Sequence[Client]) -> str:
    """The pilot's own rows against the goals; a missed one is marked."""
    head = ("pilot", "to best Python peer", "started", "to best native peer", "of its limit", "CPU ms/file", "started")
    rows = [
        _against_goals(one, client, clients)
        for one in found
        for client in clients
        if client.kind is Kind.PILOT and one.costs.get(client.name)
    ]
    legend = (
        f"Throughput as a ratio; *started*: without the start of either process. Goals: ahead of every Python peer; "
        f"{OF_NATIVE_GOAL} of the quickest native one and {OF_LIMIT_GOAL} of the limit for large files; "
        f"{MS_A_FILE_GOAL:.0f} ms of CPU for a small one. **Bold**: missed."
    )
    return f"{table(head, rows)}\n\n{legend}"


def _against_goals(one: Measured, client: Client, clients: Sequence[Client]) -> tuple[str, ...]:
    speed = one.speed(client.name).median
    small = one.cell.shape.size_bytes < SMALL_BYTES
    large = one.cell.shape.count == 1
    limit = Limits(one, clients).of(client, one)
    started_cpu_s = one.started(client.name, "cpu_s")
    ms_a_file = _ms_a_file(one, client.name)
    return (
        f"{client.name}, {one.cell.name}, {'TLS' if one.tls else 'plain'}",
        _ratio(speed, one, Kind.PYTHON, clients, 1.0),
        _started_ratio(one, client, clients),
        _ratio(speed, one, Kind.NATIVE, clients, OF_NATIVE_GOAL if not small else 0.0),
        _marked(f"{speed / limit.speed:.2f} ({limit.step})", large and speed < OF_LIMIT_GOAL * limit.speed),
        _marked(f"{ms_a_file:,.2f}", small and ms_a_file > MS_A_FILE_GOAL),
        f"{1e3 * started_cpu_s.median / one.cell.shape.count:,.2f}" if started_cpu_s else "",
    )


def _ratio(speed: float, one: Measured, kind: Kind, clients: Sequence[Client], goal: float) -> str:
    peers = {
        client.name: one.speed(client.name).median
        for client in clients
        if client.kind is kind and one.costs.get(client.name)
    }
    if not peers:
        return "not measured"
    best = max(peers, key=lambda name: peers[name])
    return _marked(f"{speed / peers[best]:.2f} ({best})", speed < goal * peers[best])


def _started_ratio(one: Measured, client: Client, clients: Sequence[Client]) -> str:
    """To the quickest Python peer, both once they were started: imports and the making of clients left out."""
    told = {
        name: figure.median for name, costs in one.costs.items() if costs and (figure := one.started(name, "wall_s"))
    }
    peers = [other.name for other in clients if other.kind is Kind.PYTHON and other.name in told]
    if client.name not in told or not peers:
        return ""
    best = min(peers, key=lambda name: told[name])
    return _marked(f"{told[best] / told[client.name]:.2f} ({best})", told[best] < told[client.name])


def _marked(text: str, missed: bool) -> str:
    return f"**{text}**" if missed else text
