"""The metrics' port and file, asked by real callers."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot.watch.port import ADDRESS, MAX_HEAD_BYTES, metrics_port
from pilot.watch.textfile import metrics_file


@pytest.fixture
def port() -> Iterator[int]:
    with metrics_port(0, lambda: "pilot_up 1\n") as port:
        yield port


def asked(port: int, method: str = "GET", target: str = "/metrics") -> tuple[int, str, str]:
    line = http.client.HTTPConnection(ADDRESS, port, timeout=10)
    try:
        line.request(method, target)
        answer = line.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        line.close()


def raw(port: int, sent: bytes) -> bytes:
    with socket.create_connection((ADDRESS, port), timeout=10) as line:
        line.sendall(sent)
        came = b""
        while block := line.recv(65536):
            came += block
        return came


def test_the_metrics_are_at_their_place_and_nothing_else_is_anywhere(port: int) -> None:
    status, kind, text = asked(port)
    assert (status, text) == (200, "pilot_up 1\n") and kind.startswith("text/plain; version=0.0.4")
    assert asked(port, target="/metrics?name=x")[0] == 200
    assert asked(port, "HEAD")[2] == ""
    assert asked(port, target="/")[0] == 404
    assert asked(port, target="/../etc/passwd")[0] == 404
    assert asked(port, "POST")[0] == 405
    assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 405")
    assert raw(port, b"\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert asked(port)[0] == 200


def test_only_this_machine_reaches_it(port: int) -> None:
    bound = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [local for local, _remote, state in bound if state == "0A" and int(local.split(":")[1], 16) == port]
    assert listening == [f"0100007F:{port:04X}"]
    six = Path("/proc/net/tcp6")
    assert not six.exists() or f":{port:04X} " not in six.read_text()


def test_a_caller_who_says_nothing_or_too_much_keeps_the_next_one_waiting_for_a_moment_only(port: int) -> None:
    with socket.create_connection((ADDRESS, port)) as silent, socket.create_connection((ADDRESS, port)) as dripping:
        dripping.sendall(b"GET /met")
        assert asked(port)[0] == 200
        assert silent.recv(1) in (b"H", b"")
    with socket.create_connection((ADDRESS, port), timeout=10) as loud:
        try:
            loud.sendall(b"x" * (MAX_HEAD_BYTES * 100))
        except OSError:
            pass  # it hangs up in the middle
        assert asked(port)[0] == 200


def test_a_port_that_is_taken_is_an_error_of_the_system(port: int) -> None:
    with pytest.raises(OSError), metrics_port(port, lambda: ""):
        pass


def test_the_file_is_there_at_once_renewed_and_left_with_last_words(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    path, asked = tmp_path / "pilot.prom", threading.Semaphore(0)
    told: list[bool] = []

    def text(up: bool) -> str:
        told.append(up)
        asked.release()
        return f"pilot_up {int(up)}\n# {len(told)}\n"

    with metrics_file(path, text, pause_s=0.01):
        assert path.read_text().startswith("pilot_up 1\n")
        eventually(lambda: len(told) > 3, what="the file renewed")
        assert path.stat().st_mode & 0o444 == 0o444  # another user's collector reads it
    assert path.read_text() == f"pilot_up 0\n# {len(told)}\n"
    assert told[-1] is False and all(told[:-1])
    assert os.listdir(tmp_path) == ["pilot.prom"]


def test_a_place_that_takes_no_file_is_told_once_and_is_nobodys_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    told: list[bool] = []

    def text(up: bool) -> str:
        told.append(up)
        return "pilot_up 1\n"

    with metrics_file(tmp_path / "absent" / "pilot.prom", text, pause_s=0.01):
        eventually(lambda: len(told) > 3, what="four tries")
    assert [record.getMessage() for record in caplog.records] == [
        f"the metrics file {tmp_path}/absent/pilot.prom cannot be written: No such file or directory"
    ]
