"""Runs plans: real pilot processes against a sandbox of its own, with the faults of a plan at their points.

The laboratory is also the kubelet (it starts a successor on the same volume until nothing is left to do) and the operator
(faults of servers and disk are mended after a while, a job is killed).
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from pilot.job.endpoint import deterministic_path
from pilot.runtime.probe import Point
from pilot.sandbox.cric_server import DATA_BUCKET, DATA_ENDPOINT, LOG_BUCKET, LOG_ENDPOINT
from pilot.sandbox.faults import make_fault
from pilot.sandbox.submission import check_submission
from pilot.sandbox.world import World
from tests.faults.checker import FINAL_STATES, Evidence, violations
from tests.faults.failing_disk import FailingDisk, Site
from tests.faults.plan import CLOCK_STEP_S, Fault, Plan, Strike
from tests.faults.volume import SmallVolume

QUEUE = "FAULT_LABORATORY"
TAG = "FAULT_LABORATORY"  # a variable of every payload: the processes in a container are known by it
SCOPE = "lab"
INPUT, INPUT_BYTES = "input.dat", 400_000
OUTPUT_BYTES = 400_000
OPERATOR = "/CN=Operator of the laboratory"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENTRY = Path(__file__).with_name("entry.py")
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)
# Everything in a pilot's life shortened, so that a run takes seconds.
OPTIONS = {
    "max-jobs": 1, "max-empty": 2, "empty-wait-s": 0.1, "time-floor-s": 0, "heartbeat": 0.3, "start-wait-s": 3,
    "min-free-mib": 0, "log-retry-s": 1.5, "final-retry-s": 2.5, "payload-grace-s": 0.3, "shutdown-s": 3,
}  # fmt: skip
PILOT_LIMIT_S = 40.0  # a pilot that lives longer hangs
PILOTS_MOST = 8
CLOCK_CACHE_S = 1
SETTLE_S = 5.0  # for the Adder, and for what dies after its pilot
POLL_S = 0.02
UPLOADS = (Point.UPLOAD_BEGUN, Point.UPLOAD_MIDWAY, Point.UPLOAD_SENT)
EVERY = 1_000_000  # so many requests go wrong: all of them until the fault is cleared


# A payload may write nowhere outside of its folder, but it may speak: its notes go into the ledger (as not found).
_NOTE = (
    "note() { exec 3<>/dev/tcp/127.0.0.1/%d && printf 'GET %s%%s HTTP/1.0\\r\\n\\r\\n' \"$1\" >&3"
    " && cat <&3 >/dev/null; exec 3>&-; }"
)
_NOTE_OF_BUSYBOX = "note() { wget -q -O /dev/null http://127.0.0.1:%d%s$1 2>/dev/null; true; }"
MAKE_IMAGE = Path(__file__).parents[2] / "scripts" / "make-test-image"


@dataclass(frozen=True, slots=True)
class Result:
    """A run's verdict. ``problems`` is empty when it held; ``story`` is what a person needs to understand it."""

    plan: Plan
    problems: tuple[str, ...]
    strikes_done: int
    pilots: int
    final_state: str
    took_s: float
    story: str = ""
    written: tuple[tuple[Site, int], ...] = ()  # on a watched volume: what was written where, and how often

    @property
    def held(self) -> bool:
        return not self.problems

    @property
    def text(self) -> str:
        return "\n".join(
            [
                f"{'HELD' if self.held else 'BROKEN'} {self.plan.text}",
                *(f"  - {problem}" for problem in self.problems),
                self.story,
            ]
        )


class Laboratory:
    """One sandbox for many runs, one after another. Enter it on the main thread (its stores follow that thread's death)."""

    def __init__(self, keep: Path | None = None, *, record_journals: bool = False) -> None:
        self._keep = keep
        self.record_journals = record_journals
        self._stack = ExitStack()
        self.last_seq = 0  # of the ledger, at the end of the last run
        self.runs = 0

    def __enter__(self) -> Laboratory:
        self.folder = Path(tempfile.mkdtemp(prefix="pilot-faults-"))
        self.folder.chmod(0o755)  # so that payloads may have a user of their own
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        content = random.Random(1).randbytes(INPUT_BYTES)
        self.input_adler32 = f"{zlib.adler32(content):08x}"
        data = self.folder / "world" / "s3" / DATA_BUCKET / deterministic_path(SCOPE, INPUT)
        data.parent.mkdir(parents=True)
        data.write_bytes(content)
        self.world = self._stack.enter_context(World(self.folder / "world", store_fronts=True, adder_delay_s=0.0))
        self.world.cric.set_queue(QUEUE, {"environ": f"{TAG}={self.folder}"})
        return self

    @cached_property
    def image(self) -> Path:
        """The folder of a tiny image, made at first use."""
        folder = self.folder / "image"
        subprocess.run([str(MAKE_IMAGE), f"{folder}.sif", str(folder)], check=True, capture_output=True)
        return folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, plan: Plan) -> Result:
        """Carry out one plan and judge it."""
        self.runs += 1
        begun_s = time.monotonic()
        folder = self.folder / f"run{self.runs}"
        with _Run(self, plan, folder) as run:
            run.carry_out()
            evidence = run.evidence()
            problems = tuple(violations(evidence))
            story, written = run.story(), run.written()
        if self._keep is not None and (problems or self.record_journals):
            shutil.copytree(folder, self._keep / plan.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("s"))
        shutil.rmtree(folder, ignore_errors=True)
        took_s = time.monotonic() - begun_s
        state = evidence.job["status"]
        return Result(plan, problems, evidence.strikes_done, run.pilots, state, took_s, story, written)

    def stored(self, name: str) -> bytes | None:
        """An object as its store keeps it: ``s3/bucket/key`` or ``gcs/bucket/key``."""
        store, bucket, key = name.split("/", 2)
        for spelling in (key, quote(key, safe="")):
            with suppress(OSError):
                return (self.folder / "world" / store / bucket / spelling).read_bytes()
        return None


@dataclass
class _Mend:
    due_s: float
    action: Callable[[], object]


@dataclass
class _Run:
    """One run, from a fresh job in a fresh work folder to its evidence."""

    lab: Laboratory
    plan: Plan
    folder: Path
    pilots: int = 0
    _waiting: list[Strike] = field(default_factory=list)
    _hits: dict[Point, int] = field(default_factory=dict)
    _mends: list[_Mend] = field(default_factory=list)
    _hung: list[str] = field(default_factory=list)
    _diary: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _killed_by_operator: bool = False

    def __enter__(self) -> _Run:
        self._begun_s = time.monotonic()
        self._stack = ExitStack()
        self.folder.mkdir()
        self.work, self.clock = self.folder / "work", self.folder / "clock"
        self._key = f"/note/{self.plan.seed}.{self.lab.runs}/"
        self.clock.write_text("+0\n")
        self._waiting = list(self.plan.strikes)
        self.world = self.lab.world
        self.world.panda.set_apis(self.plan.apis)
        self._small = self._stack.enter_context(SmallVolume(self.work)) if self.plan.has(Fault.ENOSPC) else None
        self._failing = self._stack.enter_context(FailingDisk(self.work, self.plan.disk)) if self.plan.watched else None
        self._volume = self._small or self._failing
        self._stack.enter_context(self._listening())
        self._after_seq = self.lab.last_seq
        self.panda_id = self._submit()
        return self

    def __exit__(self, *_: object) -> None:
        self._mend_all()
        self.world.faults.clear()
        self.world.panda.set_apis("both")
        for pid, _words in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for job in self.world.db.jobs("archived = 0"):
            self.world.db.set_job(job["panda_id"], status="closed", archived=1)
        self._stack.close()
        self.lab.last_seq = max(
            (entry["seq"] for entry in self.world.db.ledger(self._after_seq)), default=self._after_seq
        )

    # --- the job

    def _submit(self) -> int:
        self.output = f"out.{self.plan.seed}.{self.lab.runs}.dat"
        ends_by_itself = not (self.plan.at(Point.BREACH_SEEN) or self.plan.at(Point.KILL_RECEIVED))
        work = f"sleep 0.3 && head -c {OUTPUT_BYTES} {INPUT} > {self.output}" if ends_by_itself else "sleep 30"
        note = _NOTE_OF_BUSYBOX if self.plan.contained else _NOTE
        command = f"{note % (self.world.listeners['plain'].port, self._key)}; note start && {work} && note done"
        job = {
            "transformation": "bash-c-enc",
            "jobPars": base64.b64encode(command.encode()).decode(),
            "computingSite": QUEUE,
            "inFiles": INPUT,
            "scopeIn": SCOPE,
            "fsize": str(INPUT_BYTES),
            "checksum": f"ad:{self.lab.input_adler32}",
            "GUID": "11111111-2222-3333-4444-555555555555",
            "ddmEndPointIn": DATA_ENDPOINT,
            "outFiles": f"{self.output},log.tgz",
            "scopeOut": SCOPE,
            "ddmEndPointOut": f"{DATA_ENDPOINT},{LOG_ENDPOINT}",
            "realDatasets": "lab.out/,lab.log/",
            "destinationDblock": "lab.out/,lab.log/",
            "destinationDBlockToken": "NULL,local",
            "fileDestinationSE": f"{DATA_ENDPOINT},local",
            "maxDiskCount": 5,
            "maxWalltime": 1 if self.plan.at(Point.BREACH_SEEN) else 90000,
        }
        (panda_id,) = self.world.dispatcher.submit(check_submission([{"label": self.plan.name, "job": job}]))
        return panda_id

    def _job(self) -> dict[str, Any]:
        job = self.world.db.job(self.panda_id)
        assert job is not None
        return job

    # --- the pilots

    def carry_out(self) -> None:
        """Pilot after pilot until nothing is left to do; then the server's own time passes."""
        while self.pilots < PILOTS_MOST and self._something_to_do():
            self._run_pilot()
        self._mend_all()
        if self._job()["status"] == "sent":
            self.world.db.set_job(self.panda_id, touch=False, modified=time.time() - 1801)
        self._until(lambda: self._job()["status"] in FINAL_STATES)
        self._until(lambda: not self._processes())

    def _something_to_do(self) -> bool:
        if self._folders():
            return True
        self._until(lambda: self._job()["status"] != "holding")
        return bool(self._job()["status"] == "activated")

    def _folders(self) -> list[str]:
        root = self._volume.outside if self._volume else self.work
        with suppress(FileNotFoundError):
            return sorted(path.name for path in (root / "jobs").iterdir())
        return []

    def _run_pilot(self) -> None:
        run_file = self.folder / "run.json"
        run: dict[str, Any] = {"seed": self.plan.seed + self.pilots, "socket": self._address}
        if self.lab.record_journals:
            run["record"] = str(self.folder / "journal-operations")
        run_file.write_text(json.dumps(run))
        argv = [*(self._volume.wrap if self._volume else []), sys.executable, str(ENTRY), str(run_file)]
        argv += ["--queue", QUEUE, "--config", str(self.world.state_dir / "pilot.yaml"), "--workdir", str(self.work)]
        argv += ["--batch-id", f"pod-{self.pilots}"]  # each start is a pod of its own
        options = {**OPTIONS, **({"image": self.lab.image} if self.plan.contained else {"runtime": "plain"})}
        argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with self._log(self.pilots).open("wb") as log:
            process = subprocess.Popen(
                argv, env=self._environment(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.pilots += 1
        self._note(f"pilot {self.pilots} started, pid {process.pid}")
        try:
            self._attend(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._note(f"pilot {self.pilots} left with {process.returncode}")
        self._mend_late()
        if self._failing is not None:
            self._failing.mend()

    def _attend(self, process: subprocess.Popen[bytes]) -> None:
        end_s = time.monotonic() + PILOT_LIMIT_S
        while process.poll() is None:
            self._mend_due()
            self._operate()
            time.sleep(POLL_S)
            if time.monotonic() > end_s:
                process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                self._hung.append(f"pilot {self.pilots} was alive after {PILOT_LIMIT_S:.0f} s")
                return

    def _operate(self) -> None:
        """The operator kills a job that is to be killed, once its payload runs."""
        if not self._killed_by_operator and self.plan.at(Point.KILL_RECEIVED) and self._notes():
            self._killed_by_operator = True
            self.world.dispatcher.kill(self.panda_id, OPERATOR)
            self._note("the operator killed the job")

    def _environment(self) -> dict[str, str]:
        environment = {
            "PATH": PATH,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        if self.plan.has(Fault.CLOCK_STEP):
            environment |= {
                "LD_PRELOAD": _faketime(),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_CACHE_DURATION": str(CLOCK_CACHE_S),  # reading the file at each look at a clock costs seconds
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        return environment

    def _log(self, number: int) -> Path:
        return self.folder / f"pilot{number}.log"

    # --- strikes

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """The socket the pilots tell their points to."""
        self._address = str(self.folder / "s")
        server = socket.socket(socket.AF_UNIX)
        server.bind(self._address)
        server.listen(64)
        thread = threading.Thread(target=self._answer_all, args=(server,), name="laboratory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()

    def _answer_all(self, server: socket.socket) -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line, suppress(OSError):
                told = json.loads(line.makefile().readline() or "null")
                if told is not None:
                    line.sendall(self._reached(Point[told["point"]], told["pid"]).encode() + b"\n")

    def _reached(self, point: Point, pid: int) -> str:
        """What to say to a pilot that is at ``point``; due faults are done meanwhile, while it waits."""
        if point in UPLOADS and not self._hits.get(Point.PAYLOAD_EXITED):
            return "go"  # a growing log; these points are the outputs'
        if point is Point.PAYLOAD_RUNNING:
            self._until(self._notes)  # it runs: a second start would be seen
        self._hits[point] = self._hits.get(point, 0) + 1
        due = [strike for strike in self._waiting if strike.point is point and strike.nth <= self._hits[point]]
        words = "go"
        for strike in due:
            self._waiting.remove(strike)
            self._note(f"{point.name} reached: {strike.fault.value}")
            words = self._strike(strike, pid) or words
        return words

    def _strike(self, strike: Strike, pid: int) -> str | None:
        match strike.fault:
            case Fault.KILL:
                os.kill(pid, signal.SIGKILL)
            case Fault.SIGTERM:
                os.kill(pid, signal.SIGTERM)
            case Fault.SIGSTOP:
                os.kill(pid, signal.SIGSTOP)
                self._later(strike, lambda: _signal(pid, signal.SIGCONT))
            case Fault.PAYLOAD_KILLED:
                payload = self._payload_processes()
                self._note(f"processes of the payload: {len(payload)}")
                for member in payload:
                    _signal(member, signal.SIGKILL)
            case Fault.ENOSPC:
                assert self._small is not None
                self._small.fill()
                self._later(strike, self._small.free)
            case Fault.FSYNC_EIO:
                return f"fsync {EVERY if strike.variant == 'always' else 1}"
            case Fault.CLOCK_STEP:
                self.clock.write_text(f"{'-' if strike.variant == 'back' else '+'}{CLOCK_STEP_S}\n")
                time.sleep(CLOCK_CACHE_S + 0.1)  # the pilot waits at its point until it has stepped
                self._later(strike, lambda: self.clock.write_text("+0\n"))
            case _:
                self._strike_server(strike)
        return None

    def _strike_server(self, strike: Strike) -> None:
        """Faults of servers; all requests go wrong until it is mended, but those that spoil one answer spoil one."""
        order = self.world.faults.add
        commit = strike.variant == "commit"
        match strike.fault:
            case Fault.SERVER_REFUSED:
                self.world.take_down("panda", None)
                self._later(strike, lambda: self.world.bring_up("panda"))
                return
            case Fault.SERVER_5XX:
                order(make_fault("status", server="panda", status=503, count=EVERY))
            case Fault.SERVER_HANGS:
                order(make_fault("hang", server="panda", delay_s=strike.lasts_s, commit=commit, count=2))
                return
            case Fault.RESET_AFTER_COMMIT:
                order(make_fault("reset-after-commit", server="panda"))
                return
            case Fault.MALFORMED_ANSWER:
                order(make_fault("garbage", server="panda", commit=commit))
                return
            case Fault.STORAGE_503 | Fault.STORAGE_403:
                status = 503 if strike.fault is Fault.STORAGE_503 else 403
                for store in ("gcs", "s3"):
                    order(make_fault("status", server=store, status=status, count=EVERY))
            case _:
                raise AssertionError(strike.fault)
        self._later(strike, self._clear_server_faults)

    def _clear_server_faults(self) -> None:
        self.world.faults.clear()

    def _later(self, strike: Strike, action: Callable[[], object]) -> None:
        """Mend in the strike's time, or when this pilot has left."""
        due_s = float("inf") if strike.variant == "late" else time.monotonic() + strike.lasts_s
        with self._lock:
            self._mends.append(_Mend(due_s, action))

    def _mend_due(self, now_s: float | None = None) -> None:
        with self._lock:
            due = [mend for mend in self._mends if mend.due_s <= (time.monotonic() if now_s is None else now_s)]
            self._mends = [mend for mend in self._mends if mend not in due]
        for mend in due:
            mend.action()
            self._note("mended")

    def _mend_all(self) -> None:
        self._mend_due(float("inf"))

    def _mend_late(self) -> None:
        """A pilot has left: what outlasted it is mended, the rest has its own time."""
        with self._lock:
            for mend in self._mends:
                if mend.due_s == float("inf"):
                    mend.due_s = 0.0
        self._mend_due()

    # --- what is seen

    def _payload_processes(self) -> list[int]:
        return [pid for pid, words in self._processes() if str(ENTRY) not in words]

    def _processes(self) -> list[tuple[int, str]]:
        """Living processes whose command line or environment names this run's folder, or bears the queue's tag."""
        found: list[tuple[int, str]] = []
        folder, tag = f"{self.folder}/".encode(), f"{TAG}={self.lab.folder}".encode()
        ours = (os.getpid(), self._volume.pid if self._volume else 0)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in ours:
                continue
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                words = command + (entry / "environ").read_bytes()
                if folder not in words and tag not in words:
                    continue
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append((int(entry.name), command.replace(b"\0", b" ").decode("utf-8", "replace")))
        return found

    def _until(self, true: Callable[[], object]) -> None:
        end_s = time.monotonic() + SETTLE_S
        while not true() and time.monotonic() < end_s:
            time.sleep(POLL_S)

    def _ledger(self) -> list[dict[str, Any]]:
        return [entry for entry in self.world.db.ledger(self._after_seq) if entry["server"] == "panda"]

    def _notes(self) -> list[str]:
        """What the payload has noted of itself in the ledger."""
        paths = [entry["path"] for entry in self.world.db.ledger(self._after_seq)]
        return [path.removeprefix(self._key) for path in paths if path.startswith(self._key)]

    def evidence(self) -> Evidence:
        """The run as everybody but the pilot saw it."""
        log = f"gcs/{LOG_BUCKET}/logs/{QUEUE}/PandaJob_{self.panda_id}/log.tgz"
        return Evidence(
            plan=self.plan,
            panda_id=self.panda_id,
            job=self._job(),
            ledger=self._ledger(),
            payload_notes=self._notes(),
            outputs={self.output: f"s3/{DATA_BUCKET}/{deterministic_path(SCOPE, self.output)}"},
            log_object=("log.tgz", log),
            stored=self.lab.stored,
            processes=[words for _, words in self._processes()],
            folders=self._folders(),
            strikes_done=len(self.plan.strikes) - len(self._waiting),
            hung=self._hung,
        )

    def written(self) -> tuple[tuple[Site, int], ...]:
        return tuple(self._failing.operations().items()) if self._failing else ()

    def _note(self, words: str) -> None:
        self._diary.append(f"{time.monotonic() - self._begun_s:7.3f} {words}")

    def story(self) -> str:
        """Diary, server's row, ledger and the pilots' logs."""
        job = self._job()
        lines = ["diary:", *self._diary, f"job: {job['status']} {job['fields']}", "ledger:"]
        for entry in self._ledger():
            path, fault = entry["path"].split("/")[-1], entry["fault"] or ""
            lines.append(
                f"  {entry['arrived']:.3f} {path} {fault} {entry['status']} {entry['body'][:300]} -> {entry['answer'][:80]}"
            )
        for number in range(self.pilots):
            lines += [f"pilot {number + 1}:", self._log(number).read_text(errors="replace")[-6000:]]
        return "\n".join(lines)


def _faketime() -> str:
    found = [path for path in FAKETIME if Path(path).exists()]
    if not found:
        raise OSError("libfaketime is not installed: run scripts/prepare-machine faults once as root")
    return found[0]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
