"""`pilot-sandbox`: run a PanDA world on loopback, submit jobs to it, look at them, debug and kill them."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pilot.sandbox.adder import HEARTBEAT_TIMEOUT_S
from pilot.sandbox.control import Sandbox, SandboxError
from pilot.sandbox.monitor import diagnosis, log_url
from pilot.sandbox.panda_server import API_CHOICES
from pilot.sandbox.production import ProductionError
from pilot.sandbox.stores import StoreUnavailable
from pilot.sandbox.submission import BadSubmission, read_submission
from pilot.sandbox.world import StateFolderBusy, World

DEFAULT_STATE = "~/.local/state/pilot-sandbox"
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; every foreseeable trouble is one sentence on stderr and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(given)
    try:
        return int(options.act(options))
    except (SandboxError, BadSubmission, StoreUnavailable, StateFolderBusy, ProductionError) as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.strerror}: {error.filename}" if error.filename else str(error))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pilot-sandbox", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument(
        "--state", type=Path, default=Path(DEFAULT_STATE).expanduser(), metavar="DIR",
        help=f"the folder with all state of the sandbox (default {DEFAULT_STATE})",
    )  # fmt: skip
    run = commands.add_parser("run", parents=[state], help="start everything; run COMMAND in it, or wait for a signal")
    run.add_argument("--time-scale", type=_positive, default=1.0, metavar="F", help="60 makes a server minute a second")
    run.add_argument("--apis", choices=API_CHOICES, default="both", help="API generations the server speaks")
    run.add_argument("--submit", type=Path, action="append", default=[], metavar="FILE", help="submit this jobs file")
    run.add_argument("--store-fronts", action="store_true", help="put fronts before the stores, for their faults")
    run.add_argument("--hello", action="store_true", help="submit one job that prints hello")
    run.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="with PILOT_CONFIG in its environment"
    )
    run.set_defaults(act=_run)
    submit = commands.add_parser("submit", parents=[state], help="submit a JSON list of jobs to a running sandbox")
    submit.add_argument("file", type=Path, metavar="FILE")
    submit.set_defaults(act=_submit)
    status = commands.add_parser("status", parents=[state], help="list the jobs of a running sandbox")
    status.set_defaults(act=_status)
    kill = commands.add_parser("kill", parents=[state], help="kill a job as an operator would")
    kill.add_argument("panda_id", type=int, metavar="ID")
    kill.set_defaults(act=_kill)
    ask = commands.add_parser(
        "command", parents=[state], help="debug a job as an operator would; prints the pilot's answer"
    )
    ask.add_argument("panda_id", type=int, metavar="ID")
    ask.add_argument("line", metavar="COMMAND", help="tail FILE, ls FOLDER, du, ps, debug, debugoff; in quotes")
    ask.add_argument("--wait-s", type=float, default=90.0, metavar="S", help="how long to wait for the answer")
    ask.set_defaults(act=_command)
    demo = commands.add_parser("demo", help="18 real pipetask jobs, from bps submit to the star count")
    demo.add_argument("--image", type=Path, required=True, metavar="SIF", help="scripts/build-payload-image makes it")
    demo.add_argument("--state", type=Path, default=Path("build/demo"), metavar="DIR", help="removed first")
    demo.add_argument("--quick", action="store_true", help="two jobs only")
    demo.add_argument("--keep", action="store_true", help="serve the links afterwards, until Ctrl-C")
    demo.set_defaults(act=_demo)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= HEARTBEAT_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {HEARTBEAT_TIMEOUT_S:g}")
    return value


def _run(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if command and shutil.which(command[0]) is None:
        return _complain(f"There is no command {command[0]}.", 127)
    submissions = [read_submission(file.read_text(), str(file)) for file in options.submit]
    ending = threading.Event()
    # Before the world starts, so that a signal during the start ends it in good order.
    runner = _Runner(ending)
    for number in _ENDS:
        signal.signal(number, runner.on_signal)
    how = {"apis": options.apis, "time_scale": options.time_scale, "store_fronts": options.store_fronts}
    with World(options.state, **how) as world:
        for entries in submissions:
            world.dispatcher.submit(entries)
        if options.hello:
            world.sandbox.submit([_hello()])
        _announce(world)
        if not command:
            ending.wait()
            return 0
        code = runner.run(command, {**os.environ, "PILOT_CONFIG": str(world.state_dir / "pilot.yaml")})
        # What the command reported last gets its final status before everything stops.
        world.run_adder()
        return code


class _Runner:
    """The command and the signals: what arrives is forwarded to the command, or ends the wait when there is none."""

    def __init__(self, ending: threading.Event) -> None:
        self._ending = ending
        self._child: subprocess.Popen[bytes] | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._ending.set()
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(number)

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """The command's exit code, 128+n when signal n ended it. It has its own process group, so that a Ctrl-C of
        the terminal reaches it once, through `on_signal`, and not twice."""
        if self._ending.is_set():
            return 128 + signal.SIGTERM
        self._child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], env=environment, stdin=subprocess.DEVNULL, process_group=0
        )
        if self._ending.is_set():
            # A signal came between the start and the line that makes the command known.
            self._child.terminate()
        code = self._child.wait()
        return code if code >= 0 else 128 - code


def _announce(world: World) -> None:
    about = world.sandbox.about
    lines = [
        ("server", about["server"]),
        ("CRIC", about["cric"]),
        ("S3", about["s3"]),
        ("public logs", about["public_logs"]),
        ("monitor", about["monitor"]),
        ("state", str(world.state_dir)),
    ]
    for name, value in lines:
        print(f"{name + ':':<13}{value}", flush=True)


def _hello() -> dict[str, Any]:
    parameters = base64.b64encode(b"echo hello from job $PANDAID").decode()
    return {"label": "hello", "job": {"transformation": "bash-c-enc", "jobPars": parameters}}


def _submit(options: argparse.Namespace) -> int:
    text = options.file.read_text()
    # Checked here as well, so that the sentence names the file.
    read_submission(text, str(options.file))
    with Sandbox(options.state) as sandbox:
        for panda_id in sandbox.submit(json.loads(text)):
            print(panda_id)
    return 0


def _status(options: argparse.Namespace) -> int:
    with Sandbox(options.state) as sandbox:
        for job in sandbox.jobs():
            fields = job["fields"]
            about = "  ".join(part for part in (diagnosis(fields), log_url(fields)) if part)
            print(f"{job['panda_id']}  {job['status']:<12}  {job['label']:<20}  {about}".rstrip())
    return 0


def _kill(options: argparse.Namespace) -> int:
    with Sandbox(options.state) as sandbox:
        if not sandbox.kill(options.panda_id):
            return _complain(f"Job {options.panda_id} is unknown or over.")
    return 0


def _command(options: argparse.Namespace) -> int:
    line = " ".join(options.line.split())
    if not line:
        return _complain("The command is empty.", 2)
    with Sandbox(options.state) as sandbox:
        answer = sandbox.ask(options.panda_id, line, options.wait_s)
    if answer is None:
        return _complain(f"No update of job {options.panda_id} has answered within {options.wait_s:g} s.")
    print(answer, end="\n" if answer else "")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from pilot.sandbox.demo import run_demo

    return run_demo(options.image.absolute(), options.state.absolute(), quick=options.quick, keep=options.keep)


def _complain(sentence: str, code: int = 1) -> int:
    print(f"pilot-sandbox: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
