"""What a payload leaves behind is hostile: nothing outside of its folder is read for it, and the job is told with a code."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pilot.sandbox.world import World
from tests.escape.suite import open_folder
from tests.integration.pilot.pilotrun import HASTY, PilotEnd, Pilots, output_keys, shell_job

CANARY = "a secret of the node 5f0d"
DEEP = 100_000


@dataclass(frozen=True)
class Leaving:
    """A payload, the outputs its job declares, the codes it may be told with (none: finished), and a word of the diagnosis."""

    command: str
    outputs: tuple[str, ...] = ("out",)
    codes: frozenset[int] = frozenset()
    word: str = ""
    keys: dict[str, Any] = field(default_factory=dict)


def _refused(command: str, *codes: int, word: str = "out", outputs: tuple[str, ...] = ("out",)) -> Leaving:
    return Leaving(command, outputs, frozenset(codes), word)


# $CANARY: a file that every user of the node may read.
LEAVINGS = {
    "a link to a file of the node": _refused("ln -s $CANARY out", 1137),
    "a link to a link": _refused("ln -s $CANARY mid; ln -s mid out", 1137),
    "a link into another folder": _refused("ln -s ${CANARY%/*} dir; ln -s dir/canary out", 1137),
    "a file with a second name": _refused("echo x >out; ln out other", 1137),
    "a second name of a file of the node": _refused("ln $CANARY out || ln -s $CANARY out", 1137),
    "a pipe": _refused("mkfifo out", 1137),
    "a folder": _refused("mkdir out", 1137),
    "a socket": _refused("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"out\")'", 1137),
    "nothing": _refused("true", 1165),
    "an empty file": _refused(": >out", 1350),
    "a terabyte of holes": _refused("truncate -s 1T out; sleep 0.5", 1124),
    "a terabyte of holes at the last moment": _refused("truncate -s 1T out", 1124),
    "a closed file": Leaving("echo x >out; chmod 000 out"),  # the job's own folder: it can be opened again
    "a closed folder": Leaving("echo x >out; mkdir -p a/b; chmod 000 a/b a"),
    "the longest name": Leaving(f"echo x >{'n' * 255}", ("n" * 255,)),
    "a name with a newline": _refused("echo x >out", 1371, word="not a plain file name", outputs=("out\nput",)),
    "names with control characters beside it": Leaving("echo x >out; echo y >\"$(printf 'a\\033[2J\\nb')\""),
    "its logs replaced by links": Leaving(
        "echo x >out; ln -s $CANARY payload-log.json; ln -s $CANARY memory_monitor_summary.json;"
        " ln -s $CANARY memory_monitor_output.txt; ln -s ${CANARY%/*} folder; ln -s $CANARY file"
    ),
    "its logs replaced by pipes": Leaving("echo x >out; mkfifo payload-log.json memory_monitor_summary.json fifo"),
    "JSON without an end": _refused(
        f'python3 -c \'print("[" * {DEEP} + "]" * {DEEP})\' >payload-log.json; exit 3', 1305, word="exit code 3"
    ),
    "one line of a hundred megabytes": _refused(
        "head -c 100000000 /dev/zero | tr '\\0' x >payload-log.json; exit 3", 1305, word="exit code 3"
    ),
    "commands for a terminal": _refused(
        "printf '\\033]0;evil\\007\\033[2J\\033[31mred\\r\\n' >&2; exit 3", 1305, word="red"
    ),
    "its own folder emptied": _refused("rm -rf $PWD; exit 0", 1165),
    "more files than are allowed": _refused(
        "mkdir many; cd many; seq 1 4000 | xargs touch; sleep 60", 1104, word="files"
    ),
    "as many files as are allowed": Leaving("echo x >out; mkdir many; cd many; seq 1 1900 | xargs touch"),
    "an endless stdout": _refused("head -c 60000000 /dev/zero; sleep 60", 1106, word="stdout"),
}


@dataclass(frozen=True)
class Run:
    world: World
    end: PilotEnd
    ids: dict[str, int]
    canary: Path

    def told(self, case: str) -> tuple[int, str]:
        """Code and words of the server's record."""
        fields = self.world.sandbox.job(self.ids[case])["fields"]
        return fields["piloterrorcode"], f"{fields.get('piloterrordiag', '')} / {fields.get('exeerrordiag', '')}"


@pytest.fixture(scope="module")
def run(world: World) -> Iterator[Run]:
    """One pilot that was given all of them, and a good one at the end."""
    with open_folder() as folder:
        canary = folder / "open" / "canary"
        canary.parent.mkdir()
        canary.write_text(CANARY)
        head = f"CANARY={canary}\n"
        ids = {
            case: world.sandbox.submit_job(**shell_job(head + leaving.command, **output_keys(*leaving.outputs)))
            for case, leaving in LEAVINGS.items()
        }
        ids["good"] = world.sandbox.submit_job(**shell_job("echo good"))
        pilots = Pilots(world, folder)
        try:
            end = pilots.run(*HASTY, "--max-inodes", "2000", "--max-stdout-mib", "32", timeout_s=110)
            yield Run(world, end, ids, canary)
        finally:
            pilots.stop_all()


@pytest.mark.parametrize("case", LEAVINGS)
def test_it_is_told_with_its_code(run: Run, case: str) -> None:
    leaving, (code, words) = LEAVINGS[case], run.told(case)
    assert code in (leaving.codes or {0}), f"{code}: {words}"
    assert leaving.word in words
    assert words.isprintable()


def test_the_pilot_lives_on(run: Run) -> None:
    assert run.end.exit_code == 0, run.end.stderr
    assert run.end.jobs[run.ids["good"]]["state"] == "finished"
    assert set(run.end.jobs) == set(run.ids.values())
    assert "Traceback" not in run.end.stderr


def test_nothing_outside_of_the_work_folders_was_read(run: Run) -> None:
    seen = 0
    for store in ("gcs", "s3"):
        for path in (run.world.state_dir / store).rglob("*"):
            if path.is_file():
                seen += 1
                assert CANARY.encode() not in _content(path), path
    assert seen > len(LEAVINGS)
    assert CANARY not in "".join(str(entry["body"]) for entry in run.world.sandbox.ledger())


def test_names_in_a_bundle_obey_no_terminal(run: Run) -> None:
    (bundle,) = (run.world.state_dir / "gcs").rglob(
        f"*PandaJob_{run.ids['names with control characters beside it']}/log.tgz"
    )
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
    assert any("2J" in name for name in names)
    assert all(name.isprintable() for name in names)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name.endswith(".tgz"):
        with tarfile.open(fileobj=io.BytesIO(content)) as bundle:
            members = [bundle.extractfile(member) for member in bundle.getmembers() if member.isfile()]
            content += b"\n".join(member.read() for member in members if member)
    return content
