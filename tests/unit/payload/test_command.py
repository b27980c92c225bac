"""What a job runs: decoding, refusing, downloading. The web server is a real one on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilot.job.errors import PayloadError
from pilot.job.model import Attempt, Job, Resources
from pilot.payload.command import TransformSource, allowed_transform, resolve
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason

GOOGLE = "https://storage.googleapis.com/drp-us-central1-containers"
JOB = Job(Attempt(1, 1), 1, "j", f"{GOOGLE}/bash-c-enc-new", "", "managed", Resources())
SAMPLES = Path(__file__).parents[2] / "data" / "minirc2_sample_panda_jobs.json"


@dataclass
class WebServer:
    """A web server with given answers: path -> (status, content type, body); it counts what it was asked."""

    base: str
    answers: dict[str, list[tuple[int, str, bytes]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[WebServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            given = server.answers.get(self.path, [(404, "text/html", b"<html>not here</html>")])
            status, kind, body = given.pop(0) if len(given) > 1 else given[0]
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server = WebServer(f"http://127.0.0.1:{httpd.server_port}/trf")
    yield server
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def source(tmp_path: Path) -> TransformSource:
    return TransformSource(tmp_path / "transforms")


def text_of(transformation: str, parameters: str, source: TransformSource) -> str:
    return resolve(replace(JOB, transformation=transformation, parameters=parameters), source, Stop()).text


def code_of(transformation: str, parameters: str, source: TransformSource) -> int:
    with pytest.raises(PayloadError) as caught:
        text_of(transformation, parameters, source)
    return caught.value.diagnosis.code


@pytest.mark.parametrize("name", ["bash-c-enc", "bash-c-enc-new"])
def test_encoded_parameters_are_decoded_without_any_download(name: str, source: TransformSource) -> None:
    encoded = base64.b64encode("echo 'grüß' | cat".encode()).decode()
    assert text_of(f"{GOOGLE}/{name}", encoded, source) == "echo 'grüß' | cat"
    assert not source.folder.exists()


def test_only_the_first_word_of_encoded_parameters_counts(source: TransformSource) -> None:
    encoded = base64.b64encode(b"true").decode()
    assert text_of("bash-c-enc", f" '{encoded}' more", source) == "true"


@pytest.mark.parametrize("parameters", ["", "   ", "NULL", "not base64!", "YWJj=YWJj", "YWJ", "/////w=="])
def test_parameters_that_do_not_decode_are_refused(parameters: str, source: TransformSource) -> None:
    assert code_of(f"{GOOGLE}/bash-c-enc", parameters, source) == 1110


def test_encoded_nothing_is_refused(source: TransformSource) -> None:
    assert code_of("bash-c-enc", base64.b64encode(b" \n").decode(), source) == 1110


def test_a_nul_byte_in_a_command_is_refused(source: TransformSource) -> None:
    assert code_of("bash-c-enc", base64.b64encode(b"echo \0 x").decode(), source) == 1110


def test_the_plain_shell_takes_its_parameters_as_they_are(source: TransformSource) -> None:
    assert text_of(f"{GOOGLE}/bash-c", "-o out.root -i %IN", source) == "-o out.root -i %IN"
    assert text_of(f"{GOOGLE}/bash-c", "date +%20Y; exit 3", source) == "date +%20Y; exit 3"


def test_the_plain_shell_takes_url_encoded_parameters(source: TransformSource) -> None:
    assert text_of(f"{GOOGLE}/bash-c", "echo%20hello%3B%20exit%203", source) == "echo hello; exit 3"
    assert text_of(f"{GOOGLE}/bash-c", "%FF", source) == "%FF"


def test_a_command_without_a_scheme_is_run_with_its_parameters(source: TransformSource) -> None:
    assert text_of("python3 -m thing", "--flag 'a b'", source) == "python3 -m thing --flag 'a b'"


@pytest.mark.parametrize("transformation", ["", "NULL"])
def test_a_job_without_a_command_is_refused(transformation: str, source: TransformSource) -> None:
    assert code_of(transformation, "", source) == 1110


def test_real_jobs_decode(source: TransformSource) -> None:
    jobs = [entry.get("job", entry) for entry in json.loads(SAMPLES.read_text())]
    texts = [text_of(job["transformation"], job["jobPars"], source) for job in jobs]
    assert len(texts) == 18
    assert all("cmd_line_decoder" in text for text in texts)


@pytest.mark.parametrize(
    "url",
    [
        "https://storage.googleapis.com/other-bucket/trf",
        "https://storage.googleapis.com.evil.example/drp-us-central1-containers/trf",
        "https://user@storage.googleapis.com/drp-us-central1-containers/trf",
        "http://storage.googleapis.com/drp-us-central1-containers/trf",
        f"{GOOGLE}/../other/trf",
        f"{GOOGLE}/%2e%2e/other/trf",
        f"{GOOGLE}-more/trf",
        f"{GOOGLE}/trf?x=1",
        "file:///etc/passwd",
        "ftp://storage.googleapis.com/drp-us-central1-containers/trf",
    ],
)
def test_transforms_from_elsewhere_are_refused(url: str, source: TransformSource) -> None:
    assert not allowed_transform(url, (GOOGLE,)) or "://" not in url
    assert code_of(url, "", source) == 1149


def test_a_transform_is_downloaded_once_and_made_executable(web: WebServer, source: TransformSource) -> None:
    web.answers["/trf/runGen"] = [(200, "application/octet-stream", b"#!/bin/sh\necho ran\n")]
    mine = replace(source, bases=(web.base,))
    job = replace(JOB, transformation=f"{web.base}/runGen", parameters="-a 'b c'")
    first, second = resolve(job, mine, Stop()), resolve(job, mine, Stop())
    assert first == second
    assert first.text == "./runGen -a 'b c'"
    assert first.transform is not None
    assert first.transform.stat().st_mode & 0o777 == 0o755
    assert first.transform.read_bytes() == b"#!/bin/sh\necho ran\n"
    assert web.asked == ["/trf/runGen"]


def test_a_passing_failure_of_a_download_is_tried_again(web: WebServer, source: TransformSource) -> None:
    web.answers["/trf/t"] = [(503, "text/plain", b"later"), (200, "text/plain", b"#!/bin/sh\n")]
    assert text_of(f"{web.base}/t", "", replace(source, bases=(web.base,))) == "./t"


@pytest.mark.parametrize(
    "answer",
    [
        (404, "text/html", b"<html>gone</html>"),
        (200, "text/html", b"please sign in"),
        (200, "application/octet-stream", b"  <!DOCTYPE html><p>sign in"),
        (200, "application/octet-stream", b""),
        (200, "application/octet-stream", b"x" * (11 << 20)),
    ],
)
def test_an_answer_that_is_no_program_is_refused(
    web: WebServer, source: TransformSource, answer: tuple[int, str, bytes]
) -> None:
    web.answers["/trf/t"] = [answer]
    assert code_of(f"{web.base}/t", "", replace(source, bases=(web.base,))) == 1149
    assert not list(source.folder.glob("*")) if source.folder.exists() else True


def test_a_stop_ends_a_download(web: WebServer, source: TransformSource) -> None:
    web.answers["/trf/t"] = [(503, "text/plain", b"later")]
    stop = Stop()
    stop.request(StopReason(StopKind.SERVER_KILL))
    with pytest.raises(Stopped):
        resolve(replace(JOB, transformation=f"{web.base}/t"), replace(source, bases=(web.base,)), stop)
