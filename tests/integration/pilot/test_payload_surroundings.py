"""What a payload sees: its exact environment and nothing of the pilot's; its inputs; and where its outputs go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
import requests
import yaml
from botocore.config import Config

from pilot.job.endpoint import deterministic_path
from pilot.sandbox.cric_server import DATA_BUCKET, DATA_ENDPOINT, LOG_BUCKET, LOG_ENDPOINT
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import (
    HASTY,
    PATH,
    QUEUE,
    SCOPE,
    PilotEnd,
    Pilots,
    adler32,
    input_keys,
    log_url,
    output_keys,
    public,
    submit,
    updates,
)

DUMP = "tr '\\0' '\\n' < /proc/$$/environ"


@dataclass(frozen=True)
class Bucket:
    """The data RSE's bucket as an outsider sees it."""

    client: Any

    def put(self, lfn: str, content: bytes) -> None:
        self.client.put_object(Bucket=DATA_BUCKET, Key=deterministic_path(SCOPE, lfn), Body=content)

    def get(self, lfn: str) -> bytes:
        answer = self.client.get_object(Bucket=DATA_BUCKET, Key=deterministic_path(SCOPE, lfn))
        content: bytes = answer["Body"].read()
        return content


@pytest.fixture(scope="module")
def bucket(world: World) -> Iterator[Bucket]:
    keys = yaml.safe_load((world.state_dir / "s3-key").read_text())
    client = boto3.client(
        "s3",
        endpoint_url=world.s3_url,
        region_name="us-east-1",
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        verify=str(world.ca_path),
        config=Config(proxies={}, s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
    yield Bucket(client)
    client.close()


def files(world: World, panda_id: int) -> dict[str, dict[str, Any]]:
    """The server's rows of a job's files by LFN."""
    return {row["lfn"]: row for row in world.sandbox.job(panda_id)["files"]}


# --- environment ------------------------------------------------------------------------------------------------------


def test_a_payload_gets_exactly_its_own_environment(world: World, pilots: Pilots) -> None:
    # The public logs show stars for what is secret, so that the values are compared by the payload itself.
    panda_id = submit(world, f'{DUMP}; test "$PGPASSWORD and $AWS_ACCESS_KEY_ID" = "pg-secret-word and declared-key"')
    queues = {
        QUEUE: {"payload_env": ["PGPASSWORD", "AWS_ACCESS_KEY_ID"], "payload_env_set": {"SITE_WORD": "from the site"}}
    }
    secrets = {
        "PGPASSWORD": "pg-secret-word",
        "AWS_ACCESS_KEY_ID": "declared-key",
        "AWS_SECRET_ACCESS_KEY": "undeclared",
    }
    others = {
        "MY_TOKEN": "pilots-own",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "LD_LIBRARY_PATH": "/nowhere",
        "BASH_ENV": "/x",
    }
    end = pilots.run(*HASTY, config=pilots.settings(queues=queues), env={**secrets, **others})
    assert end.jobs[panda_id]["state"] == "finished", end.stderr
    shown = public(world, log_url(world, panda_id, "payload.stdout")).text
    seen = dict(line.split("=", 1) for line in shown.splitlines())
    folder = end.workdir / f"jobs/{panda_id}.0"
    tracking = seen.pop("PILOT_PAYLOAD_ID")
    assert tracking.startswith(f"{panda_id}.0.")
    assert seen == {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": str(folder / "tmp/tmp/home"),
        "TMPDIR": str(folder / "tmp/tmp"),
        "PANDAID": str(panda_id),
        "PanDA_TaskID": "1001",
        "REALTIME_LOGFILES": "payload-log.json",
        "S3_ENDPOINT_URL": world.s3_url,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "PGPASSWORD": "*" * len("pg-secret-word"),
        "AWS_ACCESS_KEY_ID": "*" * len("declared-key"),
        "SITE_WORD": "from the site",
    }
    assert "pg-secret-word" not in end.stderr
    assert "pg-secret-word" not in public(world, log_url(world, panda_id)).text


def test_a_payload_holds_no_file_or_pipe_of_the_pilots(world: World, pilots: Pilots) -> None:
    panda_id = submit(world, "ls -l /proc/$$/fd")
    end = pilots.run(*HASTY)
    lines = public(world, log_url(world, panda_id, "payload.stdout")).text.splitlines()
    held = dict(line.split()[-3::2] for line in lines if "->" in line)
    assert held.pop("0") == "/dev/null"
    assert held
    assert all(target.startswith(str(end.workdir / f"jobs/{panda_id}.0")) for target in held.values()), held


# --- inputs and outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rse", [DATA_ENDPOINT, LOG_ENDPOINT], ids=["S3", "Google"])
def test_inputs_are_there_and_outputs_are_stored_verified_and_reported(
    world: World, pilots: Pilots, bucket: Bucket, rse: str
) -> None:
    content = f"made for {rse}\n".encode() * 1000
    if rse == DATA_ENDPOINT:
        bucket.put("in.txt", content)
    else:
        _put_google(world, f"logs/{deterministic_path(SCOPE, 'in.txt')}", content)
    keys = {**input_keys("in.txt", content, rse=rse), **output_keys("out.txt", "copy.txt", rse=rse)}
    panda_id = submit(world, "cp in.txt copy.txt; tr a-z A-Z < in.txt > out.txt", **keys)
    end = pilots.run(*HASTY)
    assert end.jobs[panda_id]["state"] == "finished", end.stderr
    world.sandbox.wait_for(panda_id, {"finished"}, 5)
    report = json.loads(updates(world, panda_id)[-1]["job_output_report"])
    assert set(report) == {"out.txt", "copy.txt", "log.tgz"}
    for lfn, made in (("out.txt", content.upper()), ("copy.txt", content)):
        entry = report[lfn]
        assert set(entry) == {"guid", "fsize", "adler32", "surl"}
        assert (entry["fsize"], entry["adler32"]) == (len(made), adler32(made))
        row = files(world, panda_id)[lfn]
        assert (row["status"], row["fsize"], row["checksum"]) == ("ready", len(made), f"ad:{adler32(made)}")
        if rse == DATA_ENDPOINT:
            assert bucket.get(lfn) == made
            assert entry["surl"].startswith(f"s3://{DATA_BUCKET}/")
        else:
            url = f"{world.gcs_url}/{LOG_BUCKET}/logs/{deterministic_path(SCOPE, lfn)}"
            assert public(world, url).content == made
            assert entry["surl"].startswith(f"gs://{LOG_BUCKET}/logs/")
    assert end.jobs[panda_id]["stages_s"]["stage_in"] > 0
    assert end.jobs[panda_id]["stages_s"]["stage_out"] > 0


@pytest.fixture(scope="module")
def troubled(
    world: World, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PilotEnd, dict[str, int]]]:
    """One pilot that has run jobs whose files are not as they should be."""
    bucket.put("good.txt", b"good")
    endless = input_keys("good.txt", b"good")
    ids = {
        "wrong checksum": submit(world, "true", **input_keys("good.txt", b"good", checksum="00000001")),
        "wrong size": submit(world, "true", **{**endless, "fsize": "5"}),
        "missing input": submit(world, "true", **input_keys("absent.txt", b"good")),
        "unknown storage": submit(world, "true", **input_keys("good.txt", b"good", rse="NO_SUCH_RSE")),
        "missing output": submit(world, "true", **output_keys("never-made.txt")),
        "one of two outputs": submit(world, "echo 1 > a.txt", **output_keys("a.txt", "b.txt")),
        "output is a link": submit(world, "ln -s /etc/hostname a.txt", **output_keys("a.txt")),
        "failed payload": submit(world, "echo 1 > a.txt; exit 4", **output_keys("a.txt")),
    }  # fmt: skip
    pilots = Pilots(world, tmp_path_factory.mktemp("troubled"))
    try:
        yield pilots.run(*HASTY), ids
    finally:
        pilots.stop_all()


@pytest.mark.parametrize(
    ("case", "codes", "words"),
    [
        ("wrong checksum", {1171}, "good.txt"),
        ("wrong size", {1099}, "good.txt"),
        ("missing input", {1331, 1100}, "absent.txt"),
        ("unknown storage", {1133}, "NO_SUCH_RSE"),
        ("missing output", {1165}, "never-made.txt"),
        ("one of two outputs", {1165}, "b.txt"),
        ("output is a link", {1165, 1137, 1303}, "a.txt"),
        ("failed payload", {1305}, "exit code 4"),
    ],
)
def test_trouble_with_files_is_a_failed_job_with_the_code_that_names_it(
    world: World, troubled: tuple[PilotEnd, dict[str, int]], case: str, codes: set[int], words: str
) -> None:
    end, ids = troubled
    job = world.sandbox.job(ids[case])
    assert job["status"] == "failed"
    assert job["fields"]["piloterrorcode"] in codes, job["fields"]["piloterrordiag"]
    assert words in job["fields"]["piloterrordiag"]
    assert end.jobs[ids[case]]["pilot_error_code"] == job["fields"]["piloterrorcode"]
    assert words in public(world, log_url(world, ids[case])).text
    assert end.exit_code == 0
    assert "Traceback" not in end.stderr


def _put_google(world: World, key: str, content: bytes) -> None:
    url = f"{world.gcs_url}/upload/storage/v1/b/{LOG_BUCKET}/o"
    with requests.Session() as session:
        session.trust_env = False
        parameters = {"uploadType": "media", "name": key}
        answer = session.post(url, params=parameters, data=content, verify=str(world.ca_path), timeout=10)
    assert answer.status_code == 200, answer.text
