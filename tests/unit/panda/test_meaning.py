from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.job.model import Attempt
from pilot.panda import api_legacy, api_v1, meaning
from pilot.panda.meaning import Accepted, CredentialProblem, NoJobs, Refused, Retry, WrongGeneration
from pilot.ports import Acquired, JobStatus, NoJob, UpdateAnswer
from pilot.runtime.http import Answer

HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
MEANINGS = (Accepted, NoJobs, Retry, CredentialProblem, Refused, WrongGeneration)
RESULTS = (*MEANINGS, Acquired, NoJob, UpdateAnswer, JobStatus, tuple)

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([0, 20, 30, 60])
)
names = st.sampled_from(
    ["success", "message", "data", "StatusCode", "jobs", "command", "status", "attemptNr", "job_id"]
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5))
bodies = st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()) | st.just(HTML)
statuses = st.sampled_from([200, 204, 302, 400, 401, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 599])


def answer(body: bytes | object, status: int = 200, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, headers, content)


@settings(max_examples=200, deadline=None)
@given(bodies, statuses)
def test_every_answer_has_a_meaning(body: bytes, status: int) -> None:
    given_answer = answer(body, status)
    results = (
        meaning.of_v1(given_answer),
        meaning.of_legacy(given_answer),
        api_v1.acquired(given_answer),
        api_v1.updated(given_answer),
        api_v1.status_of(given_answer, Attempt(1, 0)),
        api_v1.bulk_updated(given_answer),
        api_legacy.acquired(given_answer),
        api_legacy.updated(given_answer),
        api_legacy.status_of(given_answer),
        api_legacy.bulk_updated(given_answer),
    )
    assert all(isinstance(result, RESULTS) for result in results)


@settings(max_examples=200, deadline=None)
@given(values)
def test_an_update_counts_as_delivered_only_with_status_code_0(value: object) -> None:
    v1, legacy = api_v1.updated(answer(value)), api_legacy.updated(answer(value))
    if isinstance(v1, UpdateAnswer):
        assert isinstance(value, dict)
        assert value["success"] is True
        assert value["data"]["StatusCode"] == 0
    if isinstance(legacy, UpdateAnswer):
        assert isinstance(value, dict)
        assert value["StatusCode"] == 0


@pytest.mark.parametrize("body", [[True, {}], [True, []], [True, "x"], [False, []], [True]], ids=str)
def test_the_shape_of_a_bulk_answer_is_no_answer_to_one_update(body: object) -> None:
    assert isinstance(api_legacy.updated(answer(body)), Retry)
    assert isinstance(api_legacy.acquired(answer(body)), Retry)
    assert isinstance(api_legacy.status_of(answer(body)), Retry)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML,
        b"\xff\xfe",
        b"[" * 100_000,
        b"{'success': True}",
        b"[]",
        b"null",
        b"{}",
        b'{"success": "true"}',
        b'"x"',
    ],
    ids=["empty", "html", "bytes", "deep", "repr", "list", "null", "object", "text for bool", "text"],
)
def test_a_200_that_is_no_answer_leaves_doubt(body: bytes) -> None:
    for meant in (meaning.of_v1(answer(body)), api_v1.acquired(answer(body)), api_legacy.acquired(answer(body))):
        assert isinstance(meant, Retry)
        assert meant.in_doubt


def test_a_database_error_is_none_of_a_success() -> None:
    body = {"success": True, "message": "Database error", "data": {"StatusCode": 30}}
    assert isinstance(api_v1.updated(answer(body)), Retry)


@pytest.mark.parametrize("status", [403, 404])
def test_a_method_that_is_not_offered_is_another_generation(status: int) -> None:
    assert isinstance(meaning.of_v1(answer(b"ERROR : method acquire_jobs is forbidden", status)), WrongGeneration)


def test_a_page_saying_forbidden_is_a_matter_of_credentials() -> None:
    assert isinstance(meaning.of_v1(answer(b"<html>403 Forbidden</html>", 403)), CredentialProblem)
    assert isinstance(meaning.of_v1(answer(b"ERROR : Jane Doe is banned", 403)), CredentialProblem)
    assert isinstance(meaning.of_v1(answer(b"", 401)), CredentialProblem)


def test_an_ingress_that_refuses_the_certificate_is_a_matter_of_credentials() -> None:
    page = b"<html><h1>400 Bad Request</h1>The SSL certificate error</html>"
    assert isinstance(meaning.of_v1(answer(page, 400)), CredentialProblem)


@pytest.mark.parametrize(
    ("status", "in_doubt"), [(408, False), (429, False), (500, False), (502, True), (503, False), (504, True)]
)
def test_a_status_that_passes_is_tried_again(status: int, in_doubt: bool) -> None:
    meant = meaning.of_legacy(answer(b"busy", status))
    assert isinstance(meant, Retry)
    assert meant.in_doubt is in_doubt


def test_the_server_says_how_long_to_wait() -> None:
    meant = meaning.of_v1(Answer(503, {"retry-after": "7"}, b""))
    assert isinstance(meant, Retry)
    assert meant.retry_after_s == 7
    late = meaning.of_v1(Answer(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""))
    assert isinstance(late, Retry)
    assert late.retry_after_s is None


def test_a_request_that_never_gets_better_is_refused() -> None:
    assert isinstance(meaning.of_v1(answer(b"too large", 413)), Refused)
    assert isinstance(meaning.of_legacy(answer(b"getJob() got an unexpected keyword argument 'x'", 500)), Refused)


def test_a_body_damaged_on_the_way_is_sent_again() -> None:
    """What the pilot sends is always JSON, so a server that read none got it cut."""
    text = b"ERROR : received invalid JSON : Expecting value: line 1 column 1 (char 0)"
    assert isinstance(meaning.of_v1(answer(text, 500)), Retry)


def test_words_of_the_server_become_one_bounded_line() -> None:
    meant = meaning.of_v1(answer({"success": False, "message": "Type error: \x1b[31m\n" + "x" * 5000, "data": None}))
    assert isinstance(meant, Refused)
    assert meant.why.isprintable()
    assert len(meant.why) <= meaning.WHY_MAX_CHARS


def test_a_parameter_that_looks_like_json_stays_a_text() -> None:
    result = api_legacy.acquired(answer(b"StatusCode=0&PandaID=1&jobPars=%7B%22a%22%3A+1%7D&maxWalltime=None"))
    assert isinstance(result, Acquired)
    assert result.definition["jobPars"] == '{"a": 1}'
    assert result.definition["maxWalltime"] is None


@pytest.mark.parametrize(
    ("command", "commands"),
    [
        (None, ()),
        ("NULL", ()),
        ("None", ()),
        ("", ()),
        (["tobekilled"], ()),
        ("tobekilled", ("tobekilled",)),
        ("debug,tobekilled", ("debug", "tobekilled")),
        (" debug , tail payload.log", ("debug", "tail payload.log")),
        ("," * 10_000, ()),
    ],
    ids=str,
)
def test_commands_are_words_between_commas(command: object, commands: tuple[str, ...]) -> None:
    body = {"StatusCode": 0, "command": command, "pilotSecrets": '{"password": "x"}'}
    result = api_legacy.updated(answer(body))
    assert isinstance(result, UpdateAnswer)
    assert result.commands == commands
    assert "password" not in repr(result)


def test_a_status_of_another_job_is_no_answer() -> None:
    body = {"success": True, "message": "", "data": [{"job_id": 2, "status": "running", "attempt_number": 0}]}
    assert isinstance(api_v1.status_of(answer(body), Attempt(1, 0)), Retry)


def test_an_empty_list_of_jobs_is_no_job() -> None:
    assert isinstance(api_v1.acquired(answer({"success": True, "message": "", "data": {"jobs": []}})), NoJob)
    assert isinstance(api_legacy.acquired(answer({"StatusCode": 0, "jobs": []})), NoJob)
