"""Every template as Harvester renders it: for each recorded queue, of both generations, in both modes."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from pilot.settings import PUSH_JOB_FILE, Settings, read_settings
from tests.kube.harvester import GENERATIONS, Generation, Submission, Worker, submit
from tests.kube.manifests import (
    KUBE,
    OLDEST_AND_NEWEST,
    OVERLAYS,
    QUEUES,
    SINCE,
    WORKERS,
    Builder,
    documents,
    queue,
    schema_complaints,
)
from tests.kube.rules import OF_WORKLOADS, complaints, container_of, pod_of, quantity

WORKERS_OF = {
    "PULL": Worker(),
    "PUSH": Worker(4712, job="PandaID=6000001&attemptNr=1&jobPars=x", job_ram_mb=1024),
}
CASES = [(*pair, *rest) for pair, *rest in product(WORKERS, QUEUES, get_args(Generation), WORKERS_OF)]


def rendered(
    builder: Builder, overlay: str, form: str, queue_name: str, generation: Generation, mode: str
) -> Submission:
    return submit(builder.worker(overlay, form), queue(queue_name), WORKERS_OF[mode], generation)


def understood(submission: Submission) -> Settings:
    """What pilot-start reads from the environment of the rendered pod, without any argument or settings file."""
    values = {name: value for name, value in submission.environment.items() if isinstance(value, str)}
    return read_settings({}, values, config_paths=())


@pytest.mark.parametrize(("overlay", "form", "queue_name", "generation", "mode"), CASES)
def test_a_rendered_job_is_accepted_and_the_pilot_in_it_knows_its_task(
    builder: Builder, overlay: str, form: str, queue_name: str, generation: Generation, mode: str
) -> None:
    found = rendered(builder, overlay, form, queue_name, generation, mode)
    assert schema_complaints(found.job, SINCE.get(overlay, (0, 0)), OLDEST_AND_NEWEST) == []
    twice = [n for n, times in Counter(e["name"] for e in found.container["env"]).items() if times > 1]
    assert set(twice) <= {"TMPDIR", "HOME"}
    # what Harvester adds breaks no rule either: the doubled names apart, which have one value each
    told = complaints(found.job, *OF_WORKLOADS)
    assert told == [f"environment variable {name} stands 2 times" for name in twice]
    assert {entry["value"] for entry in found.container["env"] if entry["name"] in twice} <= {"/pilotdir"}
    settings = understood(found)
    number = WORKERS_OF[mode].number
    assert (settings.queue, settings.worker_id, settings.harvester_id) == (queue_name, number, "rubin-harvester")
    assert (settings.workdir, settings.x509_proxy) == (Path("/pilotdir"), Path("/proxy/x509up_u25606"))
    assert settings.scheduler_id == "harvester-rubin-harvester"
    assert settings.job == (PUSH_JOB_FILE if mode == "PUSH" else None)
    assert settings.token_file is None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_template_needs_survives_harvester(builder: Builder, overlay: str) -> None:
    """Fields that Harvester replaces or drops are not relied upon: the rest of the pod comes out as it went in."""
    found = rendered(builder, overlay, "worker", "DOMA_LSST_DEV", "2026", "PUSH")
    text = builder.worker(overlay, "worker")
    (before,) = documents(text)
    container = container_of(before)
    for field in ("command", "image", "securityContext", "livenessProbe", "startupProbe", "imagePullPolicy"):
        assert found.container[field] == container[field], field
    for field in ("restartPolicy", "serviceAccountName", "securityContext", "terminationGracePeriodSeconds"):
        assert found.pod["spec"][field] == pod_of(before)[field], field
    assert container["env"] == found.container["env"][: len(container["env"])]
    assert pod_of(before)["volumes"] == found.pod["spec"]["volumes"][: len(pod_of(before)["volumes"])]


@pytest.mark.parametrize(("queue_name", "generation"), list(product(QUEUES, GENERATIONS)))
def test_the_work_volume_holds_what_the_queue_promises(
    builder: Builder, queue_name: str, generation: Generation
) -> None:
    found = rendered(builder, "moderatemem", "worker", queue_name, generation, "PULL")
    (volume,) = [entry for entry in found.pod["spec"]["volumes"] if entry["name"] == "pilot-dir"]
    promised = quantity(f"{queue(queue_name)['maxwdir']}Mi")
    assert quantity(volume["emptyDir"]["sizeLimit"]) >= promised
    if generation == "2026":
        assert quantity(found.container["resources"]["limits"]["ephemeral-storage"]) == promised
        assert understood(found).disk_limit_mib == queue(queue_name)["maxwdir"]


def test_todays_harvester_makes_the_job_name_the_batch_id(builder: Builder) -> None:
    found = rendered(builder, "highmem", "worker-recover", "DOMA_LSST_GOOGLE_TEST_HIMEM", "2026", "PULL")
    assert found.job["metadata"]["name"] == "pilot-4711"
    assert understood(found).batch_id == "pilot-4711"


def test_the_memory_of_an_overlay_is_not_changed_by_harvester(builder: Builder) -> None:
    found = rendered(builder, "highmem", "worker", "DOMA_LSST_GOOGLE_TEST_HIMEM", "2026", "PUSH")
    assert found.container["resources"]["limits"]["memory"] == "19136Mi"
    assert found.container["resources"]["requests"]["memory"] == "19136Mi"


def test_a_plain_template_takes_its_memory_from_cric() -> None:
    text = (KUBE / "worker/worker.yaml").read_text()
    found = submit(text, queue("DOMA_LSST_GOOGLE_TEST_HIMEM"), Worker(), "2026")
    assert found.container["resources"]["requests"]["memory"] == "18000.0Mi"
    assert "memory" not in found.container["resources"]["limits"]
