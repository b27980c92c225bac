"""The commands and their options; nothing else. Importing this must stay cheap: ``--help`` answers in under 0.3 s."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence

from pilot import __version__
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.exit_codes import EXIT_ADVICE
from pilot.options import OPTIONS

DESCRIPTION = "A PanDA pilot: takes jobs of a queue from the PanDA server, runs them, and leaves links to their logs."
EPILOG = """\
Each option can also be set as PILOT_<OPTION> in the environment or as a key (with underscores) of the settings file;
flags win over the environment, the environment over the file. Credentials: --x509-proxy FILE, or --cert FILE --key FILE,
or --token-file FILE --origin VO. No server at hand? --sandbox starts one on this machine.

exit codes:
""" + "\n".join(f"  {advice.code:3d}  {advice.means}" for advice in EXIT_ADVICE)


def build_parser() -> argparse.ArgumentParser:
    """All options, in the groups of the table. Values stay texts: settings.py reads them, wherever they came from."""
    parser = argparse.ArgumentParser(
        prog="pilot-start",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pilot {__version__}")
    parser.add_argument("--sandbox", action="store_true", help="run against a PanDA world started on this machine")
    parser.add_argument(
        "--healthcheck",
        action="store_true",
        help="look whether the pilot of the work folder is alive: exit code 0, or 1 and why not (liveness and startup probe)",
    )
    parser.add_argument(
        "--recover-only",
        action="store_true",
        help="bring what an earlier pilot left in the work folder to its end, and leave",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look at everything a run needs, say what is wrong and how to mend it, and leave; takes no job. Exit code: 0 "
        "when a run would work, else what it would leave with; 1 when it would start, and jobs or logs would suffer",
    )
    parser.add_argument("--json", action="store_true", help="with --check: the findings as JSON")
    parser.add_argument(
        "--plain", action="store_true", help="no live view on a terminal, only lines (as with NO_COLOR or TERM=dumb)"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in OPTIONS:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        groups[option.group].add_argument(
            option.flag,
            dest=option.name,
            metavar=option.metavar,
            action="append" if option.repeatable else "store",
            help=_help(option.help, option.default),
        )
    return parser


def _help(text: str, default: object) -> str:
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return text if shown is None else f"{text} (default: {shown})".replace("%", "%%")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``pilot-start``; returns the exit code. Every error a person can cause is one sentence."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    flags = vars(parser.parse_args(given))
    if flags.pop("healthcheck"):
        from pilot.runtime.health import healthcheck

        return healthcheck(given)
    if flags.pop("sandbox"):
        return _become_sandbox([argument for argument in given if argument != "--sandbox"])
    as_json = flags.pop("json")
    if flags.pop("check"):
        from pilot.checking import check

        return check(flags, json=as_json)
    if as_json:
        parser.error("--json goes with --check")
    from pilot.settings import close_back_doors, read_settings

    try:
        settings = read_settings(flags)
    except PilotCannotWork as trouble:
        return _complain(trouble)
    close_back_doors()
    from pilot.app import run

    try:
        return run(settings)
    except PilotCannotWork as trouble:
        return _complain(trouble, told=settings.log_format == "json")


def _complain(trouble: PilotCannotWork, *, told: bool = False) -> int:
    """The sentence for who started it, unless it was ``told`` in the log where nothing but JSON may stand; the exit code."""
    from pilot.runtime.events import redactor

    if not told:
        print(f"pilot-start: {redactor.clean(str(trouble))}", file=sys.stderr)
    return int(trouble.exit_code)


def entry() -> None:
    """``pilot-start``: leaves with the exit code of ``main``, without waiting for a thread that a stuck library holds."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


def _become_sandbox(arguments: list[str]) -> int:
    """Replace this process by the sandbox with ``pilot-start`` as its child, so that the pilot never is its parent."""
    import shutil
    from pathlib import Path

    beside = Path(sys.executable).with_name("pilot-sandbox")
    program = str(beside) if beside.exists() else shutil.which("pilot-sandbox")
    if program is None:
        print("pilot-start: --sandbox needs the sandbox extra: pip install 'pilot[sandbox]'", file=sys.stderr)
        return int(ExitCode.USAGE)
    os.execv(program, [program, "run", "--", sys.argv[0], *arguments])  # noqa: S606
    raise AssertionError("execv does not return")


if __name__ == "__main__":
    entry()
