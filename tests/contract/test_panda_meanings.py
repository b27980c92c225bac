"""Every recorded answer is understood as what it was: a table by hand, from the notes and comments of the recordings.

The words: `job`; `nojob`; `ok` an update without a command; `kill`, `done` and quoted commands; `is:<status>` a status;
`unknown` a job the server does not know; `yes` accepted without more; `bulk:<words joined by +>`; `creds` renew the proxy
or token; `bug` malformed, never right; `later` worth another try; `doubt` the same, and it may have been done; `other`
not offered here; `-` an operator's call, none of the pilot's.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from pilot.job.model import Attempt
from pilot.panda import api_legacy, api_v1, meaning
from pilot.panda.meaning import Accepted, CredentialProblem, NoJobs, Refused, Retry, WrongGeneration
from pilot.ports import Acquired, JobStatus, NoJob, UpdateAnswer
from tests.contract.recordings import RECORDED_SCENARIOS, Exchange, parameters, recordings

EXPECTED: dict[str, str] = {
    "legacy-auth": (
        "creds creds creds creds nojob creds creds kill kill nojob"
        " creds creds creds creds creds creds creds creds creds unknown"
    ),
    "legacy-batchid-mismatch": "job ok later ok",
    "legacy-bulk-update": "job bulk:ok+ok+kill bulk:ok+ok bug bug",
    "legacy-credentials": "creds creds creds creds creds other yes yes yes",
    "legacy-debug-mode": "job ok - 'debug' - 'debug,tail payload.log' - 'tail payload.log' 'tail payload.log'",
    "legacy-double-final": "job ok ok done done ok kill kill",
    "legacy-failed": "job ok ok",
    "legacy-failed-no-report": "job ok job ok",
    "legacy-finished-bad-report": "job ok job ok job ok job ok job ok job ok job ok",
    "legacy-getjob-bulk": "job job",
    "legacy-getjob-job": "job is:sent",
    "legacy-getjob-job-urlencoded": "job",
    "legacy-getjob-job-with-files": "job",
    "legacy-getjob-no-job": "nojob nojob nojob nojob nojob nojob nojob",
    "legacy-getstatus": "job is:sent is:sent yes",
    "legacy-holding": "job ok ok ok ok",
    "legacy-lifecycle-finished": "job ok ok ok is:running ok is:holding is:finished kill",
    "legacy-malformed": "job bug bug bug bug bug bug bug bug bug later bug ok other other other ok job later ok",
    "legacy-stale-attempt": "job ok kill kill ok ok",
    "legacy-tobekilled": "job ok - kill kill",
    "legacy-transferring": "job ok ok ok",
    "legacy-unknown-pandaid": "kill kill kill unknown ok ok",
    "legacy-update-running-urlencoded": "job ok ok ok",
    "legacy-worker-pilot-status": "yes yes yes bug yes bug",
    "v1-acquire-filters": "nojob nojob nojob nojob nojob nojob nojob job",
    "v1-acquire-job": "job is:sent",
    "v1-acquire-job-with-files": "job",
    "v1-acquire-jobs-bulk": "job job nojob",
    "v1-acquire-no-job": "nojob nojob nojob nojob nojob nojob doubt nojob other",
    "v1-auth": (
        "creds creds creds nojob nojob creds creds kill kill kill kill creds"
        " creds creds creds creds creds creds creds unknown creds yes yes"
    ),
    "v1-batchid-mismatch": "job ok later ok",
    "v1-bulk-update": "job bulk:ok+ok+kill bug bug bug bulk: bulk:ok+ok",
    "v1-credentials": "creds creds creds creds yes",
    "v1-debug-mode": "job ok - 'debug' - 'debug,tail payload.log' - 'debug,tobekilled' 'debug,tobekilled'",
    "v1-double-final": "job ok ok done done ok kill kill",
    "v1-failed": "job ok ok",
    "v1-failed-no-report": "job ok job ok",
    "v1-finished-bad-report": "job ok job ok job ok job ok job ok job ok job ok job ok job ok job ok",
    "v1-finished-no-files-job": "job ok ok",
    "v1-get-job-status": "job is:sent bug bug bug doubt",
    "v1-holding": "job ok ok ok ok",
    "v1-killed-before-start": "job - kill kill - nojob",
    "v1-lifecycle-finished": "job ok ok ok ok is:running ok is:holding is:finished kill",
    "v1-malformed": (
        "job bug bug bug bug nojob bug nojob bug bug"
        " bug bug bug bug bug bug ok bug bug ok"
        " bug later later bug later later bug bug bug bug"
        " bug bug other other other other other other ok job ok"
    ),
    "v1-no-attempt-final": "job ok job ok",
    "v1-stale-attempt": "job ok kill kill ok ok",
    "v1-tobekilled": "job ok - kill kill",
    "v1-tobekilled-finished": "job ok - kill",
    "v1-transferring": "job ok ok ok",
    "v1-unknown-job-id": "kill kill unknown bug bug",
    "v1-update-worker-node": "yes yes bug bug yes",
    "v1-update-worker-status": "yes yes yes bug yes bug later bug",
}


def rows() -> list[tuple[Exchange, str]]:
    return [
        (exchange, word)
        for scenario, words in EXPECTED.items()
        for exchange, word in zip(recordings()[scenario].exchanges, split(words), strict=True)
    ]


def split(words: str) -> list[str]:
    """At blanks, but not within quotes."""
    return [word.strip("'") for word in shlex.split(words, posix=False)]


def understood(exchange: Exchange) -> Any:
    """The answer, read by the function for the call it answers."""
    legacy, answer = exchange.sent.path.startswith("/server/"), exchange.answer
    match exchange.sent.path.rsplit("/", 1)[-1]:
        case "getJob" | "acquire_jobs":
            return api_legacy.acquired(answer) if legacy else api_v1.acquired(answer)
        case "updateJob" | "update_job":
            return api_legacy.updated(answer) if legacy else api_v1.updated(answer)
        case "getStatus":
            return api_legacy.status_of(answer)
        case "get_job_status":
            return api_v1.status_of(answer, Attempt(asked_for(exchange), 0))
        case "updateJobsInBulk" | "update_jobs_bulk":
            return api_legacy.bulk_updated(answer) if legacy else api_v1.bulk_updated(answer)
        case _:
            return meaning.of_legacy(answer) if legacy else meaning.of_v1(answer)


def asked_for(exchange: Exchange) -> int:
    """The first job a status query names; 0 where it names none."""
    ids = parameters(exchange.sent).get("job_ids", [0])
    return ids[0] if isinstance(ids[0], int) else 0


def worded(result: Any) -> str:
    """A result in the words of the table."""
    match result:
        case Acquired():
            return "job"
        case NoJob() | NoJobs():
            return "nojob"
        case UpdateAnswer(commands=()):
            return "ok"
        case UpdateAnswer(commands=commands):
            return {"tobekilled": "kill", "alreadydone": "done"}.get(",".join(commands), ",".join(commands))
        case JobStatus(status=status):
            return f"is:{status}" if status else "unknown"
        case CredentialProblem():
            return "creds"
        case Refused():
            return "bug"
        case Retry(in_doubt=in_doubt):
            return "doubt" if in_doubt else "later"
        case WrongGeneration():
            return "other"
        case Accepted():
            return "yes"
        case tuple():
            return "bulk:" + "+".join(worded(entry) for entry in result)
    raise AssertionError(f"{result!r} is in no class of meanings")


def test_every_recording_is_in_the_table() -> None:
    assert set(EXPECTED) == set(recordings())
    assert len(EXPECTED) == RECORDED_SCENARIOS


@pytest.mark.parametrize(("exchange", "word"), rows(), ids=str)
def test_a_recorded_answer_means_what_it_meant(exchange: Exchange, word: str) -> None:
    result = understood(exchange)
    if word == "-":
        assert isinstance(result, Accepted | Retry)
    else:
        assert worded(result) == word


@pytest.mark.parametrize("exchange", [e for e, word in rows() if word == "job"], ids=str)
def test_a_job_arrives_with_every_key_the_server_sent(exchange: Exchange) -> None:
    result = understood(exchange)
    assert isinstance(result, Acquired)
    assert int(result.definition["PandaID"]) > 0
    assert {"transformation", "jobPars", "attemptNr", "outFiles", "logFile", "destinationSE"} <= set(result.definition)
    if exchange.answer.text().startswith("{"):
        body = json.loads(exchange.answer.text())
        jobs = body.get("data", body).get("jobs", [body])
        assert result.definition == jobs[0]


def test_a_url_encoded_job_equals_the_same_job_as_json_but_for_its_types() -> None:
    (urlencoded,) = recordings()["legacy-getjob-job-urlencoded"].exchanges
    as_json = recordings()["legacy-getjob-job"].exchanges[0]
    texts, values = understood(urlencoded).definition, understood(as_json).definition
    assert set(texts) == set(values)
    assert {name for name in texts if texts[name] is None} == {name for name in values if values[name] is None}
    for name in ("coreCount", "maxWalltime", "minRamCount", "attemptNr", "resource_type", "inFiles", "destinationSE"):
        assert texts[name] == str(values[name])


@pytest.mark.parametrize(
    "exchange", [e for e, word in rows() if word in ("creds", "bug", "later", "doubt", "other")], ids=str
)
def test_the_reason_of_a_failure_is_one_short_line(exchange: Exchange) -> None:
    why = understood(exchange).why
    assert why
    assert len(why) <= 400
    assert why.isprintable()
