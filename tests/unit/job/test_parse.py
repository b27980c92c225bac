"""Job definitions are hostile input: whatever comes, parse_job gives a Job or a MalformedJob, and never an exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.job.errors import PilotError
from pilot.job.model import Attempt, Checksum, FileSpec, Job, MalformedJob, Resources
from pilot.job.parse import SECRET_KEYS, SECRETS_MAX, SECRETS_TOTAL_CHARS, parse_job, secret_texts, without_secrets

DATA = Path(__file__).parents[2] / "data"
DEFINITION: dict[str, Any] = {"PandaID": 80, "attemptNr": 3, "transformation": "run.sh", "jobPars": "-x"}
FILES: dict[str, Any] = {
    "inFiles": "in_a.fits,in_b.fits",
    "GUID": "ga,gb",
    "fsize": "2880,5760",
    "checksum": "ad:a0b0c0d,md5:" + "F" * 32,
    "scopeIn": "panda_in,panda_in",
    "ddmEndPointIn": "RSE_A,local",
    "realDatasetsIn": "ds1,NULL",
    "outFiles": "out.root,test.log.tgz,more.root",
    "scopeOut": "s1,s2",
    "scopeLog": "slog",
    "ddmEndPointOut": "RSE_A,RSE_LOG,RSE_B",
    "realDatasets": "d1/,dlog/,d2/",
    "logFile": "test.log.tgz",
    "logGUID": "glog",
}


def recorded(name: str) -> dict[str, Any]:
    """The first job definition in a recording."""
    for request in json.loads((DATA / "panda-wire" / f"{name}.json").read_text())["requests"]:
        if '"PandaID"' in request["response_body"]:
            body = json.loads(request["response_body"])
            found: dict[str, Any] = body["data"]["jobs"][0] if "data" in body else body
            return found
    raise AssertionError(name)


def job(**changes: Any) -> Job:
    parsed = parse_job(DEFINITION | changes)
    assert isinstance(parsed, Job), parsed
    return parsed


def malformed(**changes: Any) -> MalformedJob:
    parsed = parse_job(DEFINITION | changes)
    assert isinstance(parsed, MalformedJob)
    return parsed


# --- what the server really sent --------------------------------------------------------------------------------------


BASH_ENC = "https://storage.googleapis.com/drp-us-central1-containers/bash-c-enc-new"
MB = 1 << 20


def in_file(lfn: str, guid: str, size_bytes: int, digits: str) -> FileSpec:
    return FileSpec(lfn, "panda_in", guid, size_bytes, Checksum("adler32", digits), "GKE-LSST_LOGS", "panda_in:ds1")


INPUTS = (
    in_file("in_a.fits", "11111111-2222-3333-4444-555555555555", 2880, "0a0b0c0d"),
    in_file("in_b.fits", "21111111-2222-3333-4444-555555555555", 5760, "1a0b0c0d"),
)
OUTPUTS = (FileSpec("out.root", rse="GKE-LSST_LOGS", dataset="user.test.out/"),)


@pytest.mark.parametrize(
    ("recording", "panda_id", "log_guid", "name"),
    [
        ("legacy-getjob-job", 80, "1435aee6-479a-4a95-b64e-f739e1a94be0", "a1324644"),
        ("v1-acquire-job", 111, "999fe102-f91a-4818-88af-094a62404736", "b6af05ea"),
    ],
)
def test_a_recorded_job_without_files_is_read_exactly(recording: str, panda_id: int, log_guid: str, name: str) -> None:
    definition = recorded(recording)
    assert parse_job(definition) == Job(
        attempt=Attempt(panda_id, 0),
        task_id=1001,
        name=f"test_u_user_run_00_isr_00.1001.000000_{name}",
        transformation=BASH_ENC,
        parameters=definition["jobPars"],
        prod_source_label="managed",
        resources=Resources(1, 2000 * MB, 500 * MB, 90000, 90000),
        log=FileSpec("log.tgz", guid=log_guid, rse="GKE-LSST_LOGS", dataset="PandaJob_1001/"),
        processing_type="Rubin",
        request_id=501,
    )


@pytest.mark.parametrize(
    ("recording", "panda_id", "log_guid", "name", "transformation", "parameters"),
    [
        ("legacy-getjob-job-with-files", 82, "1e36f904-5aa9-4ebb-b7cc-c6000e9fe945", "daeeb960", BASH_ENC, None),
        (
            "v1-acquire-job-with-files",
            112,
            "bd1a0686-5931-437b-b330-c321bfe7f1a6",
            "4b5ccac3",
            BASH_ENC.removesuffix("-enc-new"),
            "-o out.root -i %IN",
        ),
    ],
)
def test_a_recorded_job_with_files_is_read_exactly(
    recording: str, panda_id: int, log_guid: str, name: str, transformation: str, parameters: str | None
) -> None:
    definition = recorded(recording)
    assert parse_job(definition) == Job(
        attempt=Attempt(panda_id, 0),
        task_id=1001,
        name=f"test_u_user_run_00_isr_00.1001.000000_{name}",
        transformation=transformation,
        parameters=parameters or definition["jobPars"],
        prod_source_label="managed",
        resources=Resources(4, 8000 * MB, 500 * MB, 90000, 90000),
        inputs=INPUTS,
        outputs=OUTPUTS,
        log=FileSpec("test.log.tgz", guid=log_guid, rse="GKE-LSST_LOGS", dataset="PandaJob_1001/"),
        container_name="docker://docker.io/library/almalinux:9",
        processing_type="Rubin",
        request_id=501,
    )


def test_every_sample_job_of_the_miniature_pipeline_is_read() -> None:
    samples = json.loads((DATA / "minirc2_sample_panda_jobs.json").read_text())
    assert len(samples) == 18
    for sample in samples:
        parsed = parse_job(sample["job"])
        assert isinstance(parsed, Job), parsed
        assert parsed.attempt == Attempt(sample["job"]["PandaID"], 1)
        assert parsed.parameters == sample["job"]["jobPars"]
        assert (parsed.inputs, parsed.outputs) == ((), ())
        assert parsed.log is not None and parsed.log.lfn == "log.tgz"
        assert parsed.resources.min_ram_bytes == sample["job"]["minRamCount"] * MB
        assert parsed.resources.max_disk_bytes is None  # 0 is no limit


def test_files_and_their_columns_stay_together() -> None:
    parsed = job(**FILES)
    assert parsed.inputs == (
        FileSpec("in_a.fits", "panda_in", "ga", 2880, Checksum("adler32", "0a0b0c0d"), "RSE_A", "ds1"),
        FileSpec("in_b.fits", "panda_in", "gb", 5760, Checksum("md5", "f" * 32), None, None),
    )
    assert parsed.outputs == (
        FileSpec("out.root", "s1", rse="RSE_A", dataset="d1/"),
        FileSpec("more.root", "s2", rse="RSE_B", dataset="d2/"),
    )
    assert parsed.log == FileSpec("test.log.tgz", "slog", "glog", rse="RSE_LOG", dataset="dlog/")


# --- anything at all --------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**30, max_value=10**400)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["NULL", "", "None", "1,2", ",", "\ud800", "a\0b", "../x", "1" * 400])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
KEYS = sorted({*DEFINITION, *FILES, *SECRET_KEYS, "taskID", "jobName", "minRamCount", "maxWalltime", "allowNoOutput"})


@given(values)
def test_anything_at_all_gives_an_answer(anything: Any) -> None:
    assert isinstance(parse_job(anything), Job | MalformedJob)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values))
def test_any_mapping_gives_an_answer_and_a_panda_id_gives_an_attempt(changes: dict[str, Any]) -> None:
    assert isinstance(parse_job(changes), Job | MalformedJob)
    changes.pop("PandaID", None)
    parsed = parse_job(DEFINITION | FILES | changes)
    assert isinstance(parsed, Job | MalformedJob)
    assert parsed.attempt is not None and parsed.attempt.panda_id == 80
    if isinstance(parsed, Job):
        text = parsed.parameters + parsed.transformation + "".join(file.lfn for file in parsed.outputs)
        text.encode()
        assert "\0" not in text


@given(st.sampled_from(["legacy-getjob-job", "legacy-getjob-job-with-files", "v1-acquire-job-with-files"]), st.data())
def test_a_recorded_definition_with_one_value_changed_gives_an_answer(recording: str, data: st.DataObject) -> None:
    definition = recorded(recording)
    key = data.draw(st.sampled_from(sorted(definition)))
    definition[key] = data.draw(values)
    parsed = parse_job(definition)
    assert isinstance(parsed, Job | MalformedJob)
    assert key == "PandaID" or parsed.attempt is not None


@pytest.mark.parametrize("definition", [None, [], "PandaID=1", 7, {}, {"PandaID": None}, {"PandaID": "x"}])
def test_without_a_panda_id_there_is_nobody_to_report_to(definition: object) -> None:
    parsed = parse_job(definition)
    assert isinstance(parsed, MalformedJob) and parsed.attempt is None


@pytest.mark.parametrize("panda_id", [0, -1, True, 1 << 63, 10**400, "0", "1e3", "٣", float("nan"), float("inf"), []])
def test_a_panda_id_that_is_no_number_is_none(panda_id: Any) -> None:
    assert malformed(PandaID=panda_id).attempt is None


@pytest.mark.parametrize(("panda_id", "read"), [("80", 80), (80.0, 80), (" 80 ", 80), ((1 << 63) - 1, (1 << 63) - 1)])
def test_a_panda_id_comes_as_number_or_digits(panda_id: Any, read: int) -> None:
    assert job(PandaID=panda_id).panda_id == read


@pytest.mark.parametrize(
    ("attempt_nr", "read"), [(0, 0), ("2", 2), (None, 0), ("NULL", 0), (-1, 0), ("x", 0), (True, 0), (10**300, 0)]
)
def test_an_attempt_number_that_cannot_be_one_is_0(attempt_nr: Any, read: int) -> None:
    assert parse_job(DEFINITION | {"attemptNr": attempt_nr}).attempt == Attempt(80, read)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lfn",
    [
        "..",
        ".",
        "a/b",
        "../../etc/passwd",
        "/etc/passwd",
        "a\nb",
        "a\\b",
        "-rf",
        "--help",
        "a\tb",
        "ünïcode",
        "a$b",
        "a;b",
        "`a`",
    ],
)
@pytest.mark.parametrize("key", ["inFiles", "outFiles", "logFile"])
def test_a_name_that_is_no_plain_file_name_is_refused(key: str, lfn: str) -> None:
    diagnosis = malformed(**{key: lfn}).diagnosis
    assert diagnosis.error is PilotError.BAD_OUTPUT_FILE_NAME
    assert "\n" not in str(diagnosis)


@pytest.mark.parametrize("key", ["inFiles", "outFiles", "logFile"])
def test_a_name_may_have_255_characters_and_no_more(key: str) -> None:
    job(**{key: "x" * 255})
    assert malformed(**{key: "x" * 256}).diagnosis.error is PilotError.LFN_TOO_LONG


@pytest.mark.parametrize("lfn", ["a", "raw_2026-11-23T05:00.fits.gz", "a+b@c#d%e=f~g", "with space", ".hidden", "..."])
def test_a_plain_file_name_is_taken(lfn: str) -> None:
    assert job(outFiles=lfn).outputs == (FileSpec(lfn),)


@pytest.mark.parametrize("lfn", ["pilotlog.txt", "payload.stdout", "payload.stderr"])
def test_the_log_must_not_have_the_name_of_one_of_the_pilots_own(lfn: str) -> None:
    assert malformed(logFile=lfn).diagnosis.error is PilotError.BAD_OUTPUT_FILE_NAME


@pytest.mark.parametrize("scope", ["a/b", "..", "a b", "x" * 101])
def test_a_scope_that_could_be_a_path_is_refused(scope: str) -> None:
    assert malformed(inFiles="a", scopeIn=scope).attempt == Attempt(80, 3)
    malformed(outFiles="a", scopeOut=scope)
    malformed(logFile="a", scopeLog=scope)


def test_a_storage_endpoint_with_odd_characters_is_refused() -> None:
    malformed(inFiles="a", ddmEndPointIn="../x")


# --- lists that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["scopeIn", "GUID", "fsize", "checksum", "ddmEndPointIn", "realDatasetsIn"])
@pytest.mark.parametrize("entries", ["1", "1,2,3"])
def test_an_input_list_of_another_length_is_refused(key: str, entries: str) -> None:
    assert key in malformed(**FILES | {key: entries}).diagnosis.detail


@pytest.mark.parametrize("key", ["ddmEndPointOut", "realDatasets"])
def test_an_output_list_of_another_length_is_refused(key: str) -> None:
    assert key in malformed(**FILES | {key: "a,b"}).diagnosis.detail


@pytest.mark.parametrize("scopes", ["s1", "s1,s2,s3"])
def test_output_scopes_are_as_many_as_outputs_without_the_log(scopes: str) -> None:
    assert "scopeOut" in malformed(**FILES | {"scopeOut": scopes}).diagnosis.detail


@pytest.mark.parametrize("nothing", ["", "NULL", "None", "null", None, "NULL,NULL", "NULL,NULL,NULL", ","])
def test_a_list_of_nothing_is_no_list(nothing: str | None) -> None:
    parsed = job(**FILES | dict.fromkeys(("GUID", "fsize", "checksum", "scopeIn", "scopeOut"), nothing))
    assert [file.guid for file in parsed.inputs] == [None, None]
    assert [file.scope for file in parsed.outputs] == ["", ""]


def test_an_output_named_twice_is_refused() -> None:
    assert "twice" in malformed(outFiles="a,b,a").diagnosis.detail


def test_too_many_files_are_refused() -> None:
    malformed(inFiles=",".join(["a"] * 10_001))


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["NULL", "null", "None", "", "  ", None])
def test_the_servers_ways_of_saying_nothing_are_nothing(nothing: str | None) -> None:
    keys = ("taskID", "reqID", "container_name", "maxWalltime", "coreCount", "jobPars", "processingType", "inFiles")
    parsed = job(**dict.fromkeys(keys, nothing), prodSourceLabel=nothing)
    assert (parsed.task_id, parsed.request_id, parsed.container_name) == (None, None, None)
    assert parsed.resources == Resources()
    assert (parsed.parameters, parsed.processing_type, parsed.inputs) == ("", "", ())
    assert parsed.prod_source_label == "managed"


def test_a_job_without_a_command_is_malformed() -> None:
    assert "transformation" in malformed(transformation="NULL").diagnosis.detail


def test_parameters_keep_their_blanks() -> None:
    assert job(jobPars=" a  b\n").parameters == " a  b\n"


@pytest.mark.parametrize("limit", [0, -1, "0"])
def test_a_limit_of_nothing_is_no_limit(limit: Any) -> None:
    parsed = job(minRamCount=limit, maxDiskCount=limit, maxWalltime=limit, maxCpuCount=limit, coreCount=limit)
    assert parsed.resources == Resources()


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_a_text_that_no_file_can_hold_is_refused(text: str) -> None:
    malformed(jobPars=text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ad:1", Checksum("adler32", "00000001")),
        ("1A2B3C4D", Checksum("adler32", "1a2b3c4d")),
        ("md5:" + "a" * 32, Checksum("md5", "a" * 32)),
        ("a" * 32, Checksum("md5", "a" * 32)),
    ],
)
def test_checksums_come_in_these_forms(written: str, read: Checksum) -> None:
    assert job(inFiles="a", checksum=written).inputs[0].checksum == read


@pytest.mark.parametrize("written", ["ad:xyz", "sha1:" + "a" * 40, "ad:" + "a" * 9, "md5:12"])
def test_a_checksum_of_another_kind_is_refused(written: str) -> None:
    assert malformed(inFiles="a", checksum=written).diagnosis.error is PilotError.UNKNOWN_CHECKSUM_TYPE


@pytest.mark.parametrize("size", ["-1", "1.5", "1" * 19, "ten"])
def test_a_size_that_is_no_number_of_bytes_is_refused(size: str) -> None:
    malformed(inFiles="a", fsize=size)


@pytest.mark.parametrize(
    ("written", "checked"), [(False, False), ("False", False), ("false", False), (True, True), (None, True)]
)
def test_the_looping_check_can_be_switched_off(written: object, checked: bool) -> None:
    assert job(loopingCheck=written).looping_check is checked


def test_outputs_may_be_allowed_to_be_missing() -> None:
    assert job(allowNoOutput="a,NULL,b").allow_no_output == frozenset({"a", "b"})


def test_secrets_are_not_journalled() -> None:
    definition = DEFINITION | dict.fromkeys(SECRET_KEYS, "sesame")
    assert without_secrets(definition) == DEFINITION


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ('{"password": "sesame", "more": ["one", {"two": "three"}]}', ("sesame", "one", "three")),
        ({"password": "sesame", "number": 7, "nothing": None}, ("sesame",)),
        ('{"___file___:key.pem": "aGVsbG8gd29ybGQ="}', ("aGVsbG8gd29ybGQ=", "hello world")),
        ('{"___file___:key.pem": "no base64!"}', ("no base64!",)),
        ("no JSON", ("no JSON",)),
        ('"a text"', ("a text",)),
        ("[" * 100_000, ()),
        ([[[[[[[[[["too deep"]]]]]]]]]], ()),
        (7, ()),
        (None, ()),
        ("x" * 100_000, ()),
    ],
)
def test_the_secrets_of_a_definition_are_found_whatever_it_is(written: object, texts: tuple[str, ...]) -> None:
    assert secret_texts({"secrets": written}) == texts
    assert secret_texts({"secrets": written, "pilotSecrets": "another"}) == (*texts, "another")


def test_what_is_no_definition_has_no_secrets_and_one_of_many_has_so_many_and_no_more() -> None:
    assert secret_texts(None) == secret_texts("x") == secret_texts({}) == ()
    assert len(secret_texts({"secrets": {str(n): str(n) for n in range(1000)}})) == SECRETS_MAX


def test_a_number_too_long_to_be_written_is_refused() -> None:
    huge = 10**5000
    assert malformed(PandaID=huge).attempt is None
    assert malformed(jobName=huge).attempt == Attempt(80, 3)
    malformed(minRamCount=huge)


@pytest.mark.parametrize(
    "secrets",
    [{str(n): str(n) for n in range(1000)}, {"a": "x" * 100_000}, {str(n): f"{n}" * 20_000 for n in range(20)}],
)
def test_a_job_with_more_secrets_than_can_be_kept_is_malformed(secrets: dict[str, str]) -> None:
    job = parse_job({**DEFINITION, "secrets": secrets})
    assert isinstance(job, MalformedJob)
    assert "its secrets are too many or too long" in job.diagnosis.detail
    assert sum(map(len, secret_texts({"secrets": secrets}))) <= SECRETS_TOTAL_CHARS
