"""How a job is run again: nothing of a log opens the machine it is read on, and what is not as it was is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilot.job.errors import PilotCannotWork, StageInError
from pilot.job.limits import LimitSettings
from pilot.job.model import Checksum
from pilot.job.parse import parse_job
from pilot.job.replay import Recipe, Replay
from pilot.payload.apptainer import Bind
from pilot.payload.environment import EnvironmentInput, payload_environment
from pilot.payload.rungs import Level
from pilot.replay.find import folder_of, queue_in
from pilot.replay.inputs import input_stager
from pilot.replay.plan import Given, Plan, plan, require_command
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop
from pilot.storage.store import Stores
from tests.unit.job.test_replay import RECIPE
from tests.unit.parts import QUEUE, definition

SHA = Checksum("sha256", "0a" * 32)


def planned(recipe: Recipe | None = None, **given: Any) -> Plan:
    found = Replay(parse_job(definition()), RECIPE if recipe is None else recipe)
    return plan(found, Given(Path("/replay"), Path("/images"), **given))


def refused(recipe: Recipe, **given: Any) -> str:
    with pytest.raises(PilotCannotWork) as caught:
        planned(recipe, **given)
    return str(caught.value)


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_recorded_image_is_fetched_and_must_be_the_one_that_was_recorded() -> None:
    config = planned().config
    assert (config.image, config.image_checksum, config.runtime) == ("gs://images/stack.sif", SHA, "auto")


@pytest.mark.parametrize(
    "image", ["/", "/home", "/etc/passwd", "images/x.sif", "file:///", "docker://x/y", "../x", "GS:/x"]
)
def test_no_path_that_a_log_names_becomes_a_container(image: str) -> None:
    assert "give the image with --image" in refused(replace(RECIPE, image=image))


def test_an_image_of_the_persons_own_is_used_in_its_place_and_told() -> None:
    mine = planned(replace(RECIPE, image="/images/stack.sif"), image="/home/me/stack.sif")
    assert (mine.config.image, mine.config.image_checksum) == ("/home/me/stack.sif", None)
    assert any("the image is yours; the job ran in /images/stack.sif" in note for note in mine.notes)
    assert planned(replace(RECIPE, image="/x.sif"), queue_image="gs://mine/y.sif").config.image == "gs://mine/y.sif"


def test_a_job_that_ran_without_an_image_runs_without_one_whatever_its_definition_names() -> None:
    assert (planned(replace(RECIPE, image="")).config.image, planned(replace(RECIPE, image="")).config.runtime) == (
        None,
        "plain",
    )


def test_an_image_that_may_have_been_replaced_is_told() -> None:
    assert any("no checksum of" in note for note in planned(replace(RECIPE, image_checksum=None)).notes)
    assert not any("no checksum of" in note for note in planned().notes)


# --- variables, binds, limits -----------------------------------------------------------------------------------------


def test_a_variable_of_the_log_cannot_load_code_and_the_persons_own_may() -> None:
    hostile = replace(RECIPE, environment={"LD_PRELOAD": "/srv/evil.so", "BASH_ENV": "/srv/evil", "PLAIN": "1"})
    config = planned(hostile, variables={"LD_LIBRARY_PATH": "/mine", "KEY": Secret("k")}).config
    job = parse_job(definition())
    inputs = EnvironmentInput(config.queue.environment, config.credentials, config.added, None, "")
    values = payload_environment(job, inputs, "/home", "/tmp", "id").values  # type: ignore[arg-type]
    assert {"PLAIN", "LD_LIBRARY_PATH", "KEY"} <= set(values)
    assert not {"LD_PRELOAD", "BASH_ENV"} & set(values)


def test_secrets_that_are_missing_are_named_once() -> None:
    recipe = replace(RECIPE, hidden=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    (note,) = [note for note in planned(recipe, variables={"AWS_ACCESS_KEY_ID": "x"}).notes if "secret" in note]
    assert note.startswith("left out, because it is secret: AWS_SECRET_ACCESS_KEY; --env NAME ")


def test_nothing_of_this_machine_is_bound_that_the_person_does_not_name() -> None:
    recipe = replace(
        RECIPE,
        binds=("/:/host", "/data/registry:/registry:ro"),
        queue=replace(RECIPE.queue, container_options="-B /root --nv"),
    )
    told = planned(recipe)
    assert (told.config.binds, told.config.queue.container_options) == ((), "--nv")
    (note,) = [note for note in told.notes if "not bound here" in note]
    assert "/:/host, /data/registry:/registry:ro, /root:/root; --bind" in note
    mine = Bind("/my/copy", "/registry", read_only=True)
    bound = planned(recipe, binds=(mine,))
    assert bound.config.binds == (mine,)
    assert not any("registry" in note for note in bound.notes)


def test_the_limits_are_the_jobs_and_the_isolation_is_the_persons() -> None:
    limits = LimitSettings(4 << 30, None, 20 << 30, 100.0, 7, 8, 9)
    config = planned(replace(RECIPE, limits=limits, own_containers=True), required=Level.B, user="nobody").config
    assert (config.pod_memory_bytes, config.disk_limit_bytes, config.looping_s) == (4 << 30, 20 << 30, 100.0)
    assert (config.max_processes, config.max_inodes, config.max_stdout_bytes) == (7, 8, 9)
    assert (config.required, config.user, config.own_containers) == (Level.B, "nobody", True)


def test_a_command_that_is_not_known_is_not_run() -> None:
    with pytest.raises(PilotCannotWork, match=r"jobPars of the job held a secret.*--shell"):
        require_command(Replay(parse_job(definition()), RECIPE, masked=("jobPars",)))
    require_command(Replay(parse_job(definition()), RECIPE, masked=("jobName",)))


# --- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/etc/shadow", "file:///etc/shadow", "http://host/x", "ftp://host/x", "in.fits", ""])
def test_no_input_is_read_from_where_a_log_must_not_lead(url: str, tmp_path: Path) -> None:
    job = parse_job(definition(inFiles="in.fits", scopeIn="user.jane"))
    stager = input_stager(QUEUE, Stores({}), {"in.fits": (url,)}, None)
    with pytest.raises(StageInError, match=r"no address of it was recorded; --inputs DIR"):
        stager.stage_in(job, tmp_path, Stop())  # type: ignore[arg-type]


def test_inputs_come_from_their_recorded_addresses_or_from_the_persons_folder() -> None:
    job = parse_job(definition(inFiles="in.fits", scopeIn="user.jane"))
    recorded = {"in.fits": ("/etc/shadow", "gs://b/in.fits", "https://h/in.fits")}
    by_log = input_stager(QUEUE, Stores({}), recorded, None).sources(job, Stop())  # type: ignore[arg-type]
    assert by_log == {"in.fits": ("gs://b/in.fits", "https://h/in.fits")}
    mine = input_stager(QUEUE, Stores({}), recorded, Path("/mine")).sources(job, Stop())  # type: ignore[arg-type]
    assert mine == {"in.fits": ("/mine/in.fits",)}


# --- addresses --------------------------------------------------------------------------------------------------------

FOLDER = "https://storage.googleapis.com/bucket/logs/DOMA_LSST_DEV/PandaJob_4711"


@pytest.mark.parametrize(
    "url",
    [
        FOLDER,
        f"{FOLDER}/",
        f"{FOLDER}/pilotlog.txt",
        f"{FOLDER}/payload.stdout?generation=3#end",
        f"{FOLDER}/job.html",
        f"{FOLDER}/log.tgz",
    ],
)
def test_any_address_of_a_jobs_logs_leads_to_their_folder(url: str) -> None:
    assert folder_of(url) == FOLDER
    assert queue_in(url.partition("?")[0]) == "DOMA_LSST_DEV"


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("gs://bucket/logs/Q/PandaJob_1/pilotlog.txt", "gs://bucket/logs/Q/PandaJob_1"),
        ("https://host/copies/job-17/pilotlog.txt", "https://host/copies/job-17"),
        ("https://host/copies/job-17/", "https://host/copies/job-17"),
        ("https://host/copies/job-17", "https://host/copies/job-17"),
    ],
)
def test_other_places_of_logs_are_found_too(url: str, folder: str) -> None:
    assert folder_of(url) == folder


@pytest.mark.parametrize(
    "url", ["http://host/x", "file:///etc", "https:///x", "https://u:p@host/x/", "ftp://h/", "x://y"]
)
def test_what_is_no_address_of_logs_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(PilotCannotWork, match="is no address of logs"):
        folder_of(url)
