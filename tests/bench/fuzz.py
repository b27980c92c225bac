"""``make fuzz``: malformed job definitions and hostile server answers in large numbers; does anything crash, hang or grow?

Mutates the recorded definitions and answers. Prints counts, the slowest case and the growth of memory. A seed repeats a run.
"""

from __future__ import annotations

import argparse
import http.server
import json
import random
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from pilot.job.model import ApiGeneration, Job, MalformedJob
from pilot.job.parse import parse_job
from pilot.panda.auth import Credentials, TokenCredentials
from pilot.panda.client import PandaClient
from pilot.ports import ServerRefused, ServerUnreachable
from pilot.runtime.http import Timeouts
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.secret import SecretFile
from pilot.runtime.stop import Stop

RECORDINGS = Path(__file__).parents[1] / "data/panda-wire"
ONCE = RetryPolicy("fuzz", tries=1, first_s=0.0, cap_s=0.0, total_s=10.0)
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, float("nan"), 1 << 70, "", "NULL", "\0", "../../etc/passwd", "-rf", "a" * 300, ",,,,", "\ud800",
    "ad:zz", "md5:" + "0" * 32, [], {}, [[[]]], {"PandaID": 1}, "$(id)", "\x1b[2J", "9" * 400, "é" * 1000,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--malformed", type=int, default=100_000, help="definitions that are malformed, of more")
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    chance = random.Random(options.seed)
    before_bytes = _rss_bytes()
    print(fuzz_definitions(chance, options.malformed))
    print(fuzz_answers(chance, options.answers))
    print(f"memory grew by {(_rss_bytes() - before_bytes) / 1e6:.1f} MB")
    return 0


def fuzz_definitions(chance: random.Random, malformed: int) -> str:
    """Mutate until so many could not be parsed. Each becomes a Job or a MalformedJob; one with a PandaID keeps it."""
    originals = list(_definitions())
    times_s: dict[type, list[float]] = {Job: [], MalformedJob: []}
    while len(times_s[MalformedJob]) < malformed:
        original = chance.choice(originals)
        definition = _mutated(chance, original)
        started_s = time.perf_counter()
        parsed = parse_job(definition)
        took_s = time.perf_counter() - started_s
        named = definition.get("PandaID") == original["PandaID"]
        if type(parsed) not in times_s or (named and not _is_of(parsed, original)):
            raise AssertionError(f"{parsed!r} for {definition!r}")
        times_s[type(parsed)].append(took_s)
    all_s = [took_s for kind_s in times_s.values() for took_s in kind_s]
    return (
        f"{len(all_s)} definitions: {malformed} malformed, {len(times_s[Job])} jobs; "
        f"median {statistics.median(all_s) * 1e3:.3f} ms, slowest {max(all_s) * 1e3:.1f} ms"
    )


def _is_of(parsed: Job | MalformedJob, original: dict[str, Any]) -> bool:
    return parsed.attempt is not None and parsed.attempt.panda_id == int(original["PandaID"])


def fuzz_answers(chance: random.Random, count: int) -> str:
    """Every hostile answer ends a call with a value or one of the port's errors, within its time."""
    originals = [request["response_body"].encode() for request in _requests() if request.get("response_body")]
    ended: dict[str, int] = {}
    slowest_s = 0.0
    with (
        tempfile.TemporaryDirectory() as scratch,
        _hostile_server(Path(scratch), originals, chance) as (client, bodies),
    ):
        for _ in range(count):
            bodies.append(_hostile_body(chance, originals))
            started_s = time.perf_counter()
            try:
                client.update(
                    {"job_id": 1, "job_status": "running", "attempt_nr": 0}, chance.choice(list(ApiGeneration)), Stop()
                )
                name = "taken"
            except (ServerUnreachable, ServerRefused) as error:
                name = type(error).__name__
            slowest_s = max(slowest_s, time.perf_counter() - started_s)
            ended[name] = ended.get(name, 0) + 1
    return f"{count} answers: {ended}; slowest call {slowest_s:.2f} s"


def _definitions() -> Iterator[dict[str, Any]]:
    for request in _requests():
        body = request.get("response_body_json")
        data = body.get("data") if isinstance(body, dict) else None
        jobs = data.get("jobs") if isinstance(data, dict) else None
        yield from jobs or []


def _requests() -> Iterator[dict[str, Any]]:
    for path in sorted(RECORDINGS.glob("*.json")):
        yield from json.loads(path.read_text())["requests"]


def _mutated(chance: random.Random, definition: dict[str, Any]) -> dict[Any, Any]:
    mutated: dict[Any, Any] = dict(definition)
    for _ in range(chance.randint(1, 4)):
        key = chance.choice(list(mutated) or ["PandaID"])
        match chance.randrange(4):
            case 0:
                mutated.pop(key, None)
            case 1:
                mutated[key] = chance.choice(ODD_VALUES)
            case 2:
                mutated[key] = f"{mutated.get(key)},{chance.choice(ODD_VALUES)}"
            case _:
                mutated[chance.choice(["inFiles", "outFiles", "fsize", "checksum", "logFile", "jobPars"])] = (
                    chance.choice(ODD_VALUES)
                )
    return mutated


def _hostile_body(chance: random.Random, originals: list[bytes]) -> bytes:
    """A recorded answer with bytes changed, cut or doubled; nested or large rubbish; now and then another's format."""
    body = bytearray(chance.choice(originals))
    match chance.randrange(6):
        case 0:
            return bytes(body[: chance.randrange(len(body) + 1)])
        case 1:
            for _ in range(chance.randint(1, 8)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            return bytes(body)
        case 2:
            return b"[" * chance.randint(1, 200_000)
        case 3:
            return b'{"success": true, "data": ' + json.dumps(chance.choice(ODD_VALUES)).encode() + b"}"
        case 4:
            return chance.randbytes(chance.randint(0, 2000))
        case _:
            return bytes(body) * chance.randint(1, 50)


@contextmanager
def _hostile_server(
    folder: Path, originals: list[bytes], chance: random.Random
) -> Iterator[tuple[PandaClient, list[bytes]]]:
    """A TLS server that answers with what was put into the list; and a client of it."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = bodies.pop() if bodies else b""
            self.send_response(chance.choice([200, 200, 200, 200, 403, 500, 503, 302, 418]))
            self.send_header("Content-Type", chance.choice(["application/json", "text/plain", "text/html"]))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Silence: ten thousand lines help nobody."""

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "token").write_text("a.b.c")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    credentials = Credentials(None, TokenCredentials(SecretFile(folder / "token"), "panda_dev.pilot"))
    url = f"https://localhost:{server.server_port}"
    client = PandaClient((url,), "auto", credentials, str(folder / "ca.pem"), Timeouts(2.0, 5.0), ONCE)
    try:
        yield client, bodies
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()


def _rss_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


if __name__ == "__main__":
    raise SystemExit(main())
