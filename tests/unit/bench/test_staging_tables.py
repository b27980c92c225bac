"""What the tables say of figures: limits, goals, and who was asked how often."""

from __future__ import annotations

from tests.bench.cells import Cell, Measured
from tests.bench.content import Shape
from tests.bench.measure import Cost, Machine
from tests.bench.peers import CLIENTS
from tests.bench.staging_tables import Limits, tables

GB = 1_000_000_000
CLIENT = {client.name: client for client in CLIENTS}
MACHINE = Machine(cpu="a CPU", cores=2, python="3", kernel="6", date="2026-11-27", load=[0.0])


def measured(speeds: dict[str, float], *, count: int = 1, size_bytes: int = GB, cpu_s: float = 1.0) -> Measured:
    """A download of a cell in which each client came to so many MB/s."""
    cell = Cell("down", Shape("files", count, size_bytes))
    total_mb = cell.shape.total_bytes / 1e6
    told = {"wall_s": 0.5, "cpu_s": 0.5}
    return Measured(
        cell, True, {name: [Cost(total_mb / speed, cpu_s, 50_000_000, told)] for name, speed in speeds.items()}
    )


def limit_of(name: str, one: Measured) -> str:
    return Limits(one, CLIENTS).of(CLIENT[name], one).text()


def test_the_limit_is_of_those_who_did_as_much_and_names_the_dearest_step() -> None:
    one = measured(
        {
            "wire, 4 streams": 1000,
            "wire and file, 1 stream": 400,
            "wire, file, sums, 1 stream": 360,
            "pilot gs": 300,
            "curl": 380,
        }
    )
    assert limit_of("wire, 4 streams", one) == "wire 1,000"
    assert limit_of("curl", one) == "disk 400"
    assert limit_of("pilot gs", one) == "disk 360"
    slow = measured(
        {"wire, 4 streams": 1000, "wire and file, 1 stream": 900, "wire, file, sums, 1 stream": 300, "pilot gs": 290}
    )
    assert limit_of("pilot gs", slow) == "checksum 300"


def test_nobody_is_above_its_limit() -> None:
    one = measured(
        {"wire, 4 streams": 100, "wire and file, 1 stream": 90, "wire, file, sums, 1 stream": 80, "pilot gs": 500}
    )
    for name in one.costs:
        limit = Limits(one, CLIENTS).of(CLIENT[name], one)
        assert one.speed(name).median <= limit.speed


def goal_row(one: Measured) -> str:
    return next(
        line
        for line in tables([one], CLIENTS, {"crc32c": 1e10}, MACHINE).splitlines()
        if line.startswith("| pilot gs,")
    )


def test_a_goal_that_is_missed_is_marked_and_one_that_is_met_is_not() -> None:
    missed = goal_row(measured({"pilot gs": 100, "obstore gs": 200, "curl": 200, "wire, file, sums, 1 stream": 200}))
    assert "**0.50 (obstore gs)**" in missed and "**0.50 (curl)**" in missed and "**0.50 (wire)**" in missed
    met = goal_row(measured({"pilot gs": 190, "obstore gs": 180, "curl": 200, "wire, file, sums, 1 stream": 200}))
    assert "**" not in met


def test_a_small_file_has_its_goal_in_cpu_time_and_none_against_native_peers() -> None:
    speeds = {"pilot gs": 100.0, "obstore gs": 90.0, "curl": 500.0}
    row = goal_row(measured(speeds, count=1000, size_bytes=64 << 10, cpu_s=1.5))
    assert "**1.50**" in row and "0.20 (curl)" in row and "**0.20" not in row
    assert "**" not in goal_row(measured(speeds, count=1000, size_bytes=64 << 10, cpu_s=0.9))


def test_who_took_much_longer_than_the_pilot_is_not_asked_again_and_the_pilot_is() -> None:
    one = measured({"pilot gs": 100, "curl": 1000, "boto3": 49, "aws cli": 99})
    assert [name for name in one.costs if one.outrun(name)] == ["boto3"]
    assert not measured({"curl": 1000, "boto3": 1}).outrun("boto3")


def test_a_client_that_failed_is_told_in_its_table() -> None:
    one = measured({"pilot gs": 100})
    one.costs["curl"] = []
    one.failures["curl"] = "left with 22"
    (row,) = [line for line in tables([one], CLIENTS, {}, MACHINE).splitlines() if line.startswith("| curl")]
    assert "left with an error" in row
