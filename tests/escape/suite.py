"""Runs the attempts: one pilot per rung, with canaries in all it holds, and afterwards a look at everything it uploaded."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pilot
from pilot.sandbox.certs import write_private
from pilot.sandbox.tokens import Issuer
from pilot.sandbox.world import World
from tests.escape.attempts import IN_ONE_JOB, Attempt, Kind
from tests.faults.checker import updates
from tests.integration.pilot.pilotrun import Pilots, RunningPilot, output_keys, shell_job

PROJECT = Path(__file__).parents[2]
QUEUE = "ESCAPES"
RUNGS = ("A", "B", "C", "D")
WORDS = {"A": "A:apptainer", "B": "B:uid+landlock", "C": "C:landlock", "D": "D:none"}
# The pilot as the pods have it: root with three capabilities, root with none. Containers are started by root as well.
CAPABILITIES = {"A": None, "B": "-all,+setuid,+setgid,+kill", "C": "-all", "D": "-all"}
CANARY = "canary-8d1f0c5be6"
ATTEMPT_S = 5
DAEMON = "61234"  # seconds of sleep by which processes are known again
GONE_WITHIN_S = 3.0
MAX_PROCESSES = 150
MEMORY_MB, DISK_MB = 100, 50  # of the queue: maxrss (the limit is twice that) and maxwdir
HEARTBEAT_S, LATEST_HEARTBEAT_S = 1.0, 11.0
HOG_S = 4

# 1,000 processes, were nobody to stop it
BOMB = 'f() { [ "$1" -gt 0 ] && { f $(($1 - 1)) & f $(($1 - 1)) & }; sleep 30; }; f 9'
STOPPED_BOMB = (1305, 1235)  # its processes, or their memory: whichever is counted first
DAEMONS = f"""trap '' TERM
sleep {DAEMON} &
setsid sleep {DAEMON} &
(env -i setsid sh -c "trap '' TERM HUP; sleep {DAEMON}; :" &)
(env -i setsid sh -c "(env -i setsid sleep {DAEMON} &)" &)
exit 0"""
OUTPUTS = "ln -s $KEY link.txt; ln $KEY hard.txt || ln /etc/hostname hard.txt || :; mkfifo pipe.txt"
FORGED = "printf 'FATAL: \\033]0;evil\\007\\033[2J forged\\r\\n' >&2; exit 1"

# What would exhaust the pilot or the node: a program, and the code it is stopped with; None: it ends by itself, unnoticed.
EXHAUSTING: dict[str, tuple[str, int | None]] = {
    "all memory": (f"x=$(head -c {4 * MEMORY_MB}000000 /dev/zero | tr '\\0' x); echo ${{#x}}; sleep 60", 1235),
    "all memory by many processes": (
        f"for i in 1 2 3 4 5 6 7 8; do (x=$(head -c {MEMORY_MB}000000 /dev/zero | tr '\\0' x); sleep 60) & done; wait",
        1235,
    ),
    "all of the disk": ("head -c 2000000000 /dev/zero >fill; sleep 60", 1104),
    "all of the disk in /tmp": ('head -c 2000000000 /dev/zero >"$TMPDIR/fill"; sleep 60', 1104),
    "all inodes": ("mkdir d; cd d; seq 1 9000 | xargs touch; sleep 60", 1104),
    "a flood of output": ("head -c 200000000 /dev/zero | tr '\\0' x; sleep 60", 1106),
    "all descriptors": ('python3 -c "f = [open(\'/dev/null\') for _ in range(10**6)]"; [ $? = 1 ]', None),
    "logs that are pipes": ("mkfifo payload-log.json memory_monitor_summary.json", None),
    "all of the processors": (
        f"i=0; while [ $i -lt 30 ]; do timeout {HOG_S} sh -c 'while :; do :; done' & i=$((i + 1)); done; wait", None
    ),
}  # fmt: skip
OUTSIDE = (
    Attempt(Kind.READ, "links and pipes as outputs", ""),
    Attempt(Kind.READ, "a canary in anything uploaded", ""),
    Attempt(Kind.CHANGE, "terminal escapes in a diagnosis", ""),
    Attempt(Kind.STOP, "processes that outlive their job", ""),
    Attempt(Kind.STOP, "fork bomb", ""),
    *(Attempt(Kind.STOP, name, "") for name in EXHAUSTING),
    Attempt(Kind.STOP, "heartbeats held back by a CPU hog", ""),
    Attempt(Kind.STOP, "the pilot's life", ""),
)
ALL = (*IN_ONE_JOB, *OUTSIDE)


@dataclass
class Result:
    """One rung: what each attempt that succeeded got, by name; the isolation the pilot reported; how many were made."""

    isolation: str = ""
    got: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    log: str = ""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can pass, as a pod's volumes are; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="escape-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Suite:
    """The attempts on one world; ``folder`` can be reached by other users."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder, self.state = world, folder, world.state_dir
        self.state.chmod(0o700)
        world.cric.set_queue(QUEUE, {"maxrss": MEMORY_MB, "maxwdir": DISK_MB})
        self.token = self.state / "token"
        write_private(self.token, Issuer(self.state).token().encode())
        self.image = folder / "image"
        script = PROJECT / "scripts/make-test-image"
        subprocess.run([script, folder / "image.sif", self.image], check=True, capture_output=True)

    def run(self, rung: str) -> Result:
        """All attempts on one rung, by one pilot."""
        place = self.folder / rung
        place.mkdir()
        secrets = self._plant(place)
        pilots = Pilots(self.world, place)
        args = ["--max-jobs", str(6 + len(EXHAUSTING)), "--max-empty", "500", "--empty-wait-s", "0.1"]
        args += ["--max-inodes", "3000", "--max-stdout-mib", "32", "--heartbeat", str(HEARTBEAT_S)]
        args += ["--require-isolation", "none" if rung == "D" else rung]
        args += ["--max-processes", str(MAX_PROCESSES), "--payload-grace-s", "0.3"]
        args += ["--token-file", str(self.token), "--origin", "Rubin.production"]
        bound = ["/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro"]  # a container with Python in it
        if rung == "A":
            args += ["--image", str(self.image)]
        capabilities = CAPABILITIES[rung]
        wrap = (
            ("setpriv", f"--bounding-set={capabilities}", "--inh-caps=-all", "--no-new-privs", "--")
            if capabilities
            else ()
        )
        config = pilots.settings(queues={QUEUE: {"binds": bound, "own_containers": rung == "D"}})
        environment = {"MY_TOKEN": CANARY, "GOOGLE_CANARY": CANARY}
        running = pilots.start(*args, config=config, wrap=wrap, env=environment, queue=QUEUE)
        try:
            return self._attack(rung, running, place, secrets)
        finally:
            pilots.stop_all()
            secrets["SHM_SECRET"].unlink()

    def _plant(self, place: Path) -> dict[str, Path]:
        planted = {"TMP_SECRET": place / "private", "SHM_SECRET": Path(f"/dev/shm/escape-{os.getpid()}")}
        for path in planted.values():
            write_private(path, CANARY.encode())
        return planted

    def _places(self, running: RunningPilot, place: Path, rung: str) -> dict[str, str]:
        return {
            "PILOT": str(running.process.pid),
            "VOLUME": str(running.workdir),
            "STATE": str(self.state),
            "KEY": str(self.state / "client.key"),
            "CERT": str(self.state / "client.crt"),
            "S3_KEY": str(self.state / "s3-key"),
            "GCS_KEY": str(self.state / "gcs-key.json"),
            "TOKEN": str(self.token),
            "SUMMARY": str(place / "summary0.json"),
            "PACKAGE": str(Path(pilot.__file__).parent),
            "SITE": sysconfig.get_path("purelib"),
            "SERVER": self.world.server_url,
            "RUNG": rung,
        }

    def _attack(self, rung: str, running: RunningPilot, place: Path, planted: dict[str, Path]) -> Result:
        sandbox, result = self.world.sandbox, Result()

        def submit(command: str, **keys: str) -> int:
            small = {"computingSite": QUEUE, "minRamCount": MEMORY_MB, "maxDiskCount": DISK_MB}
            return sandbox.submit_job(**shell_job(command, **small, **keys))

        running.wait_until(lambda: "no job for" in running.log, "it asks for jobs")
        before = submit("echo mine >left-here")
        places = self._places(running, place, rung) | {name: str(path) for name, path in planted.items()}
        places["BEFORE"] = str(before)
        head = "".join(f"export {name}='{value}'\n" for name, value in places.items()) + "export MINE=$PANDAID\n"
        jobs = {"attempts": submit(head + _one_after_another(rung))}
        outputs = output_keys("link.txt", "hard.txt", "pipe.txt")
        jobs["links and pipes as outputs"] = submit(head + OUTPUTS, **outputs)
        jobs["processes that outlive their job"] = submit(DAEMONS)
        jobs["fork bomb"] = submit(BOMB)
        jobs["terminal escapes in a diagnosis"] = submit(FORGED)
        jobs |= {name: submit(command) for name, (command, _code) in EXHAUSTING.items()}
        sandbox.wait_for(jobs["processes that outlive their job"], {"finished", "failed"}, 60)
        time.sleep(GONE_WITHIN_S)
        left = _sleepers()
        end = running.end(120)
        result.log = end.stderr
        result.isolation = ",".join(sorted({job["isolation"] for job in end.jobs.values()}))
        self._judge_inside(result, jobs["attempts"])
        self._judge_outside(result, jobs, end.exit_code, left)
        return result

    def _judge_inside(self, result: Result, panda_id: int) -> None:
        stdout = self._uploaded(f"PandaJob_{panda_id}/payload.stdout")
        for number, attempt in enumerate(IN_ONE_JOB):
            found = re.search(rf"^ATTEMPT {number} made (.*)$", stdout, re.MULTILINE)
            if found:
                result.made.add(attempt.name + attempt.kind)
                if "GOT" in found.group(1):
                    result.got[attempt.name + attempt.kind] = found.group(1).strip()[:60]

    def _judge_outside(self, result: Result, jobs: dict[str, int], exit_code: int, left: list[str]) -> None:
        states = {name: self.world.sandbox.job(panda_id) for name, panda_id in jobs.items()}
        codes = {name: job["fields"].get("piloterrorcode") for name, job in states.items()}
        diagnosis = str(states["terminal escapes in a diagnosis"]["fields"])
        leaks = self._leaks()
        facts = {
            "links and pipes as outputs": states["links and pipes as outputs"]["status"] == "finished",
            "a canary in anything uploaded": leaks,
            "terminal escapes in a diagnosis": "\x1b" in diagnosis or "\\x1b" in diagnosis or "\x07" in diagnosis,
            "processes that outlive their job": left,
            "fork bomb": codes["fork bomb"] not in STOPPED_BOMB
            and f"{states['fork bomb']['status']} {codes['fork bomb']}",
            "heartbeats held back by a CPU hog": self._late_heartbeats(jobs["all of the processors"]),
            "the pilot's life": exit_code != 0 and f"exit code {exit_code}",
        }
        for name, (_command, code) in EXHAUSTING.items():
            stopped = codes[name] == code or (code is None and states[name]["status"] == "finished")
            facts[name] = not stopped and f"{states[name]['status']} {codes[name]}"
        for attempt in OUTSIDE:
            result.made.add(attempt.name + attempt.kind)
            if facts[attempt.name]:
                result.got[attempt.name + attempt.kind] = str(facts[attempt.name])[:60]

    def _late_heartbeats(self, panda_id: int) -> str:
        """The longest time between two updates of a job, when it is too long."""
        told = updates(self.world.db.ledger(0), panda_id)
        seqs = {update.seq for update in told}
        times_s = [entry["arrived"] for entry in self.world.db.ledger(0) if entry["seq"] in seqs]
        longest_s = max(later - earlier for earlier, later in itertools.pairwise(times_s))
        return f"{longest_s:.1f} s without one" if longest_s > LATEST_HEARTBEAT_S else ""

    # --- what was uploaded --------------------------------------------------------------------------------------------

    def _uploaded(self, ending: str) -> str:
        for path in self._objects():
            if str(path).endswith(ending):
                return path.read_text(errors="replace")
        return ""

    def _objects(self) -> Iterator[Path]:
        for store in ("gcs", "s3"):
            yield from (path for path in (self.state / store).rglob("*") if path.is_file())

    def _leaks(self) -> list[str]:
        """Objects and messages that hold a canary, or a line of one of the pilot's credentials."""
        needles = [CANARY.encode(), self.token.read_bytes().strip()]
        for name in ("client.key", "gcs-key.json", "s3-key"):
            text = (self.state / name).read_text()
            if name == "gcs-key.json":
                text = json.loads(text)["private_key"]
            words = text.split() if name == "s3-key" else text.splitlines()
            needles += [word.encode() for word in words if len(word) > 30 or (name == "s3-key" and "_" not in word)]
        found = [path.name for path in self._objects() if _holds(path, needles)]
        bodies = "\n".join(str(entry["body"]) for entry in self.world.sandbox.ledger()).encode()
        return found + [f"message with {needle[:12]!r}" for needle in needles if needle in bodies]


def _one_after_another(rung: str) -> str:
    """A shell text that makes each attempt in a process of its own and prints one line about it.

    Rung D, which defends nothing, shows that the attempts are worth something; the pilot's life is spared there.
    """
    lines = []
    for number, attempt in enumerate(IN_ONE_JOB):
        if rung == "D" and attempt.name.startswith("SIG"):
            continue
        encoded = base64.b64encode(attempt.program.encode()).decode()
        program = "python3" if attempt.python else "sh"
        lines.append(
            f"echo {encoded} | base64 -d >program; x=$(timeout {ATTEMPT_S} {program} program 2>/dev/null </dev/null "
            f"| head -c 300 | tr -c '[:print:]' ' '); printf 'ATTEMPT {number} made %s\\n' \"$x\""
        )
    return "\n".join([*lines, "exit 0"])


def _holds(path: Path, needles: list[bytes]) -> bool:
    content = path.read_bytes()
    if path.name.endswith(".tgz"):
        with tarfile.open(path) as bundle:
            members = [bundle.extractfile(member) for member in bundle.getmembers() if member.isfile()]
            content += b"\n".join(member.read() for member in members if member)
    return any(needle in content for needle in needles)


def _sleepers() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == f"sleep\0{DAEMON}\0".encode():
                    found.append(entry.name)
            except OSError:
                continue
    return found


def table(results: dict[str, Result]) -> str:
    """Attempts by rungs; the last line counts."""
    lines = [f"{'attempt':58}" + "".join(f"{rung:>6}" for rung in results)]
    for attempt in ALL:
        key, cells = attempt.name + attempt.kind, []
        for rung, result in results.items():
            word = "no" if key in result.made else "-"
            if key in result.got:
                word = "yes" if rung == "D" else "known" if rung in attempt.undefended else "YES"
            cells.append(f"{word:>6}")
        lines.append(f"{attempt.kind + ': ' + attempt.name:58}" + "".join(cells))
    for rung, result in results.items():
        lines += [f"  {rung}: {key}: {got}" for key, got in result.got.items() if rung != "D"]
    counts = [
        f"{len(result.got)} of {len(result.made)} attempts succeeded on {rung}" for rung, result in results.items()
    ]
    return "\n".join([*lines, "", ", ".join(counts)])


def unexpected(rung: str, result: Result) -> dict[str, str]:
    """What succeeded although the rung claims to prevent it, and what was not even tried. D claims nothing of it."""
    if rung == "D":
        return {}
    found = {
        attempt.name: result.got[attempt.name + attempt.kind]
        for attempt in ALL
        if attempt.name + attempt.kind in result.got and rung not in attempt.undefended
    }
    missing = {a.name: "not tried" for a in ALL if a.name + a.kind not in result.made}
    return found | missing


def main() -> int:
    """Run everything and print the table; 1 when something succeeded that a rung claims to prevent."""
    with open_folder() as folder, World(folder / "state", adder_delay_s=0.0) as world:
        suite = Suite(world, folder)
        results = {rung: suite.run(rung) for rung in RUNGS}
    sys.stdout.write(table(results) + "\n")
    return int(any(unexpected(rung, result) for rung, result in results.items()))
