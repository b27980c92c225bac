"""The findings for people and programs: a table on a terminal, plain lines elsewhere, or JSON. Everything is redacted."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from pilot.check.finding import Finding, Verdict
from pilot.check.told import DEFAULT, Setting

STYLES = {
    Verdict.OK: "\x1b[32m",
    Verdict.NOTE: "\x1b[2m",
    Verdict.WARNING: "\x1b[33m",
    Verdict.WRONG: "\x1b[1;31m",
    Verdict.UNKNOWN: "\x1b[2m",
}
_RESET = "\x1b[0m"
VERDICT_COLUMNS, LEAST_DETAIL_COLUMNS, MOST_COLUMNS = 8, 30, 140


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. ``took_s``: from the start of the process."""

    version: str
    queue: str
    findings: tuple[Finding, ...]
    settings: tuple[Setting, ...]
    exit_code: int
    took_s: float

    @property
    def conclusion(self) -> str:
        """The last line."""
        counted = [finding.verdict for finding in self.findings]
        wrong, warnings = counted.count(Verdict.WRONG), counted.count(Verdict.WARNING)
        well = f"a run would work{f', with {warnings} warnings' if warnings > 1 else ', with a warning' * warnings}"
        ill = f"{wrong} {'things are' if wrong > 1 else 'thing is'} wrong; exit code {self.exit_code}"
        return f"{ill if wrong else well} ({len(counted)} findings in {self.took_s:.1f} s)"


Clean = Callable[[str], str]


def as_json(report: Report, clean: Clean) -> str:
    """One document: ``version``, ``queue``, ``exit_code``, ``took_s``, ``conclusion``, ``findings``, ``settings``."""
    findings = [
        {
            "name": clean(f.name),
            "verdict": f.verdict.value,
            "detail": clean(f.detail),
            "remedy": clean(f.remedy),
            "exit_code": f.exit_code,
        }
        for f in report.findings
    ]
    settings = [{name: clean(text) for name, text in asdict(setting).items()} for setting in report.settings]
    document = {
        "version": report.version,
        "queue": report.queue,
        "exit_code": report.exit_code,
        "took_s": round(report.took_s, 3),
        "conclusion": report.conclusion,
        "findings": findings,
        "settings": settings,
    }
    return json.dumps(document, indent=1)


def as_lines(report: Report, clean: Clean) -> Iterator[str]:
    """One finding a line: ``verdict | name | detail | do: remedy``."""
    for finding in report.findings:
        parts = [finding.verdict.value, finding.name, finding.detail, f"do: {finding.remedy}" if finding.remedy else ""]
        yield clean(" | ".join(_plain(part) for part in parts if part))
    for setting in _set(report.settings):
        yield clean(_plain(f"set | {setting.name} | {setting.value} | {setting.source}"))
    yield report.conclusion


def as_table(report: Report, clean: Clean, columns: int) -> Iterator[str]:
    """A table ``columns`` wide: verdicts in colour, long words broken, what to do below what was found."""
    width = min(columns, MOST_COLUMNS) - 1
    names = max((len(finding.name) for finding in report.findings), default=0) or 1
    names = min(names, max(12, width - VERDICT_COLUMNS - LEAST_DETAIL_COLUMNS - 4))
    room = max(LEAST_DETAIL_COLUMNS, width - VERDICT_COLUMNS - names - 4)
    for finding in report.findings:
        style = STYLES[finding.verdict]
        name = textwrap.wrap(_plain(clean(finding.name)), names) or [""]
        detail = textwrap.wrap(_plain(clean(finding.detail)), room) or [""]
        if finding.remedy and finding.verdict in (Verdict.WRONG, Verdict.WARNING, Verdict.NOTE):
            arrow = "-> "
            detail += textwrap.wrap(_plain(clean(finding.remedy)), room, initial_indent=arrow, subsequent_indent="   ")
        name += [""] * (len(detail) - len(name))
        detail += [""] * (len(name) - len(detail))
        for at, (left, right) in enumerate(zip(name, detail, strict=True)):
            verdict = finding.verdict.value if at == 0 else ""
            yield f"{style}{verdict:<{VERDICT_COLUMNS}}{_RESET}  {left:<{names}}  {right}".rstrip()
    told = list(_set(report.settings))
    if told:
        yield ""
        yield "settings that somebody set:"
        for setting in told:
            text = _plain(clean(f"{setting.name}: {setting.value}  ({setting.source})"))
            yield from textwrap.wrap(text, width - 2, initial_indent="  ", subsequent_indent="      ")
    yield ""
    yield report.conclusion


def _set(settings: Sequence[Setting]) -> Iterator[Setting]:
    return (setting for setting in settings if not setting.source.startswith(DEFAULT))


def _plain(text: str) -> str:
    """On one line, without anything a terminal would obey: servers and stores are quoted."""
    return "".join(char if char.isprintable() else " " for char in text)
