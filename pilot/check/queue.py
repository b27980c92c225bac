"""The queue and the storage of its logs: known to CRIC, in force, and fit for use."""

from __future__ import annotations

from collections.abc import Sequence

from pilot.check.finding import Finding, note, ok, refused, unknown, warning
from pilot.job.endpoint import READ_ACTIVITIES, WRITE_ACTIVITIES, Endpoint, doors_for
from pilot.job.errors import PilotCannotWork
from pilot.job.model import MEGABYTE
from pilot.job.queue import Queue, QueueStatus, Transfer, require_usable, storages_for

PILOT_ID_MAX_CHARS = 200  # the server cuts the log's URL there, silently


def usable(queue: Queue, source: str) -> list[Finding]:
    """The queue, once it is known. ``source``: where its description came from, in words."""
    try:
        require_usable(queue)
    except PilotCannotWork as refusal:
        return [refused("queue", refusal), ok("queue limits", _limits(queue))]
    detail = f"{queue.name} is {queue.status.value} and {queue.state or 'ACTIVE'} ({source})"
    if queue.status is QueueStatus.BROKEROFF:
        found = warning("queue", detail, "it is given no new jobs until it is set online in CRIC")
    elif queue.status is QueueStatus.TEST:
        found = note("queue", detail, "only test jobs are given to it")
    else:
        found = ok("queue", detail)
    return [found, ok("queue limits", _limits(queue))]


def _limits(queue: Queue) -> str:
    def mb(size_bytes: int | None) -> str:
        return "none" if size_bytes is None else f"{size_bytes // MEGABYTE} MB"

    time = "none" if queue.max_time_s is None else f"{queue.max_time_s} s"
    return (
        f"memory {mb(queue.max_rss_bytes)} x {queue.rss_grace:g}, work folder {mb(queue.max_workdir_bytes)} x "
        f"{queue.workdir_grace:g}, time {time}, timefloor {queue.time_floor_s // 60} min, cores {queue.core_count}"
    )


def storage(endpoint: Endpoint, door_url: str, public_url: str) -> list[Finding]:
    """The RSE of the logs. ``door_url``: where they are written; ``public_url``: an example of where they are read."""
    name = "log storage"
    detail = f"{endpoint.name}: written to {door_url}, read at {public_url}"
    if not endpoint.active:
        state = endpoint.state or "none"
        remedy = "set its state to ACTIVE in CRIC: files of jobs are not moved from or to it (1133), logs are"
        return [warning(name, f"{detail}; its state in CRIC is {state}", remedy)]
    if len(public_url) > PILOT_ID_MAX_CHARS - len("|Kubernetes|PR|0.1.0"):
        remedy = (
            f"the PanDA server cuts pilotID at {PILOT_ID_MAX_CHARS} characters: choose a shorter log_url_base or path"
        )
        return [warning(name, f"{detail}; that is {len(public_url)} characters long", remedy)]
    return [ok(name, detail)]


def other_storages(queue: Queue, known: dict[str, Endpoint | str], schemes: tuple[str, ...]) -> list[Finding]:
    """The queue's storages of inputs and outputs, as far as it names any. ``known``: by name, or why it is not known."""
    found = []
    for kind, transfer, activities in (
        ("input storage", Transfer.INPUT, READ_ACTIVITIES),
        ("output storage", Transfer.OUTPUT, WRITE_ACTIVITIES),
    ):
        names: Sequence[str] = storages_for(queue, transfer)[:1]
        if not names:
            found.append(note(kind, f"queue {queue.name} names none; jobs must name their own"))
        for name in names:
            found.append(_other(kind, known[name], activities, schemes) if name in known else unknown(kind, name))
    return found


def _other(kind: str, endpoint: Endpoint | str, activities: tuple[str, ...], schemes: tuple[str, ...]) -> Finding:
    if isinstance(endpoint, str):
        return warning(kind, endpoint, "jobs with files there will fail; see its entry in CRIC")
    doors = doors_for(endpoint, activities, schemes)
    wanting = [
        words
        for words, lacking in (
            (f"its state in CRIC is {endpoint.state or 'none'}, not ACTIVE", not endpoint.active),
            ("it is not deterministic", not endpoint.deterministic),
            (f"it has no {', '.join(schemes)} door for {', '.join(activities)}", not doors),
        )
        if lacking
    ]
    if wanting:
        remedy = "jobs with files there will fail (1133, 1313 or 1329): mend its entry in CRIC"
        return warning(kind, f"{endpoint.name}: {'; '.join(wanting)}", remedy)
    return ok(kind, f"{endpoint.name}: {', '.join(door.url('') for door in doors)}")
