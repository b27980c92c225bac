"""The job that was given: what Harvester and other messengers write is read, everything else is one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import Job
from pilot.job.parse import parse_job
from pilot.push import MAX_BYTES, read_given_job
from tests.contract.recordings import FOLDER
from tests.unit.parts import definition

JOB = definition(4711, jobPars="a b+c &=% é\n\t'\"; true", maxWalltime=None, debug="True")
TEXTS = {name: str(value) for name, value in JOB.items()}  # as urlencode writes them: None is the text None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pandaJobData.out"


def read(file: Path, content: str | bytes) -> Any:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_given_job(file)


def refused(file: Path, content: str | bytes | None = None) -> str:
    with pytest.raises(PilotCannotWork) as raised:
        read(file, content) if content is not None else read_given_job(file)
    sentence = str(raised.value)
    assert raised.value.exit_code is ExitCode.MISSING_FILE
    assert "\n" not in sentence and sentence.endswith("; check --job") and str(file) in sentence
    return sentence


def parsed(found: Any) -> Job:
    job = parse_job(found)
    assert isinstance(job, Job), job
    return job


# --- both forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quote_via", [quote_plus, quote], ids=["plus", "percent"])
@pytest.mark.parametrize("after", ["", "\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "\ufeff"], ids=["plain", "BOM"])
def test_url_encoded_pairs_are_read_whatever_surrounds_them(
    file: Path, quote_via: Any, before: str, after: str
) -> None:
    assert read(file, before + urlencode(JOB, quote_via=quote_via) + after) == TEXTS


@pytest.mark.parametrize("after", ["", "\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\r\n "], ids=["plain", "BOM", "blanks"])
@pytest.mark.parametrize(
    "shape",
    [
        JOB,
        [JOB],
        {"4711": JOB},
        {"StatusCode": 0, "jobs": [JOB]},
        {"success": True, "message": "", "data": {"StatusCode": 0, "jobs": [JOB]}},
    ],
    ids=["object", "list of one", "keyed by its id", "answer", "v1 answer"],
)
def test_json_is_read_in_the_shapes_there_are(file: Path, shape: object, before: str, after: str) -> None:
    text = json.dumps(shape, indent=1).replace("\n", "\r\n")
    assert read(file, before + text + after) == JOB


def test_both_forms_are_the_same_job(file: Path) -> None:
    assert parsed(read(file, urlencode(JOB))) == parsed(read(file, json.dumps(JOB)))
    assert parsed(read(file, urlencode(JOB))).parameters == JOB["jobPars"]


@pytest.mark.parametrize("name", ["legacy-getjob-job-urlencoded", "legacy-getjob-job"])
def test_a_recorded_answer_of_the_dispatcher_is_a_given_job(file: Path, name: str) -> None:
    requests = json.loads((FOLDER / f"{name}.json").read_text())["requests"]
    body = next(request["response_body"] for request in requests if "PandaID" in request["response_body"])
    assert parsed(read(file, body)).panda_id > 0


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=8))
def test_any_texts_come_through_both_forms(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str]) -> None:
    job = {**texts, "PandaID": "1"}
    file = tmp_path_factory.getbasetemp() / "given"
    assert read(file, urlencode(job)) == job
    assert read(file, json.dumps(job)) == job


def test_a_read_only_file_in_a_read_only_folder_will_do(file: Path) -> None:
    file.write_text("PandaID=1")
    file.chmod(0o400)
    file.parent.chmod(0o500)
    try:
        assert read_given_job(file) == {"PandaID": "1"}
    finally:
        file.parent.chmod(0o700)


# --- what is no job ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected key=value"),
        ("\ufeff\r\n", "expected key=value"),
        ("hello", "expected key=value"),
        ("a=b&c=d", "with a PandaID"),
        ('{"a": 1}', "with a PandaID"),
        ("{}", "holds 0 jobs"),
        ("[]", "holds 0 jobs"),
        ("[1]", "with a PandaID"),
        ("[[]]", "with a PandaID"),
        ('{"PandaID": ', "begins like JSON"),
        ("[" * 100_000, "begins like JSON"),
        (b"PandaID=1&x=\xff", "not UTF-8"),
        ("PandaID=many", "not a positive number"),
        ('{"PandaID": -1}', "not a positive number"),
        ('{"PandaID": null}', "not a positive number"),
        ('{"PandaID": [1]}', "not a positive number"),
        ("&".join(f"k{i}=1" for i in range(10_002)), "more than 10000 pairs"),
    ],
)
def test_what_is_no_definition_is_refused(file: Path, content: str | bytes, said: str) -> None:
    assert said in refused(file, content)


def test_push_is_exactly_one_job(file: Path) -> None:
    for shape in ([JOB, JOB], {"1": JOB, "2": JOB}, {"StatusCode": 0, "jobs": [JOB, JOB]}):
        assert "holds 2 jobs, and PUSH is exactly one" in refused(file, json.dumps(shape))


def test_a_key_that_says_two_things_is_refused_and_one_that_repeats_itself_is_not(file: Path) -> None:
    assert "'PandaID' stands there twice" in refused(file, "PandaID=1&x=y&PandaID=2")
    assert "'PandaID' stands there twice" in refused(file, '{"PandaID": 1, "PandaID": 2}')
    assert read(file, "PandaID=1&x=y&PandaID=1") == {"PandaID": "1", "x": "y"}


def test_a_file_without_end_is_refused_and_not_read_to_it(file: Path) -> None:
    with file.open("wb") as big:
        big.write(b"PandaID=1&x=")
        big.truncate(MAX_BYTES + 1)
    assert f"more than {MAX_BYTES} bytes" in refused(file)


def test_what_cannot_be_read_is_said(file: Path) -> None:
    assert "No such file" in refused(file)
    file.mkdir()
    assert "not a regular file" in refused(file) or "Is a directory" in refused(file)
    file.rmdir()
    os.mkfifo(file)
    assert "not a regular file" in refused(file)
