"""``pilot-replay``: the command and its options, and what it prints."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from pilot import __version__
from pilot.job.errors import ExitCode, PilotCannotWork, SettingsError, StageError
from pilot.job.model import MalformedJob
from pilot.job.outcome import Outcome
from pilot.job.replay import Replay
from pilot.options import BY_NAME
from pilot.payload.apptainer import Bind, parse_bind
from pilot.payload.rungs import hide_memory, level_named
from pilot.replay.bundle import unpack
from pilot.replay.find import Found, find, queue_in
from pilot.replay.inputs import input_stager
from pilot.replay.plan import Given, Plan, RuntimeChoice, plan, require_command
from pilot.replay.run import Bench, last_words, lay_out, open_shell, payload_runner, run_again
from pilot.runtime.events import redactor, start_logging
from pilot.runtime.secret import Secret, tell_of_secrets
from pilot.runtime.signals import stop_on_signals
from pilot.runtime.stop import Stop, Stopped
from pilot.runtime.workdir import WorkVolume
from pilot.settings import Settings, close_back_doors, environment_now, read_settings
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.store import Stores

DESCRIPTION = (
    "Runs a job again on this machine, from what its pilot left with its logs: same command, image, inputs and limits."
)
EPILOG = """\
TARGET is the address of a job's logs (the folder's or that of any file in it), a log.tgz, or a PandaID (with --queue, --server
and credentials). The job runs in its container, or on the rungs that pilot-start knows; the exit code is the payload's own, 65
when it failed without one, 67 when there is nothing to replay.
"""
# Options of pilot-start that mean the same here.
SHARED = (
    *("queue", "image", "runtime", "require_isolation", "payload_user", "image_key", "image_cache", "transform_bases"),
    *(
        "server",
        "api",
        "cert",
        "key",
        "ca",
        "x509_proxy",
        "token_file",
        "origin",
        "cric",
        "cric_bucket",
        "log_url_base",
    ),
    *("storage_ca", "gcs_endpoint", "s3_endpoint", "s3_key_file", "google_application_credentials", "metadata_url"),
    *("config", "log_level"),
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_QUEUE = "unknown"


def build_parser() -> argparse.ArgumentParser:
    """Values of the shared options stay texts: settings.py reads them."""
    parser = argparse.ArgumentParser(
        prog="pilot-replay",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="TARGET", help="address of the logs, log.tgz, or PandaID")
    parser.add_argument("--version", action="version", version=f"pilot {__version__}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--shell", action="store_true", help="open a shell where the job ran, instead of running it")
    how.add_argument("--dry-run", action="store_true", help="lay out the folder and print the command, and run nothing")
    parser.add_argument("--into", type=Path, metavar="DIR", help="folder to work in; default: ./replay-<PandaID>")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable of the payload; a name: from your environment",
    )
    parser.add_argument(
        "--bind", action="append", default=[], metavar="SOURCE:TARGET[:ro]", help="show this to the payload"
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="DIR", help="take the job's inputs from here, not from where it had them"
    )
    shared = parser.add_argument_group("as for pilot-start")
    for name in SHARED:
        option = BY_NAME[name]
        action = "append" if option.repeatable else "store"
        shared.add_argument(option.flag, dest=name, metavar=option.metavar, action=action, help=option.help)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code. Every error a person can cause is one sentence."""
    flags = vars(build_parser().parse_args(arguments))
    stop = Stop()
    try:
        with stop_on_signals(stop):
            return _replay(flags, stop)
    except Stopped as stopped:
        return _complain(ExitCode.SIGINT, str(stopped))
    except StageError as error:
        return _complain(ExitCode.GENERAL, str(error.diagnosis))
    except PilotCannotWork as trouble:
        return _complain(trouble.exit_code, str(trouble))
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _complain(ExitCode.MKDIR, words)


def _complain(code: ExitCode, sentence: str) -> int:
    print(f"pilot-replay: {redactor.clean(sentence)}", file=sys.stderr)
    return int(code)


def _replay(flags: Mapping[str, Any], stop: Stop) -> int:
    environment, target = environment_now(), str(flags["target"])
    settings = _settings(flags, queue_in(target), environment)
    hide_memory()
    start_logging(settings.log_level if settings.sources["log_level"] != "default" else "WARNING")
    tell_of_secrets(redactor.learn)
    close_back_doors()
    with ExitStack() as closing:
        stores = open_stores(_storage(settings, flags["inputs"]))
        closing.callback(stores.close)
        found = find(target, settings, stores, stop)
        if isinstance(found.replay.job, MalformedJob):
            return _complain(ExitCode.MISSING_FILE, f"the job cannot be run: {found.replay.job.diagnosis}")
        settings = _settings({**flags, "queue": None}, found.replay.recipe.queue.name or settings.queue, environment)
        if not flags["shell"]:
            require_command(found.replay)
        folder = _folder(flags["into"], found.replay)
        chosen = plan(found.replay, _given(flags, found.replay, settings, environment, folder))
        _tell(found, chosen)
        return _on_bench(found, chosen, folder, flags, stores, stop, closing)


def _on_bench(
    found: Found, chosen: Plan, folder: Path, flags: Mapping[str, Any], stores: Stores, stop: Stop, closing: ExitStack
) -> int:
    job, replay = found.replay.job, found.replay
    assert not isinstance(job, MalformedJob)  # noqa: S101  (_replay asks first)
    runner = payload_runner(chosen, stores, folder)
    volume = WorkVolume(folder)
    closing.enter_context(volume.held())
    if found.bundle is not None:
        print(
            f"unpacked   {unpack(found.bundle, folder / 'reported')} files of {found.bundle} into {folder / 'reported'}"
        )
    stager = input_stager(chosen.config.queue, stores, replay.sources, flags["inputs"])
    bench = Bench(job, volume.open_job(job.attempt), chosen, stager, runner)
    if flags["shell"]:
        return open_shell(bench, stop)
    if flags["dry_run"]:
        script = lay_out(bench, stop)
        print(f"to run it  sh {script}\n\n{script.read_text(errors='surrogateescape')}", end="")
        return 0
    outcome = run_again(bench, stop)
    _verdict(outcome, replay.outcome, bench)
    return _exit_code(outcome)


# --- what is given ----------------------------------------------------------------------------------------------------


def _settings(flags: Mapping[str, Any], queue: str | None, environment: Mapping[str, str]) -> Settings:
    """The settings a pilot of that queue would have, as far as they matter here."""
    shared = {name: flags[name] for name in SHARED}
    if shared["queue"] is None and (queue or not str(flags["target"]).isdigit()):
        shared["queue"] = queue or _NO_QUEUE
    return read_settings(shared, environment)


def _storage(settings: Settings, inputs: Path | None) -> StorageOptions:
    """The stores; without a key and without a metadata server that somebody named, as the public sees them."""
    named = settings.sources["metadata_url"] != "default"
    return StorageOptions(
        ca_path=_text(settings.storage_ca),
        s3_endpoint=settings.s3_endpoint,
        s3_key_file=settings.s3_key_file,
        gcs_endpoint=settings.gcs_endpoint,
        gcs_key_file=settings.google_application_credentials,
        metadata_url=settings.metadata_url if named else None,
        local_roots=(inputs.resolve(),) if inputs else (),
    )


def _given(
    flags: Mapping[str, Any], replay: Replay, settings: Settings, environment: Mapping[str, str], folder: Path
) -> Given:
    of_queue = settings.queue_settings
    own = settings.payload_environment if of_queue.payload_env is not None else {}
    variables: dict[str, str | Secret] = {**own, **of_queue.payload_env_set, **_variables(flags["env"], environment)}
    for name in replay.recipe.hidden:
        if name in variables:
            variables[name] = secret = _secret(variables[name])
            redactor.add(secret)
    binds = [Bind(str(bind.source), bind.target, bind.read_only) for bind in of_queue.binds]
    credentials = (settings.x509_proxy, settings.key, settings.token_file, settings.s3_key_file)
    return Given(
        folder=folder,
        image_cache=settings.image_cache.absolute(),
        image=settings.image,
        queue_image=of_queue.image,
        runtime=cast(RuntimeChoice, settings.runtime),
        required=level_named(settings.require_isolation),
        user=settings.payload_user,
        binds=(*binds, *map(_bind, flags["bind"])),
        variables=variables,
        private=tuple(path for path in (*credentials, settings.google_application_credentials) if path is not None),
        image_key=settings.image_key,
        transform_bases=settings.transform_bases,
        ca_path=_text(settings.storage_ca),
    )


def _secret(value: str | Secret) -> Secret:
    return value if isinstance(value, Secret) else Secret(value)


def _variables(given: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` of our own environment. Raises SettingsError."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise SettingsError(f"--env {name[:80]!r} is no name of a variable")
        if not equals and name not in environment:
            raise SettingsError(
                f"--env {name}: there is no such variable in your environment; --env {name}=VALUE sets it"
            )
        found[name] = value if equals else environment[name]
    return found


def _bind(text: str) -> Bind:
    try:
        return parse_bind(text)
    except ValueError as error:
        raise SettingsError(f"--bind: {error}") from None


def _folder(into: Path | None, replay: Replay) -> Path:
    """A new folder. Raises SettingsError for one that holds something already."""
    if into is not None:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise SettingsError(f"--into {into}: it is there already; give a new folder, or remove it")
        return into.absolute()
    panda_id = replay.attempt.panda_id if replay.attempt else 0
    names = [f"replay-{panda_id}", *(f"replay-{panda_id}-{number}" for number in range(2, 1000))]
    return next((path for path in map(Path, names) if not path.exists()), Path(names[0])).absolute()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


# --- what is told -----------------------------------------------------------------------------------------------------


def _tell(found: Found, chosen: Plan) -> None:
    replay, image = found.replay, chosen.config.image
    name = replay.job.name if not isinstance(replay.job, MalformedJob) else ""
    queue = chosen.config.queue.name or "an unknown queue"
    _say(
        "job",
        f"{replay.attempt} {name}, of {queue}, run by pilot {replay.pilot_version} on {replay.isolation or 'no rung'}",
    )
    _say("logs", found.where)
    _say("image", image or "none")
    if chosen.config.credentials:
        _say("given", ", ".join(sorted(chosen.config.credentials)))
    for note in chosen.notes:
        _say("note", note)


def _say(what: str, text: str) -> None:
    """A line for the terminal; much of it was written by others."""
    shown = "".join(char if char.isprintable() else "?" for char in redactor.clean(text))
    print(f"{what:<10} {shown}", flush=True)


def _verdict(outcome: Outcome, reported: Outcome | None, bench: Bench) -> None:
    for line in last_words(bench):
        _say("|", line)
    _say("replayed", _words(outcome))
    _say("reported", _words(reported) if reported else "nothing yet: the job was still running")
    if reported is not None:
        _say("", "the same verdict" if _gist(outcome) == _gist(reported) else "another verdict than was reported")
    _say("folder", str(bench.folder.root))


def _gist(outcome: Outcome) -> tuple[object, ...]:
    """What two verdicts must have in common to be the same."""
    return outcome.state, outcome.pilot_error.code if outcome.pilot_error else 0, outcome.trans_exit_code


def _words(outcome: Outcome) -> str:
    notes = " ".join(f"{name}={value}" for name, value in outcome.notes.items())
    code = f" {outcome.pilot_error.code}: {outcome.pilot_error}" if outcome.pilot_error else ""
    ending = f", transExitCode {outcome.trans_exit_code}" if outcome.trans_exit_code is not None else ""
    return f"{outcome.state.value}{code}{ending}{f' ({notes})' if notes else ''}"


def _exit_code(outcome: Outcome) -> int:
    if outcome.pilot_error is None:
        return 0
    return outcome.trans_exit_code or int(ExitCode.GENERAL)


def entry() -> None:
    """``pilot-replay``: leaves with the exit code of ``main``, without waiting for a thread that a stuck library holds."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
