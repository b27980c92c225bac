from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pilot.sandbox.submission import BadSubmission, file_rows, filled_definition, read_submission

DATA = Path(__file__).parents[2] / "data"
RECORDED = json.loads((DATA / "panda-wire" / "v1-acquire-job.json").read_text())
JOB = {"transformation": "bash-c", "jobPars": "true"}


def _read(entries: object) -> Any:
    return read_submission(json.dumps(entries), "jobs.json")


def test_a_small_job_gets_every_key_of_the_recorded_one() -> None:
    recorded = RECORDED["requests"][0]["response_body_json"]["data"]["jobs"][0]
    filled = filled_definition(JOB, 6100000007)
    assert list(filled) == [key for key in recorded if key not in ("StatusCode", "PandaID", "nSent")]
    assert {type(filled[key]) for key in filled} == {type(recorded[key]) for key in filled}
    differing = {key for key in filled if filled[key] != recorded[key]}
    named_by_the_job = {"transformation", "jobName", "jobDefinitionID", "jobPars", "logGUID"}
    assert differing == named_by_the_job | {"destinationDblock", "realDatasets", "minRamCount"}
    assert filled["destinationDblock"] == filled["realDatasets"] == "PandaJob_6100000007/"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "jobs.json is not JSON"),
        ("[]", "at least one job"),
        ('{"job": {}}', "must hold a JSON list"),
        ('[{"label": "a"}]', "Entry 0 of jobs.json must be an object with a key 'job'"),
        ('[{"job": {"jobPars": "x"}}]', "needs a 'transformation'"),
        ('[{"job": {"transformation": "x"}, "parents": "a"}]', "'parents' of entry 0"),
        ('[{"job": {"transformation": "x"}, "parents": [7]}]', "names the parent 7"),
        ('[{"job": {"transformation": "x"}, "parents": [[]]}]', "names the parent []"),
        ('[{"label": "a", "job": {"transformation": "x"}, "parents": ["a"]}]', "waits for itself"),
    ],
)
def test_a_bad_file_is_refused_with_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(BadSubmission) as refused:
        read_submission(text, "jobs.json")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_parents_are_named_by_label_or_by_panda_id() -> None:
    entries = _read(
        [
            {"label": "first", "job": {**JOB, "PandaID": 11}},
            {"label": "second", "parents": ["first", 11], "job": JOB},
        ]
    )
    assert entries[1].parents == (0,)


def test_a_diamond_of_parents_is_accepted_in_any_order() -> None:
    entries = _read(
        [
            {"label": "end", "parents": ["left", "right"], "job": JOB},
            {"label": "left", "parents": ["start"], "job": JOB},
            {"label": "right", "parents": ["start"], "job": JOB},
            {"label": "start", "job": JOB},
        ]
    )
    assert [entry.parents for entry in entries] == [(1, 2), (3,), (3,), ()]


def test_placeholders_of_the_old_panda_id_become_the_new_one() -> None:
    job = {**JOB, "PandaID": 5, "destinationDblock": "PandaJob_5/", "realDatasets": "PandaJob_<id>/"}
    filled = filled_definition(job, 9)
    assert (filled["destinationDblock"], filled["realDatasets"]) == ("PandaJob_9/", "PandaJob_9/")


def test_the_sample_workflow_is_accepted_and_its_pseudo_inputs_are_no_files() -> None:
    path = DATA / "minirc2_sample_panda_jobs.json"
    entries = read_submission(path.read_text(), path.name)
    assert len(entries) == 18
    assert all(entry.pseudo_input for entry in entries)
    rows = [row for entry in entries for row in file_rows(filled_definition(entry.job, 1), 1)]
    assert {row["lfn"] for row in rows} == {"log.tgz"}


def test_a_job_without_any_file_has_no_file_rows() -> None:
    assert list(file_rows(filled_definition({**JOB, "outFiles": "", "logFile": ""}, 1), 1)) == []


def test_inputs_and_outputs_become_rows_in_their_order() -> None:
    job = {
        **JOB,
        "inFiles": "a.fits,b.fits",
        "fsize": "10,20",
        "checksum": "ad:00000001,ad:00000002",
        "GUID": "g1,g2",
        "outFiles": "out.root,log.tgz",
        "destinationDblock": "d1,d2",
        "fileDestinationSE": "SANDBOX_S3,local",
    }
    rows = list(file_rows(filled_definition(job, 1), 1))
    assert [(row["lfn"], row["type"], row["fsize"]) for row in rows] == [
        ("a.fits", "input", 10),
        ("b.fits", "input", 20),
        ("out.root", "output", 0),
        ("log.tgz", "log", 0),
    ]
    assert [row["destinationse"] for row in rows[2:]] == ["SANDBOX_S3", "local"]
