"""Tables that the site makes from the code each time it is built, as Markdown.

One more is a function that returns its Markdown and an entry in TABLES; the page that shall show it names the entry
(markdown.py).
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pilot import cli, publish, recovery
from pilot.job.advice import advice_for, advice_rows
from pilot.job.errors import PilotError
from pilot.job.exit_codes import EXIT_ADVICE, exit_code_rows
from pilot.logs.pump import INTERVAL_SHARE, SHORTEST_INTERVAL_S, TAIL_BYTES
from pilot.options import BY_NAME, OPTIONS, Option
from pilot.replay import cli as replay
from pilot.runtime.journal import MEANINGS, WORTH_THE_RESERVE, Event
from pilot.sandbox import cli as sandbox
from pilot.watch import exposition

PAGES = Path(__file__).parents[1]
PILOT = PAGES.parent / "pilot"
COMMANDS: tuple[Callable[[], argparse.ArgumentParser], ...] = (
    cli.build_parser,
    replay.build_parser,
    sandbox.build_parser,
    publish.build_parser,
)
SETTINGS_ELSEWHERE = ("pilot-start", "pilot-replay")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table. Cells are Markdown of one line each."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def settings() -> str:
    """Every option of the table in pilot/options.py, by its groups."""
    groups = dict.fromkeys(option.group for option in OPTIONS)
    return "\n\n".join(f"## {group[0].upper()}{group[1:]}\n\n{_settings_of(group)}" for group in groups)


def _settings_of(group: str) -> str:
    return table(
        ("option, key in the settings file", "environment", "default", "what it is"),
        (
            (
                f"`{option.flag} {option.metavar}`<br>`{option.name}`",
                "<br>".join(f"`{name}`" for name in (f"PILOT_{option.name.upper()}", *option.environment)),
                _default(option),
                option.help,
            )
            for option in OPTIONS
            if option.group == group
        ),
    )


def _default(option: Option) -> str:
    values = option.default if isinstance(option.default, tuple) else (option.default,)
    return "<br>".join(f"`{_value(value)}`" for value in values if value is not None)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def commands() -> str:
    """The commands and what they take, from their own parsers. The pilot's settings have a page of their own."""
    return "\n\n".join(_command(make()) for make in COMMANDS)


def _command(parser: argparse.ArgumentParser) -> str:
    below = _subparsers(parser)
    parts = [f"## {parser.prog}", f"{(parser.description or '').strip().splitlines()[0]}"]
    if not below:
        parts += _arguments(parser)
    for name, (about, inner) in below.items():
        parts += [f"### {parser.prog} {name}", f"{about[0].upper()}{about[1:]}.", *_arguments(inner)]
    return "\n\n".join(parts)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """The commands of a command: their help and parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {choice.dest: (choice.help or "", action.choices[choice.dest]) for choice in action._choices_actions}
    return {}


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    rows = [
        (f"`{_shape(action)}`", (action.help or "").replace("%%", "%"))
        for action in parser._actions
        if action.dest != "help" and not (parser.prog in SETTINGS_ELSEWHERE and action.dest in BY_NAME)
    ]
    return [table(("argument", "what it is"), rows)] if rows else []


def _shape(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    value = "" if action.nargs == 0 else metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    return f"{action.option_strings[-1]} {value}".strip() if action.option_strings else value


def exit_codes() -> str:
    """The pilot's exit codes with their names in the code."""
    rows = ((str(int(a.code)), f"`{a.code.name}`", a.means, a.look_at) for a in EXIT_ADVICE)
    return table(("code", "name", "means", "look at"), rows)


def panda_codes() -> str:
    """PanDA's codes by number, each with its advice."""
    return table(
        ("code", "the diagnosis begins with", "means", "who acts", "what to do"),
        (
            (str(error.code), f"{error.text}<br>`{error.name}`", advice.means, advice.who.value, advice.do)
            for error in sorted(PilotError, key=lambda error: error.code)
            for advice in (advice_for(error),)
        ),
    )


def journal() -> str:
    """The journal's events in the order of a job's life, with the fields that are written with each."""
    written = dict(_appended())
    return table(
        ("event", "means", "fields", "on the disk before the pilot goes on", "may use the reserve"),
        (
            (
                f"`{event.value}`",
                MEANINGS[event],
                ", ".join(f"`{name}`" for name in written.get(event, ()) if name != "durable"),
                "" if event not in written else "no" if "durable" in written[event] else "yes",
                "yes" if event in WORTH_THE_RESERVE else "",
            )
            for event in Event
        ),
    )


def _appended() -> Iterator[tuple[Event, tuple[str, ...]]]:
    """Each event that is written somewhere in the pilot, and the names it is written with (``durable``: only if False)."""
    for path in PILOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "append"
                and node.args
            ):
                names = tuple(keyword.arg or ast.unparse(keyword.value).rpartition(".")[2] for keyword in node.keywords)
                yield from ((event, names) for event in _events(node.args[0], tree))


def _events(argument: ast.expr, tree: ast.Module) -> Iterator[Event]:
    """The events that an argument names, itself or by a variable that they are assigned to."""
    where: list[ast.expr] = [argument]
    if isinstance(argument, ast.Name):
        assigned = (node for node in ast.walk(tree) if isinstance(node, ast.Assign))
        where = [node.value for node in assigned if ast.unparse(node.targets[0]) == argument.id]
    for node in (inner for expression in where for inner in ast.walk(expression)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Event":
            yield Event[node.attr]


def recoveries() -> str:
    """What a successor does, from the table in the docstring of pilot/recovery.py."""
    lines = [line for line in (recovery.__doc__ or "").splitlines() if line.startswith("|")]
    return "\n".join(re.sub(r" {2,}", " ", line) for line in lines)


def decisions() -> str:
    """The decisions by number, each a link."""
    pages = sorted((PAGES / "adr").glob("[0-9]*.md"))
    return "\n".join(f"- [{path.read_text().splitlines()[0].removeprefix('# ')}]({path.name})" for path in pages)


def refreshes(run_s: float) -> int:
    """How often the object of a log that never rests is written while the payload runs ``run_s`` seconds (pilot/logs/pump.py)."""
    count, at_s = 0, 0.0
    while at_s < run_s:
        count += 1
        at_s += max(SHORTEST_INTERVAL_S, INTERVAL_SHARE * at_s)
    return count


def live_logs() -> str:
    """What the live view of one log costs at most, for payloads of several lengths."""
    mib = TAIL_BYTES >> 20
    return table(
        ("the payload runs", "writes of one log, at most", "bytes in them, at most"),
        (
            (words, f"{refreshes(hours * 3600)}", f"{refreshes(hours * 3600) * mib} MiB")
            for words, hours in (("10 minutes", 1 / 6), ("1 hour", 1), ("12 hours", 12), ("48 hours", 48))
        ),
    )


TABLES: Mapping[str, Callable[[], str]] = {
    "advice": lambda: "\n".join(advice_rows()),
    "commands": commands,
    "decisions": decisions,
    "exit-advice": lambda: "\n".join(exit_code_rows()),
    "exit-codes": exit_codes,
    "journal": journal,
    "live-logs": live_logs,
    "metrics": lambda: exposition.table().rstrip(),
    "panda-codes": panda_codes,
    "recoveries": recoveries,
    "settings": settings,
}
