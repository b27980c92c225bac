"""The pilot's calls in one line each."""

from __future__ import annotations

from typing import Any

import requests

from pilot.sandbox.world import World

QUEUE = "DOMA_LSST_DEV"


def call(world: World, session: requests.Session, path: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = session.post(f"{world.server_url}/api/v1/{path}", json=body, timeout=10).json()
    return answer


def acquire(world: World, session: requests.Session, **filters: Any) -> list[int]:
    """The PandaIDs a pilot gets; none when the server says so."""
    answer = call(
        world, session, "pilot/acquire_jobs", **{"site_name": QUEUE, "prod_source_label": "managed"} | filters
    )
    if not answer["success"]:
        assert answer["message"] == "No jobs in PanDA"
        return []
    return [job["PandaID"] for job in answer["data"]["jobs"]]


def update(world: World, session: requests.Session, panda_id: int, status: str, **values: Any) -> str:
    """The command in the answer to an update."""
    answer = call(
        world, session, "pilot/update_job", **{"job_id": panda_id, "job_status": status, "attempt_nr": 0} | values
    )
    assert answer["success"], answer
    return str(answer["data"]["command"])


def submit(world: World, **job: Any) -> int:
    return world.sandbox.submit_job(**{"transformation": "bash-c", "jobPars": "true"} | job)
