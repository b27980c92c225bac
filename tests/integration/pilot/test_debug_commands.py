"""An operator looks at a running job: a real pilot, a real payload on rungs A, B and C, the server's own way of asking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilot.sandbox.cli import main
from pilot.sandbox.world import World
from tests.escape.suite import CAPABILITIES, open_folder
from tests.integration.pilot.pilotrun import QUEUE, Pilots, RunningPilot, submit, updates, wait_until

THREE = ("setpriv", f"--bounding-set={CAPABILITIES['B']}", "--inh-caps=-all", "--no-new-privs", "--")
ANSWER_S = 20.0
PAYLOAD = """
umask 077; mkdir -p sub/closed; echo "a file of its own" >sub/private.txt; chmod 600 sub/private.txt; chmod 700 sub
head -c 3145728 /dev/zero >big; ln -s /etc/passwd away; ln -s / root; mkfifo pipe; echo temporary >$TMPDIR/scratch
echo "the word is $PGPASSWORD" >words; echo "first line"; echo "second line"; echo oops >&2; echo "last line"
touch ready; while [ ! -e stop ]; do sleep 0.1; done
"""
HOSTILE = (
    "/etc/passwd", "../../../../../../etc/passwd", "away", "root/etc/passwd", "root", "pipe", "../journal", "journal",
    "logs/../journal", "control/payload.sh", "$(id)", "`id`", "a;id", "x|y", "--help", "-- -rf", "'", "pipe/..",
)  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_folder() as folder, World(folder / "state", adder_delay_s=0.0) as world:
        yield world


@pytest.fixture(autouse=True)
def _clean() -> None:
    """In place of the folder's own: a job lives for several tests here."""


@dataclass(frozen=True)
class Watched:
    """A job that runs, and the operator's questions to it."""

    world: World
    pilot: RunningPilot
    panda_id: int

    @property
    def work(self) -> Path:
        return self.pilot.workdir / f"jobs/{self.panda_id}.0/work"

    def ask(self, line: str) -> str:
        """What the operator reads, without the heading."""
        answer = self.world.sandbox.ask(self.panda_id, line, ANSWER_S)
        assert answer is not None, self.pilot.log
        assert len(answer) <= 2048
        return answer.partition("\n")[2]


@pytest.fixture(scope="module", params=["A", "B", "C"])
def watched(request: pytest.FixtureRequest, world: World, busybox: tuple[Path, Path]) -> Iterator[Watched]:
    rung = request.param
    with open_folder() as folder:
        pilots = Pilots(world, folder)
        image = ("--image", str(busybox[1])) if rung == "A" else ()
        config = pilots.settings(queues={QUEUE: {"payload_env": ["PGPASSWORD"]}})
        panda_id = submit(world, PAYLOAD)
        arguments = (
            "--max-empty",
            "1",
            "--empty-wait-s",
            "0",
            "--heartbeat",
            "0.3",
            "--require-isolation",
            rung,
            *image,
        )
        wrap = {"B": THREE, "C": ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")}.get(rung, ())
        pilot = pilots.start(*arguments, config=config, env={"PGPASSWORD": "pg-secret-word"}, wrap=wrap)
        watched = Watched(world, pilot, panda_id)
        try:
            pilot.wait_until((watched.work / "ready").exists, "the payload is up")
            yield watched
            (watched.work / "stop").touch()
            end = pilot.end()
            told = end.jobs[panda_id]
            assert (told["state"], told["isolation"][0]) == ("finished", rung), end.stderr
            assert "pg-secret-word" not in end.stderr
            assert not [update for update in updates(world, panda_id) if "pg-secret-word" in str(update)]
            assert "stdout" not in updates(world, panda_id)[-1]
        finally:
            pilots.stop_all()


def test_the_usual_tail_comes_with_debug_mode(watched: Watched) -> None:
    watched.world.sandbox.debug(watched.panda_id)
    wait_until(lambda: "stdout" in updates(watched.world, watched.panda_id)[-1], "the pilot tells its tail", ANSWER_S)
    told = next(u["stdout"] for u in updates(watched.world, watched.panda_id) if "stdout" in u)
    assert told.splitlines()[0] in ("payload.stdout:", "payload.stderr:")


def test_files_the_payload_keeps_to_itself_are_shown(watched: Watched) -> None:
    assert watched.ask("tail sub/private.txt") == "a file of its own"
    assert watched.ask("tail payload.stdout").splitlines() == ["first line", "second line", "last line"]
    assert watched.ask("tail -n 1 payload.stdout") == "last line"
    assert watched.ask("tail payload.stderr") == "oops"
    assert watched.ask("tail tmp/scratch") == "temporary"
    assert "starting" not in watched.ask("tail words") and "the word is **" in watched.ask("tail words")


def test_folders_and_what_takes_the_room(watched: Watched) -> None:
    names = [line.split()[-1] for line in watched.ask("ls -la").splitlines()[1:]]
    assert {"sub/", "big", "away@", "root@", "pipe|", "words", "ready"} <= set(names)
    assert [line.split()[-1] for line in watched.ask("ls sub").splitlines()[1:]] == ["private.txt", "closed/"]
    total, first, *_rest = watched.ask("du -sk").splitlines()
    assert float(first.split()[0]) >= 3 and first.split()[-1] == "big"
    assert float(total.split()[0]) < 10  # nothing behind a link was counted


def test_the_jobs_own_processes_and_nobody_elses(watched: Watched) -> None:
    lines = watched.ask("ps axu").splitlines()
    assert "COMMAND" in lines[0]
    assert "sleep" in watched.ask("ps") or "payload.sh" in watched.ask("ps")
    assert not any("pilot-start" in line or "PILOT_" in line for line in lines)
    assert str(watched.pilot.process.pid) not in [line.split()[0] for line in lines]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_answered_with_words(watched: Watched, name: str) -> None:
    answer = watched.world.sandbox.ask(watched.panda_id, f"tail {name},ls {name},du {name}", ANSWER_S)
    assert answer is not None, watched.pilot.log
    assert len([line for line in answer.splitlines() if line.startswith(("> tail", "> ls", "> du"))]) >= 3
    assert "root:x:" not in answer and "uid=" not in answer and "payload_starting" not in answer
    assert watched.pilot.process.poll() is None


@pytest.mark.parametrize("line", ["gdb --pid 1 -ex core", "cat words", "bash -c id", "tail;id", "$(id)"])
def test_everything_else_is_refused(watched: Watched, line: str) -> None:
    assert watched.ask(line).startswith("refused: this pilot answers tail, ls, du, ps")


def test_an_operator_asks_from_the_command_line(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    state = ("--state", str(watched.world.state_dir))
    assert main(["command", *state, str(watched.panda_id), "tail -n 1  payload.stdout"]) == 0
    assert capsys.readouterr().out == "> tail -n 1 payload.stdout\nlast line\n"
    assert main(["command", *state, str(watched.panda_id), "debugoff"]) == 0
    told = len(updates(watched.world, watched.panda_id))
    wait_until(lambda: len(updates(watched.world, watched.panda_id)) > told + 1, "two further heartbeats", ANSWER_S)
    assert "stdout" not in updates(watched.world, watched.panda_id)[-1]
    assert main(["command", *state, "999999", "ls"]) == 1
    assert "knows no job 999999" in capsys.readouterr().err


@pytest.mark.parametrize("apis", ["v1", "legacy"])
def test_an_answer_that_holds_a_command_is_answered_by_the_very_next_update(world: World, apis: str) -> None:
    world.sandbox.set_apis(apis)
    panda_id = submit(world, "while [ ! -e stop ]; do sleep 0.1; done")
    with open_folder() as folder:
        pilots = Pilots(world, folder)
        try:
            pilot = pilots.start("--max-empty", "1", "--empty-wait-s", "0", "--heartbeat", "2")
            pilot.wait_until(lambda: world.sandbox.job(panda_id)["status"] == "running", "the job runs")
            assert world.sandbox.ask(panda_id, "tail nothing", ANSWER_S)
            calls = [e for e in world.sandbox.ledger() if "update" in e["path"].lower() and str(panda_id) in e["body"]]
            heard = next(index for index, call in enumerate(calls) if "tail nothing" in str(call["answer"]))
            assert "no such file" in calls[heard + 1]["body"]
            (pilot.workdir / f"jobs/{panda_id}.0/work/stop").touch()
            assert pilot.end().jobs[panda_id]["state"] == "finished"
        finally:
            pilots.stop_all()
            world.sandbox.set_apis("both")
