"""One running world per module, without object stores, whose Adder runs at once; and sessions that speak to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from pilot.sandbox.world import World

REPORT = '{"log.tgz": {"guid": "g1", "fsize": 12, "adler32": "00000001"}}'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), stores=False, adder_delay_s=0.0) as world:
        yield world


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves work or faults to the next one."""
    yield
    if "world" in request.fixturenames:
        world: World = request.getfixturevalue("world")
        world.sandbox.clear_faults()
        for job in world.db.jobs("archived = 0"):
            world.db.set_job(job["panda_id"], status="closed", archived=1)


@pytest.fixture
def session(world: World) -> Iterator[requests.Session]:
    """A session with the pilot's certificate."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(world.ca_path)
        session.cert = (str(world.state_dir / "client.crt"), str(world.state_dir / "client.key"))
        session.headers["Accept"] = "application/json"
        yield session


@pytest.fixture
def anonymous(world: World) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(world.ca_path)
        session.headers["Accept"] = "application/json"
        yield session
