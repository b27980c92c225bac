from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import botocore.exceptions
import psutil
import pytest
import requests
import yaml
from botocore.config import Config

from pilot.options import BY_NAME
from pilot.sandbox.cli import main
from pilot.sandbox.control import Sandbox

PROGRAM = [sys.executable, "-m", "pilot.sandbox.cli"]
JOBS = [{"label": "one", "job": {"transformation": "bash-c", "jobPars": "true"}}]


def _run(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "run", "--state", str(state), *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def _started(state: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sandbox that has told its addresses."""
    child = subprocess.Popen([*PROGRAM, "run", "--state", str(state), *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    for line in child.stdout:
        if line.startswith("state:"):
            return child
    raise AssertionError("the sandbox did not start")


def _ended(child: subprocess.Popen[str]) -> int:
    code = child.wait(15)
    assert child.stdout
    child.stdout.close()
    return code


def _pids(state: Path) -> list[int]:
    pids: list[int] = json.loads((state / "sandbox.json").read_text())["pids"]
    return pids


def _wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 5
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < end, f"still alive: {pids}"
        time.sleep(0.02)


def test_a_command_runs_in_the_world_and_its_exit_code_is_the_answer(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps(JOBS))
    state = tmp_path / "state"
    listing = f'cat "$PILOT_CONFIG" && "{sys.executable}" -m pilot.sandbox.cli status --state "{state}"; exit 7'
    run = _run(state, "--submit", str(jobs), "--hello", "--", "bash", "-c", listing)
    assert run.returncode == 7, run.stderr
    assert [line.split(":")[0] for line in run.stdout.splitlines()[:6]] == [
        "server",
        "CRIC",
        "S3",
        "public logs",
        "monitor",
        "state",
    ]
    told = [line.split() for line in run.stdout.splitlines()[-2:]]
    assert [(line[1], line[2]) for line in told] == [("activated", "one"), ("activated", "hello")]
    _wait_until_gone(_pids(state))


def test_the_settings_file_names_everything_a_pilot_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_TEST_VARIABLE", "kept")
    run = _run(tmp_path, "--", "bash", "-c", "echo $SANDBOX_TEST_VARIABLE; kill -KILL $$")
    assert (run.returncode, run.stdout.splitlines()[-1]) == (128 + signal.SIGKILL, "kept")
    settings = yaml.safe_load((tmp_path / "pilot.yaml").read_text())
    assert set(settings) <= set(BY_NAME)
    files = ("cert", "key", "ca", "storage_ca", "google_application_credentials", "s3_key_file")
    assert all(Path(settings[name]).is_file() for name in files)
    assert {"server", "cric", "gcs_endpoint", "s3_endpoint", "transform_bases"} <= set(settings)


def test_a_missing_command_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path, "--", "no-such-command")
    assert (run.returncode, run.stderr) == (127, "pilot-sandbox: There is no command no-such-command.\n")


def test_a_signal_is_forwarded_to_the_command_once(tmp_path: Path) -> None:
    script = (
        'n=0; trap "n=\\$((n+1)); echo caught \\$n" TERM; echo ready; for i in $(seq 40); do sleep 0.02; done; exit 5'
    )
    child = _started(tmp_path, "--", "bash", "-c", script)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    rest = child.stdout.read()
    assert (_ended(child), rest) == (5, "caught 1\n")
    _wait_until_gone(_pids(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_command_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    child = _started(tmp_path)
    child.send_signal(number)
    assert _ended(child) == 0
    _wait_until_gone(_pids(tmp_path))


def test_a_killed_sandbox_leaves_no_process_behind(tmp_path: Path) -> None:
    child = _started(tmp_path, "--", "bash", "-c", "echo $$; exec sleep 60")
    assert child.stdout
    command = int(child.stdout.readline())
    child.kill()
    _ended(child)
    _wait_until_gone([*_pids(tmp_path), command])


@pytest.mark.parametrize("fronts", [[], ["--store-fronts"]], ids=["bare", "fronts"])
def test_the_object_stores_check_keys_and_show_public_logs(tmp_path: Path, fronts: list[str]) -> None:
    child = _started(tmp_path, *fronts)
    try:
        with Sandbox(tmp_path) as sandbox:
            about, ca = sandbox.about, str(tmp_path / "ca.pem")
        keys = yaml.safe_load((tmp_path / "s3-key").read_text())
        _check_s3(about["s3"], ca, keys)
        _check_gcs(about["gcs"], about["public_logs"], ca)
        first = json.loads((tmp_path / "sandbox.json").read_text())["ports"]
    finally:
        child.terminate()
        _ended(child)
    # What was stored stays, at the same address.
    again = _run(tmp_path, *fronts, "--", "true")
    assert f"public logs: {about['public_logs']}" in again.stdout
    assert json.loads((tmp_path / "sandbox.json").read_text())["ports"] == first
    assert (tmp_path / "s3" / "rubin-data" / "a" / "b.txt").read_bytes() == b"hi"


def _check_s3(url: str, ca: str, keys: dict[str, str]) -> None:
    def client(secret: str) -> boto3.client:
        return boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=secret,
            region_name="auto",
            verify=ca,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    good = client(keys["secret_key"])
    good.put_object(Bucket="rubin-data", Key="a/b.txt", Body=b"hi")
    assert good.get_object(Bucket="rubin-data", Key="a/b.txt")["Body"].read() == b"hi"
    assert good.head_object(Bucket="rubin-data", Key="a/b.txt")["ContentLength"] == 2
    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        client("wrong").get_object(Bucket="rubin-data", Key="a/b.txt")


def _check_gcs(url: str, public_logs: str, ca: str) -> None:
    with requests.Session() as session:
        session.trust_env, session.verify = False, ca
        stored = session.post(
            f"{url}/upload/storage/v1/b/drp-us-central1-logging/o?uploadType=media&name=logs/Q/x.txt",
            data=b"hello",
            headers={"Content-Type": "text/plain; charset=utf-8"},
            timeout=10,
        )
        assert stored.ok
        shown = session.get(f"{public_logs}Q/x.txt", timeout=10)
        assert (shown.text, shown.headers["Content-Type"]) == ("hello", "text/plain; charset=utf-8")


def test_jobs_are_submitted_listed_and_killed_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps(JOBS))
    state = tmp_path / "state"
    child = _started(state)
    try:
        assert main(["submit", "--state", str(state), str(jobs)]) == 0
        panda_id = capsys.readouterr().out.strip()
        assert main(["kill", "--state", str(state), panda_id]) == 0
        assert main(["kill", "--state", str(state), panda_id]) == 1
        assert main(["status", "--state", str(state)]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"{panda_id}  cancelled")
        assert captured.err == f"pilot-sandbox: Job {panda_id} is unknown or over.\n"
        second = _run(state)
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert "Another sandbox is running" in second.stderr
    finally:
        child.terminate()
        _ended(child)
    assert main(["status", "--state", str(state)]) == 1
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is not JSON"), ('[{"job": {}}]', "needs a 'transformation'"), (None, "No such file")],
)
def test_a_bad_jobs_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, sentence: str
) -> None:
    file = tmp_path / "jobs.json"
    if content is not None:
        file.write_text(content)
    assert main(["submit", "--state", str(tmp_path), str(file)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
