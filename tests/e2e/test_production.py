"""The miniature production whole: 18 jobs in the image the pilot fetched, the registry in PostgreSQL, the stars counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pilot.sandbox.postgres import Postgres
from pilot.sandbox.production import QUEUE, Production
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import PilotEnd, Pilots, log_url, processes_of, public, updates

JOBS = 18


@dataclass(frozen=True)
class Run:
    world: World
    production: Production
    postgres: Postgres
    end: PilotEnd
    ids: list[int]


@pytest.fixture(scope="module")
def run(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("production")
    with Postgres(folder / "postgres") as postgres, World(folder / "world", adder_delay_s=0.0) as world:
        production = Production(world, image, registry=postgres.registry)
        production.publish_image()
        production.make_repository()
        ids = world.sandbox.submit(production.submission())
        pilots = Pilots(world, folder)
        arguments = ("--max-jobs", str(len(ids)), "--max-empty", "10", "--empty-wait-s", "0.2")
        try:
            end = pilots.run(*arguments, config=production.settings_file(), env=production.credentials, timeout_s=240)
            yield Run(world, production, postgres, end, ids)
        finally:
            pilots.stop_all()


@pytest.mark.timeout(360)
def test_all_jobs_finish(run: Run) -> None:
    assert run.end.exit_code == 0, run.end.stderr
    assert len(run.ids) == JOBS
    for panda_id in run.ids:
        run.world.sandbox.wait_for(panda_id, {"finished"}, 5)
    assert Counter(job["state"] for job in run.end.jobs.values()) == {"finished": JOBS}
    labels = {run.world.sandbox.job(panda_id)["label"] for panda_id in run.ids}
    assert any(label.startswith("finalJob") for label in labels)
    assert any(label.startswith("pipetaskInit") for label in labels)


def test_every_job_ran_in_the_image_that_was_fetched_once(run: Run) -> None:
    assert {job["isolation"] for job in run.end.jobs.values()} == {"A:apptainer"}
    assert run.end.stderr.count("fetching image") == 1


def test_the_stars_are_found_again(run: Run) -> None:
    counted, words = run.production.count_stars()
    assert counted, words


def test_the_registry_is_in_postgresql(run: Run) -> None:
    repository = run.world.state_dir / "repo"
    assert not list(repository.glob("*.sqlite3"))
    config = yaml.safe_load((repository / "butler.yaml").read_text())
    assert f"127.0.0.1:{run.postgres.port}" in config["registry"]["db"]


def test_the_payloads_were_given_their_own_account_and_declared_keys_only(run: Run) -> None:
    settings = yaml.safe_load((run.world.state_dir / "production.yaml").read_text())
    declared = settings["queues"][QUEUE]["payload_env"]
    assert declared == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "PGUSER"]
    assert run.production.credentials["PGUSER"] == "payload"


def test_the_logs_of_every_job_are_public_and_hold_no_secret(run: Run) -> None:
    secrets = [run.postgres.registry.password, run.production.credentials["AWS_SECRET_ACCESS_KEY"]]
    for panda_id in run.ids:
        assert run.end.jobs[panda_id]["log_url"] == log_url(run.world, panda_id)
        for name in (
            "pilotlog.txt",
            "payload.stdout",
            "payload.stderr",
            "payload-log.json",
            "memory_monitor_output.txt",
        ):
            answer = public(run.world, log_url(run.world, panda_id, name))
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8"), name
            assert not any(secret in answer.text for secret in secrets)
    assert not any(secret in run.end.stderr for secret in secrets)


def test_every_report_names_the_stored_bundle(run: Run) -> None:
    for panda_id in run.ids:
        final = updates(run.world, panda_id)[-1]
        entry = json.loads(final["job_output_report"])["log.tgz"]
        content = public(run.world, log_url(run.world, panda_id, "log.tgz")).content
        assert entry["fsize"] == len(content)


def test_nothing_of_it_is_left(run: Run) -> None:
    assert processes_of(run.end.workdir) == []
    assert list((run.end.workdir / "jobs").iterdir()) == []
