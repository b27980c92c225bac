"""Whatever a payload prints: no secret of the pilot's or of the job's is in anything that can be read from outside."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zlib
from pathlib import Path

import yaml

from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, QUEUE, Pilots, log_url, output_keys, public, shell_job, updates

JOB_SECRET = "the-jobs-own/secret+word"
PASSWORD = "data base & password"
# Printed in the ways in which it happens: a dump, a trace of the shell, a header, a URL, a message of a library.
PRINTING = """
set -x
env
echo "Authorization: Basic $(printf 'user:%s' "$PGPASSWORD" | base64 -w 0)"
printf '%s' "$PGPASSWORD" | base64
python3 -c 'import os, json, urllib.parse as u; p = os.environ["PGPASSWORD"]; print(u.quote(p), json.dumps(p), repr(p))'
cat CREDENTIALS >&2
echo JOB_SECRET > notes.txt
echo "RuntimeError: JOB_SECRET is refused" >&2
exit 3
"""


def contents(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        files = {name: opened.extractfile(name) for name in opened.getnames()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_no_secret_is_in_anything_that_leaves_the_pilot(world: World, pilots: Pilots) -> None:
    state = world.state_dir
    keys = yaml.safe_load((state / "s3-key").read_text())
    google = json.loads((state / "gcs-key.json").read_text())
    private_lines = [line for line in (state / "client.key").read_text().splitlines() if "-----" not in line]
    read = " ".join(str(state / name) for name in ("s3-key", "gcs-key.json", "client.key", "token"))
    command = PRINTING.replace("CREDENTIALS", read).replace("JOB_SECRET", JOB_SECRET)
    job = shell_job(command, **output_keys(), secrets=json.dumps({"nested": {"word": JOB_SECRET}}))
    panda_id = world.sandbox.submit_job(**job)
    queues = {QUEUE: {"payload_env": ["PGPASSWORD"]}}
    config = pilots.settings(queues=queues, token_file=str(state / "token"), origin="Rubin.production")
    end = pilots.run(*HASTY, "--require-isolation", "none", config=config, env={"PGPASSWORD": PASSWORD})

    assert end.jobs[panda_id]["state"] == "failed", end.stderr
    texts = {name: public(world, log_url(world, panda_id, name)).content for name in
             ("pilotlog.txt", "payload.stdout", "payload.stderr", "log.tgz")}  # fmt: skip
    seen = {**texts, **contents(texts["log.tgz"])}
    seen |= {"terminal": end.stderr.encode(), "summary": json.dumps(end.summary).encode()}
    seen |= {"updates": json.dumps(updates(world, panda_id)).encode()}
    journals = b"".join(path.read_bytes() for path in Path(end.workdir).rglob("*journal*") if path.is_file())
    assert str(job["jobPars"]).encode() in journals
    # the command of this test names the word itself, so that it can print it; whatever else is in the journals counts
    seen |= {"journals": journals.replace(str(job["jobPars"]).encode(), b"")}
    assert b"exit 3" in seen["payload.stderr"] and b"notes.txt" in " ".join(seen).encode()
    secrets = [JOB_SECRET, PASSWORD, keys["secret_key"], keys["access_key"], (state / "token").read_text().strip()]
    secrets += [*private_lines, *google["private_key"].splitlines()[1:-1]]
    forms = {form for secret in secrets for form in (secret, base64.b64encode(secret.encode()).decode()) if secret}
    leaked = {(name, form) for name, content in seen.items() for form in forms if form.encode() in content}
    assert leaked == set()
    for part in ("data%20base", "data+base", "data\\ base"):
        assert part.encode() not in b"".join(seen.values())
    report = json.loads(updates(world, panda_id)[-1]["job_output_report"])["log.tgz"]
    assert (report["fsize"], report["adler32"]) == (len(texts["log.tgz"]), f"{zlib.adler32(texts['log.tgz']):08x}")
