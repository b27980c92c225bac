"""A job run again: folder, inputs, a payload on the same rungs under the same limits, judged as its pilot judged it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pilot.job.errors import ExitCode, PilotCannotWork, StageError
from pilot.job.limits import output_limit_bytes
from pilot.job.model import Job
from pilot.job.outcome import Outcome, StopCause, failed, judge, with_error
from pilot.job.states import JobState
from pilot.payload.apptainer import CONTAINER_TMP
from pilot.payload.command import TransformSource, resolve
from pilot.payload.environment import TRACKING_NAME
from pilot.payload.process import Guard
from pilot.payload.readiness import Readiness
from pilot.payload.runtime import PayloadRunner, PreparedPayload
from pilot.payload.start import Launch
from pilot.ports import Question, Sight
from pilot.replay.plan import Plan
from pilot.replay.terminal import attended
from pilot.runtime.loops import run_stage
from pilot.runtime.payload_end import facts_of
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, Stopped
from pilot.runtime.workdir import JobFolder
from pilot.storage.staging import JobStager, outputs_there
from pilot.storage.store import Stores

LAST_WORDS_BYTES = 4000
SHELL_NAME = "job.sh"
SCRIPT_NAME = "run.sh"
_CAUSES = {StopKind.SIGTERM: StopCause.SIGTERM, StopKind.SIGINT: StopCause.SIGINT}
_GREETING = """echo 'The job would run:  bash {script}'
shell=sh
command -v bash >/dev/null 2>&1 && shell=bash
[ -t 0 ] && exec "$shell" -i
exec "$shell"
"""


@dataclass(frozen=True)
class Bench:
    """A job on its bench: its folder, its plan, and the parts that work on it."""

    job: Job
    folder: JobFolder
    plan: Plan
    stager: JobStager
    runner: PayloadRunner

    def fetch_inputs(self, stop: Stop) -> None:
        """Raises StageInError, Stopped."""
        if self.job.inputs:
            run_stage("stage-in", lambda: self.stager.stage_in(self.job, self.folder.work, stop), stop)

    def prepare(self, job: Job, stop: Stop) -> PreparedPayload:
        """Raises PayloadError, Stopped."""
        return run_stage("setup", lambda: self.runner.prepare(job, self.folder, stop), stop)


def payload_runner(plan: Plan, stores: Stores, volume: Path) -> PayloadRunner:
    """Raises PilotCannotWork when payloads would run on a lower rung here than is required."""
    readiness = Readiness(plan.config.demands)
    refusal = readiness.refusal(volume)
    if refusal:
        raise PilotCannotWork(ExitCode.GENERAL, refusal)
    return PayloadRunner(plan.config, stores, readiness)


def run_again(bench: Bench, stop: Stop) -> Outcome:
    """Run it to its end. Raises PilotCannotWork when it was stopped before it began."""
    try:
        bench.fetch_inputs(stop)
        prepared = bench.prepare(bench.job, stop)
        tell_setting(prepared)
        end = prepared.run(stop)
    except StageError as error:
        return failed(error.diagnosis)
    except Stopped as stopped:
        raise PilotCannotWork(_exit_code(stopped), str(stopped)) from None
    cause = _CAUSES.get(end.stopped_by.kind, StopCause.INTERNAL) if end.stopped_by else None
    outcome = judge(facts_of(end, cause))
    if outcome.state is JobState.FINISHED:
        return _proven(bench, outcome)
    return outcome


def _proven(bench: Bench, outcome: Outcome) -> Outcome:
    """A job is finished when its outputs are there; nothing of them is stored anywhere."""
    try:
        outputs_there(bench.job, bench.folder.work, output_limit_bytes(bench.plan.config.queue))
    except StageError as error:
        return with_error(outcome, error.diagnosis)
    return outcome


def _exit_code(stopped: Stopped) -> ExitCode:
    return ExitCode.SIGTERM if stopped.reason.kind is StopKind.SIGTERM else ExitCode.SIGINT


def tell_setting(prepared: PreparedPayload) -> None:
    """What it runs on and under which limits."""
    limits, sources = prepared.limits, prepared.limits.sources
    known = {"memory": limits.memory_bytes, "work folder": limits.workdir_bytes}
    words = [f"{name} {value >> 20} MB" for name, value in known.items() if value is not None]
    if limits.walltime_s is not None:
        words.append(f"wall time {limits.walltime_s:.0f} s")
    print(f"isolation  {prepared.isolation}")
    print(
        f"limits     {', '.join(words) or 'none'}"
        + (f" ({sources['memory_bytes']})" if "memory_bytes" in sources else "")
    )
    print(f"output     {prepared.launch.stdout} and {prepared.launch.stderr.name}", flush=True)


# --- a shell where it ran ---------------------------------------------------------------------------------------------


def open_shell(bench: Bench, stop: Stop) -> int:
    """A shell in the job's container or on its rung, with its variables and inputs; the shell's exit code.

    Raises StageError, Stopped.
    """
    bench.fetch_inputs(stop)
    contained = bench.plan.config.image is not None
    script = f"{CONTAINER_TMP}/{SHELL_NAME}" if contained else str(bench.folder.tmp / SHELL_NAME)
    _leave_command(bench, stop)
    shell = replace(bench.job, transformation="bash-c", parameters=_GREETING.format(script=shlex.quote(script)))
    prepared = bench.prepare(shell, stop)
    print(f"isolation  {prepared.isolation}; nothing is limited or judged in a shell", flush=True)
    launch = prepared.launch
    guard = Guard(f"{TRACKING_NAME}={launch.tracking_id}", launch.account)
    try:
        return attended(launch.whole_argv, launch.environment, launch.folder, launch.umask, stop)
    finally:
        bench.runner.lay_to_rest(prepared.mark, bench.folder)
        guard.dismiss()
        prepared.close()


def _leave_command(bench: Bench, stop: Stop) -> None:
    """The job's command where the shell finds it."""
    config = bench.plan.config
    source = TransformSource(config.transforms, config.transform_bases, config.ca_path)
    command = run_stage("command", lambda: resolve(bench.job, source, stop), stop)
    script = bench.folder.tmp / SHELL_NAME
    script.write_text(command.text + "\n", encoding="utf-8", errors="surrogateescape")
    script.chmod(0o644)
    if command.transform is not None:
        target = bench.folder.work / command.transform_name
        shutil.copyfile(command.transform, target)
        target.chmod(0o755)


# --- a command to run by hand -----------------------------------------------------------------------------------------


def lay_out(bench: Bench, stop: Stop) -> Path:
    """Everything but the run itself; the script that would start the payload. Raises StageError, Stopped."""
    bench.fetch_inputs(stop)
    prepared = bench.prepare(bench.job, stop)
    prepared.close()
    tell_setting(prepared)
    script = bench.folder.root.parent.parent / SCRIPT_NAME
    script.write_text(
        _script(prepared.launch, bench.plan.config.credentials), encoding="utf-8", errors="surrogateescape"
    )
    script.chmod(0o700)
    return script


def _script(launch: Launch, variables: Mapping[str, str | Secret]) -> str:
    """A shell text that starts exactly this. Secrets are taken from the environment it is run in: no file holds them."""
    secrets = {name for name, value in variables.items() if isinstance(value, Secret)}
    lines = [f"umask {launch.umask:04o}", f"cd {shlex.quote(str(launch.folder))} || exit", "exec env -i \\"]
    for name, value in sorted(launch.environment.items()):
        plain = name.removeprefix("APPTAINERENV_").removeprefix("SINGULARITYENV_")
        lines.append(f'  {name}="${{{plain}:?}}" \\' if plain in secrets else f"  {name}={shlex.quote(value)} \\")
    lines.append("  " + " ".join(shlex.quote(word) for word in launch.whole_argv) + " \\")
    lines.append(f"  </dev/null >{shlex.quote(str(launch.stdout))} 2>{shlex.quote(str(launch.stderr))}")
    return "#!/bin/sh\n# Starts the payload as pilot-replay would, without its limits.\n" + "\n".join(lines) + "\n"


def last_words(bench: Bench, most_lines: int = 10) -> list[str]:
    """The end of what the payload wrote to stderr, for a terminal; empty when it wrote nothing."""
    try:
        if bench.folder.stderr.stat().st_size == 0:
            return []
    except OSError:
        return []
    question = Question(Sight.TAIL, bench.folder.stderr.name, most_lines)
    return bench.runner.look(question, bench.folder, LAST_WORDS_BYTES).splitlines()
