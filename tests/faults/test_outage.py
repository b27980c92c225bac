"""Half an hour without the PanDA server, in virtual time: the waits of the pilot's retries pass as fast as they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import FieldValue
from pilot.outbox import Delivery, deliver_final
from pilot.panda.auth import Credentials, X509Credentials
from pilot.panda.client import PandaClient
from pilot.runtime.stop import Stop
from pilot.sandbox.world import World
from tests.faults.checker import updates

OUTAGE_S, RECOVERY_S = 1800.0, 60.0
JOB = {"transformation": "bash-c-enc", "jobPars": "dHJ1ZQ==", "computingSite": "DOMA_LSST_DEV"}


class VirtualStop(Stop):
    """Waits take no time; when their sum reaches the outage's length the server is up again."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.passed_s = 0.0
        self._world = world

    def wait(self, timeout_s: float | None) -> bool:
        self.passed_s += timeout_s or 0.0
        if self.passed_s >= OUTAGE_S:
            self._world.faults.clear()
            self._world.bring_up("panda")
        return False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "world", stores=False, adder_delay_s=None) as world:
        yield world


@pytest.mark.parametrize("mode", ["refused", "503"])
def test_after_half_an_hour_of_outage_the_report_arrives_within_a_minute(world: World, mode: str) -> None:
    panda_id = world.sandbox.submit_job(**JOB)
    credentials = Credentials(X509Credentials(world.state_dir / "client.crt", world.state_dir / "client.key"), None)
    client = PandaClient((world.server_url,), "v1", credentials, ca=str(world.ca_path))
    world.db.set_job(panda_id, status="running")
    stop = VirtualStop(world)
    if mode == "refused":
        world.take_down("panda", None)
    else:
        world.sandbox.fault("status", server="panda", status=503, count=1_000_000)
    body: dict[str, FieldValue] = {
        "job_id": panda_id,
        "job_status": "failed",
        "attempt_nr": 0,
        "pilot_error_code": 1201,
    }
    try:
        delivery = deliver_final(client, Attempt(panda_id, 0), ApiGeneration.V1, body, stop, 3600.0)
    finally:
        client.close()
    assert delivery is Delivery.ACKNOWLEDGED
    assert OUTAGE_S <= stop.passed_s <= OUTAGE_S + RECOVERY_S
    taken = [update for update in updates(world.db.ledger(), panda_id) if update.taken]
    assert [update.status for update in taken] == ["failed"]
    job = world.db.job(panda_id)
    assert job is not None
    assert job["status"] == "holding"
