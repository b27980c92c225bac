"""What an operator sees of a job: real files, hostile names, hostile files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.model import Attempt
from pilot.payload import look as looking
from pilot.payload.look import look
from pilot.payload.procfs import read_process
from pilot.ports import Question, Sight
from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.runtime.workdir import JobFolder, WorkVolume

ROOM = 1000
OUTSIDE = "what lies outside"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    return made(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return made(tmp_path)


def made(root: Path) -> JobFolder:
    """A job's folder, with something outside that must never be shown."""
    volume = WorkVolume(root / "volume")
    volume.jobs.mkdir(parents=True)
    (root / "secret.txt").write_text(OUTSIDE)
    folder = volume.open_job(Attempt(4711, 2))
    (folder.root / "journal").write_text(OUTSIDE)
    (folder.control / "payload.sh").write_text(OUTSIDE)
    (folder.logs / "payload.stdout").write_text("out 1\nout 2\n")
    (folder.logs / "payload.stderr").write_text("")
    return folder


def seen(folder: JobFolder, sight: str, name: str = "", lines: int | None = None) -> str:
    return look(Question(Sight(sight), name, lines), folder, ROOM)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../journal",
        "../control/payload.sh",
        "work/../../journal",
        "logs/../journal",
        "sub/../../../../secret.txt",
        "journal",
        "control/payload.sh",
        "link",
        "link-to-folder/secret.txt",
        "link-to-root/etc/passwd",
        "hard",
        "pipe",
        "a\0b",
        "x" * 5000,
        "/".join(["sub"] * 200),
        "..",
        "payload.stdout/..",
        "-rf",
        "/proc/self/environ",
        "logs/payload.stdout/../../journal",
    ],
)
@pytest.mark.parametrize("sight", ["tail", "ls", "du"])
def test_no_name_leads_out_of_the_folder(folder: JobFolder, sight: str, name: str) -> None:
    outside = folder.root.parents[2] / "secret.txt"
    (folder.work / "sub").mkdir()
    (folder.work / "link").symlink_to(outside)
    (folder.work / "link-to-folder").symlink_to(outside.parent)
    (folder.work / "link-to-root").symlink_to("/")
    os.link(outside, folder.work / "hard")
    os.mkfifo(folder.work / "pipe")
    answer = seen(folder, sight, name)
    assert OUTSIDE not in answer and "root:" not in answer
    assert answer.replace("\n", "").isprintable()
    if sight != "tail" and name in ("link", "hard", "pipe"):
        assert name in answer  # it is listed as what it is, and not looked into
    elif name != "-rf":
        assert (
            "shown" in answer or "no such" in answer or "link" in answer or "regular" in answer or "too long" in answer
        )


@given(st.text(max_size=60), st.sampled_from(["tail", "ls", "du"]))
def test_any_name_gets_an_answer(shared: JobFolder, name: str, sight: str) -> None:
    answer = seen(shared, sight, name)
    assert OUTSIDE not in answer
    assert answer and len(answer.encode()) <= ROOM


def test_names_are_those_of_the_payloads_folder_and_logs_have_their_own(folder: JobFolder) -> None:
    (folder.work / "payload.stdout").write_text("an impostor\n")
    (folder.work / "logs").mkdir()
    (folder.work / "logs" / "mine").write_text("the payload's own\n")
    (folder.tmp / "scratch").write_text("temporary\n")
    assert seen(folder, "tail", "payload.stdout") == "out 1\nout 2"
    assert seen(folder, "tail", "work/payload.stdout") == "an impostor"
    assert seen(folder, "tail", "logs/mine") == "the payload's own"
    assert seen(folder, "tail", "logs/payload.stdout") == "out 1\nout 2"
    assert seen(folder, "tail", "tmp/scratch") == "temporary"


# --- tail -------------------------------------------------------------------------------------------------------------


def test_the_usual_tail_is_of_the_stream_that_grew_last(folder: JobFolder) -> None:
    assert seen(folder, "tail") == "payload.stdout:\nout 1\nout 2"
    (folder.logs / "payload.stderr").write_text("oops\n")
    os.utime(folder.logs / "payload.stdout", ns=(0, 0))
    assert seen(folder, "tail") == "payload.stderr:\noops"


def test_before_there_is_a_payload_that_is_said(folder: JobFolder) -> None:
    for name in ("payload.stdout", "payload.stderr"):
        (folder.logs / name).unlink()
    assert seen(folder, "tail") == "the payload has not been started yet"


def test_a_tail_has_the_last_lines_that_fit(folder: JobFolder) -> None:
    lines = [f"line {number} of a log that grows" for number in range(100_000)]
    (folder.logs / "payload.stdout").write_text("\n".join(lines) + "\n")
    answer = seen(folder, "tail", "payload.stdout")
    assert answer.splitlines() == lines[-len(answer.splitlines()) :]
    assert ROOM - 50 < len(answer) <= ROOM
    assert seen(folder, "tail", "payload.stdout", 2).splitlines() == lines[-2:]


def test_a_line_that_is_too_long_shows_its_end(folder: JobFolder) -> None:
    (folder.work / "long").write_text("x" * 300_000 + "\N{SNOWMAN}" * 500 + "end")
    answer = seen(folder, "tail", "long")
    assert answer.endswith("\N{SNOWMAN}end")
    assert len(answer.encode()) <= ROOM


def test_progress_bars_and_colours_are_shown_as_people_would_see_them(folder: JobFolder) -> None:
    (folder.work / "bar").write_bytes(b"  1%\r 50%\r100%\r\n\x1b[31mred\x1b[0m\x07\n\xff\xfe\x00end\n")
    assert seen(folder, "tail", "bar").splitlines()[:2] == ["100%", "red "]
    assert seen(folder, "tail", "bar").endswith("end")


def test_records_of_a_json_log_say_what_they_say(folder: JobFolder) -> None:
    record = '{"asctime": "12:00", "levelname": "ERROR", "message": "it\\nbroke", "exc_info": "Traceback..."}\n'
    (folder.work / "payload-log.json").write_text(record + '{"torn')
    assert seen(folder, "tail", "payload-log.json") == '12:00 ERROR it broke\n{"torn'


def test_secrets_are_masked_wherever_the_tail_is_cut(folder: JobFolder) -> None:
    secret = "a-very-secret-word"
    with redactor.knowing([Secret(secret)]):
        for before in range(looking.TAIL_BYTES - 30, looking.TAIL_BYTES + 5, 3):
            (folder.work / "log").write_text("x" * 100 + secret + "y" * before)
            assert not _parts_of(secret, seen(folder, "tail", "log"))
        for room in range(ROOM - 40, ROOM):
            (folder.work / "log").write_text("x" * 3000 + secret + "y" * room)
            assert not _parts_of(secret, seen(folder, "tail", "log"))
        (folder.work / f"name-{secret}").touch()
        assert not _parts_of(secret, seen(folder, "ls"))


def _parts_of(secret: str, text: str) -> list[str]:
    return [secret[at : at + 6] for at in range(len(secret) - 5) if secret[at : at + 6] in text]


# --- ls and du --------------------------------------------------------------------------------------------------------


def test_a_listing_is_newest_first_with_kinds(folder: JobFolder) -> None:
    (folder.work / "old").write_text("12345")
    os.utime(folder.work / "old", ns=(0, 0))
    (folder.work / "sub").mkdir()
    (folder.work / "away").symlink_to("/etc")
    os.utime(folder.work / "away", ns=(10**9, 10**9), follow_symlinks=False)
    first, *rest = seen(folder, "ls").splitlines()
    assert first == "3 entries, newest first"
    assert [line.split()[-1] for line in rest] == ["sub/", "away@", "old"]
    assert rest[-1].split() == ["5", "1970-01-01", "00:00:00", "old"]
    assert seen(folder, "ls", "old").split()[-1] == "old"


def test_a_name_cannot_command_a_terminal(folder: JobFolder) -> None:
    (folder.work / "a\x1b[2J\nb").touch()
    os.close(os.open(os.fsencode(folder.work) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    answer = seen(folder, "ls")
    assert r"a\x1b[2J\nb" in answer
    assert len(answer.splitlines()) == 3


def test_what_does_not_fit_is_counted(folder: JobFolder) -> None:
    for number in range(200):
        (folder.work / f"file-with-a-name-{number}").touch()
    answer = seen(folder, "ls")
    kept = len(answer.splitlines()) - 1
    assert answer.splitlines()[-1] == f"and {201 - kept} more"
    assert len(answer) <= ROOM


def test_an_endless_folder_is_not_read_to_its_end(folder: JobFolder) -> None:
    for number in range(looking.MOST_ENTRIES + 1):
        (folder.work / str(number)).touch()
    assert seen(folder, "ls").startswith(f"more than {looking.MOST_ENTRIES} entries")


def test_the_largest_is_measured_first_and_links_lead_nowhere(folder: JobFolder) -> None:
    (folder.work / "a" / "b").mkdir(parents=True)
    (folder.work / "a" / "b" / "big").write_bytes(b"x" * (3 << 20))
    (folder.work / "small").write_bytes(b"x" * 5000)
    (folder.work / "usr").symlink_to("/usr")
    total, *rest = seen(folder, "du").splitlines()
    assert "5 files and folders" in total and total.split()[0].startswith("3.")
    assert [line.split()[-1] for line in rest] == ["a", "small", "usr"]
    assert seen(folder, "du", "a/b/big").split()[0] == "3.0"


def test_a_tree_of_any_depth_is_measured(folder: JobFolder) -> None:
    here = os.open(folder.work, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    answer = seen(folder, "du")
    assert "not all were seen" in answer
    before = len(os.listdir("/proc/self/fd"))
    seen(folder, "du")
    assert len(os.listdir("/proc/self/fd")) == before
    subprocess.run(["rm", "-rf", folder.work], check=True)  # deeper than Python's own removal goes


# --- ps ---------------------------------------------------------------------------------------------------------------


def test_processes_are_told_with_what_they_use_and_no_secret(folder: JobFolder) -> None:
    secret = "a-very-secret-word"
    child = subprocess.Popen(["sleep", "600", f"--{secret}"], stderr=subprocess.DEVNULL, start_new_session=True)
    other = subprocess.Popen(
        ["cat", "-", f"--{'x' * 150}", secret * 3], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        mine = [process for pid in (os.getpid(), other.pid) if (process := read_process(pid))]
        with redactor.knowing([Secret(secret)]):
            heading, first, *_rest = look(Question(Sight.PS), folder, ROOM, members=lambda: mine).splitlines()
        assert heading.split() == ["PID", "PPID", "S", "AGE", "s", "CPU", "s", "RSS", "MB", "THR", "COMMAND"]
        assert first.split()[0] == str(os.getpid())  # the larger one
        assert not _parts_of(secret, "\n".join(_rest))
    finally:
        for started in (child, other):
            started.kill()
            started.communicate()
    assert seen(folder, "ps") == "no process of the payload is running"


# --- whose eyes -------------------------------------------------------------------------------------------------------


def test_the_payloads_folders_are_seen_with_its_eyes_and_the_logs_with_ours(folder: JobFolder) -> None:
    opened: list[str] = []

    @contextmanager
    def eyes() -> Iterator[None]:
        opened.append("eyes")
        yield

    look(Question(Sight.TAIL, "payload.stdout"), folder, ROOM, eyes)
    assert opened == []
    look(Question(Sight.LS), folder, ROOM, eyes)
    assert opened == ["eyes"]
