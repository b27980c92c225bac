"""What is done to a run: one or two strikes, each a fault at a point of the pilot's life. One seed decides everything."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from pilot.runtime.probe import Point
from tests.faults.failing_disk import DiskRule, Site

OUTAGE_S = (0.6, 1.6)  # shortest and longest of a server fault
STOPPED_S = (0.7, 1.5)  # of a SIGSTOP: several heartbeats of 0.3 s
CLOCK_STEP_S = 3600
CONTAINED_SHARE = 0.2  # of the plans: the payload runs in Apptainer
LOUD = ("chmod", "utimens", "unlink", "rmdir", "chown")  # their failing spoils nothing: one try each is enough
EVERY_RECORD = 12  # of a journal: each of its writes is a site of its own


class Fault(Enum):
    """The 14 faults. The value says what happens."""

    KILL = "kill -9 of the pilot"
    SIGTERM = "SIGTERM to the pilot"
    SIGSTOP = "SIGSTOP, and SIGCONT later"
    PAYLOAD_KILLED = "the payload's processes are killed"
    SERVER_REFUSED = "the PanDA server's port is closed"
    SERVER_5XX = "the PanDA server answers 503"
    SERVER_HANGS = "the PanDA server says nothing, then resets"
    RESET_AFTER_COMMIT = "the PanDA server acts and then resets the connection"
    MALFORMED_ANSWER = "the PanDA server answers nonsense"
    STORAGE_503 = "the object stores answer 503"
    STORAGE_403 = "the object stores answer 403"
    ENOSPC = "the work volume is full to the last byte"
    FSYNC_EIO = "fsync fails with EIO"
    CLOCK_STEP = "the pilot's wall clock steps by an hour"


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault at the ``nth`` time a point is reached. ``lasts_s``: until it is mended.

    ``variant`` is what a fault leaves open: ``commit`` (the server acts before it misbehaves), ``always`` (each fsync from
    then on), ``back`` (the clock goes back), ``late`` (mended only when the pilot has left: it outlasts every patience).
    """

    point: Point
    fault: Fault
    nth: int = 1
    lasts_s: float = 1.0
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. ``apis``: what the server speaks, "both" or "legacy". ``contained``: the payload runs in a container.

    ``watched``: the work volume is a file layer that notes what is written where; ``disk``: and lets one write fail.
    """

    name: str
    seed: int
    strikes: tuple[Strike, ...] = ()
    apis: str = "both"
    contained: bool = False
    watched: bool = False
    disk: DiskRule | None = None

    @property
    def text(self) -> str:
        """The plan as JSON."""
        return json.dumps(_names(asdict(self)))

    def has(self, fault: Fault) -> bool:
        return any(strike.fault is fault for strike in self.strikes)

    def at(self, point: Point) -> bool:
        return any(strike.point is point for strike in self.strikes)


def _names(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _names(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_names(entry) for entry in value]
    return value


_VARIANTS = {
    Fault.SERVER_REFUSED: ("", "", "late"),
    Fault.SERVER_5XX: ("", "", "late"),
    Fault.STORAGE_503: ("", "", "late"),
    Fault.SERVER_HANGS: ("", "commit"),
    Fault.MALFORMED_ANSWER: ("", "commit"),
    Fault.FSYNC_EIO: ("", "always"),
    Fault.CLOCK_STEP: ("", "back"),
    Fault.ENOSPC: ("", "late"),
}


def _strike(rng: random.Random, point: Point, fault: Fault, nth: int = 1) -> Strike:
    span = STOPPED_S if fault is Fault.SIGSTOP else OUTAGE_S
    return Strike(point, fault, nth, round(rng.uniform(*span), 2), rng.choice(_VARIANTS.get(fault, ("",))))


def _plan(seed: int, name: str, wanted: list[tuple[Point, Fault, int]]) -> Plan:
    rng = random.Random(f"{seed} {name}")
    strikes = tuple(_strike(rng, point, fault, nth) for point, fault, nth in wanted)
    number, apis = rng.getrandbits(32), rng.choice(("both", "both", "both", "legacy"))
    # On a small volume a container's own files would be in the way of what is to be filled.
    contained = rng.random() < CONTAINED_SHARE and not any(strike.fault is Fault.ENOSPC for strike in strikes)
    return Plan(name, number, strikes, apis, contained)


def single_plans(seed: int) -> list[Plan]:
    """The whole matrix: each fault at each point."""
    return [
        _plan(seed, f"{point.name}-{fault.name}".lower().replace("_", "-"), [(point, fault, 1)])
        for point in Point
        for fault in Fault
    ]


def pair_plans(seed: int, count: int) -> list[Plan]:
    """Seeded pairs: two faults at two points, or at one, together or the second when it is reached again."""
    return [_pair(seed, number) for number in range(count)]


def _pair(seed: int, number: int) -> Plan:
    """Two strikes of which the first does not keep the second from being reached, as far as the points alone tell."""
    rng = random.Random(f"{seed} pair {number}")
    while True:
        first = rng.choice(list(Point))
        second = first if rng.random() < 0.25 else rng.choice(list(Point))
        faults = rng.choice(list(Fault)), rng.choice(list(Fault))
        if first is second or not _in_the_way(*sorted([(first, faults[0]), (second, faults[1])], key=_position)):
            break
    nth = rng.choice((1, 1, 1, 2)) if second is first else 1
    return _plan(seed, f"pair-{number}", [(first, faults[0], 1), (second, faults[1], nth)])


WATCHED = Plan("watched", 1, watched=True)


def disk_plans(seed: int, sites: Mapping[Site, int]) -> list[Plan]:
    """A failing write at each site of a clean run, with EIO or ENOSPC, once or from then on; the journals at each record."""
    plans = []
    for site in sorted(sites, key=lambda site: (site.path, site.operation)):
        most = EVERY_RECORD if site.path.endswith("journal") and site.operation not in LOUD else 2
        for nth in sorted(
            {*range(1, min(sites[site], most) + 1), *((sites[site],) if site.operation not in LOUD else ())}
        ):
            name = f"disk-{site.operation}-{site.path.replace('/', '-')}-{nth}"
            rng = random.Random(f"{seed} {name}")
            rule = DiskRule(site, nth, rng.choice(("EIO", "EIO", "ENOSPC")), rng.random() < 0.5)
            plans.append(Plan(name, rng.getrandbits(32), disk=rule, watched=True))
    return plans


_POSITIONS = {point: position for position, point in enumerate(Point)}
_ENDING = frozenset(
    {Fault.KILL, Fault.SIGTERM, Fault.STORAGE_403, Fault.ENOSPC, Fault.FSYNC_EIO, Fault.CLOCK_STEP}
)  # a job or a pilot ends of these, so that the stages that follow are not reached
_UPLOADS = frozenset({Point.UPLOAD_BEGUN, Point.UPLOAD_MIDWAY, Point.UPLOAD_SENT})
_STOPPED = frozenset(
    {Point.BREACH_SEEN, Point.KILL_RECEIVED}
)  # such a payload does not end by itself: nothing to upload


def _position(strike: tuple[Point, Fault]) -> int:
    return _POSITIONS[strike[0]]


def _in_the_way(earlier: tuple[Point, Fault], later: tuple[Point, Fault]) -> bool:
    points = {earlier[0], later[0]}
    if points == _STOPPED or (points & _STOPPED and points & _UPLOADS):
        return True
    if earlier[1] not in _ENDING or _position(earlier) >= _POSITIONS[Point.PAYLOAD_EXITED]:
        return False
    # A successor does not go through what comes before the logs; and a job whose answer was lost is nobody's.
    if earlier[0] is Point.ACQUIRE_ASKING:
        return False
    return earlier[0] is Point.ACQUIRE_ANSWERED or _position(later) <= _POSITIONS[Point.UPLOAD_SENT]


def sample(plans: list[Plan], seed: int, count: int) -> list[Plan]:
    """A seeded choice, in the order of the matrix."""
    chosen = set(random.Random(f"{seed} sample").sample(range(len(plans)), min(count, len(plans))))
    return [plan for position, plan in enumerate(plans) if position in chosen]
