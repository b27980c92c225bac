"""The environment of a payload: what is in it, what is refused, and that it shows no secret by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pilot.job.model import Attempt, Job, Resources
from pilot.payload.environment import EnvironmentInput, PayloadEnvironment, payload_environment
from pilot.runtime.secret import Secret

JOB = Job(Attempt(6001, 2), 77, "j", "bash-c", "true", "managed", Resources())
NOTHING = EnvironmentInput({}, {}, {})


def environment(given: EnvironmentInput = NOTHING, job: Job = JOB) -> PayloadEnvironment:
    return payload_environment(job, given, "/h", "/t", "6001.2.abc")


def test_a_payload_gets_exactly_this_and_nothing_of_the_pilots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_TOKEN_FILE", "/secret")
    assert environment().revealed() == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/h",
        "TMPDIR": "/t",
        "PANDAID": "6001",
        "PanDA_TaskID": "77",
        "REALTIME_LOGFILES": "payload-log.json",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "PILOT_PAYLOAD_ID": "6001.2.abc",
    }


def test_the_store_the_queue_the_credentials_and_the_settings_add_to_it() -> None:
    given = EnvironmentInput(
        {"SITE": "x", "PANDAID": "1"}, {"PGPASSWORD": Secret("geheim")}, {"TMPDIR": "/mine"}, "https://s3.example"
    )
    values = environment(given).revealed()
    assert values["S3_ENDPOINT_URL"] == "https://s3.example"
    assert (values["SITE"], values["PGPASSWORD"], values["TMPDIR"]) == ("x", "geheim", "/mine")
    assert values["PANDAID"] == "6001"


def test_a_job_without_a_task_has_no_task_variable() -> None:
    assert "PanDA_TaskID" not in environment(job=replace(JOB, task_id=None)).values


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n"])
def test_what_is_no_name_is_refused_with_a_sentence(name: str) -> None:
    found = environment(EnvironmentInput({name: "x"}, {}, {}))
    assert name not in found.values
    assert len(found.refused) == 1


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PYTHONSTARTUP"])
def test_cric_may_not_load_code_into_every_program_but_the_operator_may(name: str) -> None:
    assert name not in environment(EnvironmentInput({name: "/x"}, {}, {})).values
    assert environment(EnvironmentInput({}, {}, {name: "/x"})).revealed()[name] == "/x"


@pytest.mark.parametrize("value", ["a\0b", "x" * 130_000])
def test_values_no_process_can_have_are_refused(value: str) -> None:
    found = environment(EnvironmentInput({}, {}, {"A": value}))
    assert "A" not in found.values
    assert "'A'" in found.refused[0]


def test_secrets_do_not_show_in_its_representation() -> None:
    assert "geheim" not in repr(environment(EnvironmentInput({}, {"AWS_SECRET_ACCESS_KEY": Secret("geheim")}, {})))
