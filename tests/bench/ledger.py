"""What the sandbox server's ledger tells of pilots: when each job was acquired, told of, ended, and what came next.

A row has the arrival of a request and the commit of its answer, both by the wall clock of this machine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FINAL = ("finished", "failed")
KILL = "tobekilled"

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One job as the server saw it; moments in seconds since 1970. None: that never came."""

    panda_id: int
    acquired_at: float  # its definition was given
    running_at: float | None
    kill_told_at: float | None  # the first answer that said so
    final_at: float | None  # the final report arrived
    acknowledged_at: float | None
    next_asked_at: float | None  # the next request for a job arrived
    state: str
    told_at: tuple[float, ...]  # every update arrived


def acquires(entries: Iterable[Entry]) -> list[Entry]:
    """The requests for a job, in order."""
    return [entry for entry in entries if str(entry["path"]).endswith(("/acquire_jobs", "/getJob"))]


def turns(entries: Sequence[Entry]) -> list[Turn]:
    """The jobs of one pilot, in the order of their first updates."""
    asked = acquires(entries)
    updates = [(entry, _body(entry)) for entry in entries if str(entry["path"]).endswith("/update_job")]
    ids = dict.fromkeys(int(body["job_id"]) for _entry, body in updates)
    return [
        _turn(panda_id, [(entry, body) for entry, body in updates if int(body["job_id"]) == panda_id], asked)
        for panda_id in ids
    ]


def _turn(panda_id: int, updates: list[tuple[Entry, dict[str, Any]]], asked: list[Entry]) -> Turn:
    running = next((entry["arrived"] for entry, body in updates if body["job_status"] == "running"), None)
    killed = next((entry["committed"] for entry, _body in updates if KILL in str(entry["answer"])), None)
    final, state = None, str(updates[-1][1]["job_status"])
    for entry, body in updates:
        if body["job_status"] in FINAL and entry["committed"] is not None:
            final, state = entry, str(body["job_status"])
            break
    given = [entry["committed"] for entry in asked if entry["arrived"] < updates[0][0]["arrived"]]
    later = [entry["arrived"] for entry in asked if final and entry["arrived"] > final["arrived"]]
    return Turn(
        panda_id,
        given[-1] if given else updates[0][0]["arrived"],
        running,
        killed,
        final["arrived"] if final else None,
        final["committed"] if final else None,
        later[0] if later else None,
        state,
        tuple(entry["arrived"] for entry, _body in updates),
    )


def _body(entry: Entry) -> dict[str, Any]:
    body = entry["body"]
    found: dict[str, Any] = json.loads(body) if isinstance(body, str) else body
    return found


def lateness_s(told_at: Sequence[float], interval_s: float, jitter: float) -> list[float]:
    """How much later than the longest wait that jitter allows each beat came; 0 for one that came in time."""
    longest_s = interval_s * (1 + jitter)
    return [max(0.0, later - earlier - longest_s) for earlier, later in pairwise(told_at)]


def per_second(moments: Iterable[float], first: float, last: float) -> list[int]:
    """How many moments fall into each second from ``first`` to ``last``."""
    counts = Counter(int(moment - first) for moment in moments if first <= moment < last)
    return [counts[second] for second in range(int(last - first))]
