"""The PanDA queue as a frozen value: the CRIC fields that matter to a pilot, typed, units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pilot.job.errors import ExitCode, PilotCannotWork


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
    """One PanDA queue (CRIC ``pandaqueue``). None means that CRIC sets no limit (null, absent, 0 or negative).

    CRIC's MB are 2**20 bytes: Harvester writes the same figures as ``Mi`` into the pod (measured). Graces are factors.
    """

    name: str
    resource: str  # panda_resource, else siteid, else the name: the server's site name
    site: str
    active: bool  # state == ACTIVE: the configuration is in force
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
    min_time_s: int | None = None  # mintime, s
    time_floor_s: int = 0  # timefloor, minutes in CRIC: a further job may start until then; 0: one job
    core_power: float | None = None  # corepower, HS06 or HS23 per core
    rss_grace: float = 2.0  # params.pilot_rss_grace, percent on top
    workdir_grace: float = 1.2  # params.pilot_maxwdir_grace, percent on top
    walltime_grace: float = 1.0  # params.pilot_walltime_grace, percent on top
    names_resource: bool = True  # CRIC told ``resource``; else Harvester's computingSite may know better
    containers: tuple[ContainerChoice, ...] = ()
    container_options: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)  # environ: exported to the payload
    copytools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # acopytools: activity -> tools
    copytool_schemes: Mapping[str, Mapping[str, tuple[str, ...]]] = field(
        default_factory=dict
    )  # acopytools_schemas: activity -> tool -> URL schemes
    storages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # astorages: activity -> RSEs, default first
    allow_lan: bool = True
    allow_wan: bool = False
    direct_access_lan: bool = False
    direct_access_wan: bool = False
    allow_alternative_stage_out: bool = False  # params.allow_altstageout
    has_cvmfs: bool = False  # is_cvmfs
    workflow: str = ""  # Harvester's, for instance pull_ups or push
    params: Mapping[str, object] = field(default_factory=dict)  # the free keys as CRIC has them, k8s.* among them
    catchall: Mapping[str, str] = field(default_factory=dict)  # key=value; a bare flag has an empty value
    state: str = ""  # CRIC's own word
    last_modified: str = ""  # ISO, UTC without zone


class QueueNotActive(PilotCannotWork):
    """CRIC's ``state`` is not ACTIVE: the queue's configuration is not in force (exit 78)."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(
            ExitCode.QUEUE_NOT_ACTIVE,
            f"queue {queue.name} has the state {queue.state or 'none'} in CRIC, not ACTIVE, so the pilot takes no job: "
            "activate the queue in CRIC, or give another --queue",
        )


class QueueNotOnline(PilotCannotWork):
    """CRIC's ``status`` is offline (exit 83)."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(
            ExitCode.QUEUE_NOT_ONLINE,
            f"queue {queue.name} is {queue.status.value} in CRIC, so the pilot takes no job: "
            "set the queue online in CRIC, or give another --queue",
        )


def require_usable(queue: Queue) -> None:
    """Raise QueueNotActive or QueueNotOnline when no job may be taken for this queue.

    ``online``, ``test`` and ``brokeroff`` go on: a queue in brokeroff is to finish the work it has.
    """
    if not queue.active:
        raise QueueNotActive(queue)
    if queue.status is QueueStatus.OFFLINE:
        raise QueueNotOnline(queue)


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
