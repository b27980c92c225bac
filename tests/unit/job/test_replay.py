"""replay.json: what is written is read back the same, without secrets; what is hostile is refused in words or stays data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.errors import Diagnosis, PilotError
from pilot.job.limits import LimitSettings
from pilot.job.model import Checksum, Job, MalformedJob
from pilot.job.outcome import Outcome
from pilot.job.parse import parse_job
from pilot.job.queue import Queue, QueueStatus
from pilot.job.replay import Recipe, Replay, read_replay, replay_document, replay_text
from pilot.job.states import JobState
from tests.unit.parts import WITH_INPUT, definition

QUEUE = Queue(
    "DOMA_LSST_DEV",
    "DOMA_LSST_DEV",
    "",
    True,
    QueueStatus.ONLINE,
    max_rss_bytes=1800 << 20,
    max_workdir_bytes=16336 << 20,
    max_time_s=90_000,
    rss_grace=2.0,
    container_options="-B /cvmfs --nv",
    params={"job_minramcount": True},
)
RECIPE = Recipe(
    queue=QUEUE,
    limits=LimitSettings(container_memory_bytes=4 << 30, looping_s=7200.0, max_processes=100),
    environment={"AWS_DEFAULT_REGION": "us-east-1", "S3_ENDPOINT_URL": "https://s3.example"},
    hidden=("AWS_SECRET_ACCESS_KEY",),
    image="gs://images/stack.sif",
    image_checksum=Checksum("sha256", "0a" * 32),
    binds=("/data/registry:/registry:ro",),
    realtime_logfiles="payload-log.json",
)
OUTCOME = Outcome(JobState.FAILED, 1, Diagnosis(PilotError.PAYLOAD_EXECUTION_FAILURE, "exit code 1: X: y"), 1, "X: y")
GIVEN = definition(**WITH_INPUT, secrets="open-sesame", pilotSecrets="open-sesame")


def replay(given: dict[str, Any] | None = None, **changes: Any) -> Replay:
    values: dict[str, Any] = {
        "job": parse_job(GIVEN if given is None else given),
        "recipe": RECIPE,
        "isolation": "A:apptainer",
        "sources": {"in.fits": ("gs://bucket/in.fits", "https://host/in.fits")},
        "outcome": OUTCOME,
        "pilot_version": "0.1.0",
    }
    return Replay(**{**values, **changes})


def written(given: dict[str, Any] | None = None, secret: str = "open-sesame", **changes: Any) -> dict[str, Any]:
    """The document as it goes out: through JSON."""
    given = GIVEN if given is None else given
    document = replay_document(replay(given, **changes), given, lambda text: text.replace(secret, "***"))
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


def read(document: object) -> Replay:
    found = read_replay(document)
    assert isinstance(found, Replay), found
    return found


# --- there and back ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_the_same() -> None:
    found = read(written())
    assert found == replay()
    assert isinstance(found.job, Job) and found.lost_command == ""


def test_it_is_stored_as_a_line_for_each_key() -> None:
    document = {"format": 1, "definition": {"jobPars": "a\nb \u2028"}, "binds": []}
    text = replay_text(document)
    assert json.loads(text) == document
    assert text.splitlines()[1:-1] == ['"format": 1,', '"definition": {"jobPars": "a\\nb \\u2028"},', '"binds": []']


def test_no_secret_is_in_it() -> None:
    text = json.dumps(written(definition(jobPars="--key open-sesame", secrets="open-sesame")))
    assert "sesame" not in text and "secrets" not in json.loads(text)["definition"]


def test_a_command_that_held_a_secret_is_known_as_not_the_one_that_ran() -> None:
    found = read(written(definition(jobPars="--key open-sesame", jobName="open-sesame")))
    assert found.masked == ("jobName", "jobPars")
    assert found.lost_command == "jobPars"


def test_a_variable_whose_value_holds_a_secret_is_told_by_name_only() -> None:
    recipe = Recipe(QUEUE, environment={"URL": "https://u:open-sesame@host", "PLAIN": "1"}, hidden=("KEY",))
    found = read(written(recipe=recipe)).recipe
    assert (dict(found.environment), found.hidden) == ({"PLAIN": "1"}, ("KEY", "URL"))


def test_a_job_that_is_still_running_has_no_outcome_yet() -> None:
    assert read(written(outcome=None)).outcome is None


# --- hostile documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "another version"),
        ({"format": None}, "another version"),
        ({"queue": None}, "queue is no object"),
        ({"queue": {"name": "../../etc"}}, "name"),
        ({"queue": {"name": "Q", "max_rss_bytes": -1}}, "max_rss_bytes"),
        ({"queue": {"name": "Q", "max_rss_bytes": 1 << 80}}, "max_rss_bytes"),
        ({"queue": {"name": "Q", "rss_grace": float("nan")}}, "rss_grace"),
        ({"queue": {"name": "Q", "rss_grace": "2"}}, "rss_grace"),
        ({"environment": {"A B": "1"}}, "environment"),
        ({"environment": {"A": 1}}, "the value of A"),
        ({"environment": {"A": "x\0y"}}, "the value of A"),
        ({"environment": {f"A{n}": "" for n in range(5000)}}, "environment"),
        ({"image": ["gs://x"]}, "image"),
        ({"image": "x" * 5000}, "image"),
        ({"binds": "a:b"}, "binds"),
        ({"binds": ["a:b"] * 1000}, "binds"),
        ({"sources": {"in.fits": "gs://x"}}, "in.fits"),
        ({"sources": {"in.fits": ["gs://x"] * 100}}, "in.fits"),
        ({"grace_s": 1e12}, "grace_s"),
        ({"limits": {"looping_s": -1}}, "looping_s"),
        ({"isolation": 7}, "isolation"),
    ],
)
def test_a_value_that_does_not_fit_is_told(changes: dict[str, Any], words: str) -> None:
    found = read_replay({**written(), **changes})
    assert isinstance(found, str)
    assert words in found


@pytest.mark.parametrize("document", [None, [], "text", 7, {}, {"format": 1}, {"format": True}])
def test_what_is_no_document_at_all_is_told(document: object) -> None:
    assert isinstance(read_replay(document), str)


def test_a_malformed_definition_is_the_jobs_own_diagnosis() -> None:
    found = read({**written(), "definition": {"PandaID": 1}})
    assert isinstance(found.job, MalformedJob)


@pytest.mark.parametrize(
    "outcome",
    [
        [],
        {},
        {"state": "no such"},
        {**written()["outcome"], "trans_exit_code": "1"},
        {**written()["outcome"], "pilot_error": [1305]},
        {**written()["outcome"], "pilot_error": [1305, 7]},
        {**written()["outcome"], "exe_error_diag": "x" * 100_000},
    ],
)
def test_an_outcome_that_cannot_be_read_is_none(outcome: object) -> None:
    assert read({**written(), "outcome": outcome}).outcome is None


@pytest.mark.parametrize("text", ["sha256", "sha1:00112233", "sha256:../..", "sha256:", 7, None, "sha256:" + "g" * 64])
def test_a_checksum_that_is_none_is_ignored(text: object) -> None:
    assert read({**written(), "image_checksum": text}).recipe.image_checksum is None


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(written())), HOSTILE)
def test_whatever_stands_in_it_a_value_or_words_come_back(key: str, value: object) -> None:
    assert isinstance(read_replay({**written(), key: value}), Replay | str)
