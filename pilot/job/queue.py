"""The PanDA queue as a frozen value: the CRIC fields that matter to a pilot, typed, units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class QueueStatus(Enum):
    """CRIC ``status``. A queue that is ``brokeroff`` gets no new jobs brokered but its own may still be run."""

    ONLINE = "online"
    BROKEROFF = "brokeroff"
    TEST = "test"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class ContainerChoice:
    """One entry of CRIC's ``container_type``, for instance ``singularity:pilot``."""

    runtime: str
    user: str


@dataclass(frozen=True, slots=True)
class Queue:
    """One PanDA queue (CRIC ``pandaqueue``). None means that CRIC sets no limit (null, absent or 0)."""

    name: str
    resource: str  # panda_resource, else siteid: the server's site name
    site: str
    active: bool  # state == ACTIVE
    status: QueueStatus
    type: str = "production"
    resource_type: str = "grid"
    capability: str = "score"
    core_count: int = 1
    max_rss_bytes: int | None = None  # maxrss, MB in CRIC
    min_rss_bytes: int | None = None
    max_workdir_bytes: int | None = None  # maxwdir, MB
    max_input_bytes: int | None = None  # maxinputsize, MB
    max_time_s: int | None = None  # maxtime, s
    time_floor_s: int = 0  # timefloor, minutes in CRIC
    core_power: float | None = None
    rss_grace: float = 2.0  # params.pilot_rss_grace, percent on top
    workdir_grace: float = 1.2  # params.pilot_maxwdir_grace
    walltime_grace: float = 1.0  # params.pilot_walltime_grace
    containers: tuple[ContainerChoice, ...] = ()
    container_options: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)  # environ: exported to the payload
    copytools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # acopytools
    storages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # astorages
    allow_lan: bool = True
    allow_wan: bool = False
    direct_access_lan: bool = False
    direct_access_wan: bool = False
    params: Mapping[str, object] = field(default_factory=dict)
    catchall: Mapping[str, str] = field(default_factory=dict)
    last_modified: str = ""


class Transfer(Enum):
    """What is moved; it decides the list of CRIC activities that is searched."""

    INPUT = "input"
    OUTPUT = "output"
    LOG = "log"


# One order that satisfies both generations of CRIC entries: the first activity of the list that the queue has wins.
ACTIVITIES: Mapping[Transfer, tuple[str, ...]] = {
    Transfer.INPUT: ("read_lan", "pr", "default"),
    Transfer.OUTPUT: ("write_lan", "pw", "w", "default"),
    Transfer.LOG: ("pl", "write_lan", "pw", "w", "default"),
}


def storages_for(queue: Queue, transfer: Transfer) -> tuple[str, ...]:
    """The RSE names of the first activity of the fall-through that the queue defines; empty: no storage (1133)."""
    for activity in ACTIVITIES[transfer]:
        names = queue.storages.get(activity, ())
        if names:
            return names
    return ()


def copytools_for(queue: Queue, transfer: Transfer) -> tuple[str, ...]:
    """The copy tools of the first activity of the fall-through that the queue defines."""
    for activity in ACTIVITIES[transfer]:
        names = queue.copytools.get(activity, ())
        if names:
            return names
    return ()
