from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.check.finding import Finding, Verdict, note, ok, unknown, warning, wrong
from pilot.check.report import Report, as_json, as_lines, as_table
from pilot.check.told import Setting

FINDINGS = (
    ok("certificate", "/x/cert.pem, good for 3 h"),
    note("rung B", "not to be had: no root", "runAsUser: 0"),
    warning("clock", "90 s behind https://server.example; it is 12:00 here", "set this node's clock (NTP)"),
    wrong("server https://a-rather-long-name.example:25443", "does not answer " * 8, "check --server", 79),
    unknown("role", "the server is not reached"),
)
SETTINGS = (Setting("queue", "Q", "flag --queue"), Setting("label", "managed", "default"))
REPORT = Report("0.1.0", "Q", FINDINGS, SETTINGS, 79, 1.25)
_SGR = re.compile(r"\x1b\[[0-9;]*m")


def same(text: str) -> str:
    return text


def without(secret: str) -> str:
    return secret.replace("hunter2", "***")


def test_json_holds_everything() -> None:
    document = json.loads(as_json(REPORT, same))
    assert (document["version"], document["queue"], document["exit_code"], document["took_s"]) == (
        "0.1.0",
        "Q",
        79,
        1.25,
    )
    assert [finding["verdict"] for finding in document["findings"]] == ["ok", "note", "warning", "wrong", "unknown"]
    assert document["findings"][3]["exit_code"] == 79
    assert document["settings"][1] == {"name": "label", "value": "managed", "source": "default"}


def test_lines_hold_one_finding_each_and_what_was_set() -> None:
    lines = list(as_lines(REPORT, same))
    assert lines[0] == "ok | certificate | /x/cert.pem, good for 3 h"
    assert lines[2].endswith(" | do: set this node's clock (NTP)")
    assert lines[5] == "set | queue | Q | flag --queue"
    assert lines[6] == "1 thing is wrong; exit code 79 (5 findings in 1.2 s)" and len(lines) == 7


def test_the_conclusion_says_whether_a_run_would_work() -> None:
    def conclusion(*findings: Finding) -> str:
        return Report("", "", findings, (), 0, 1.0).conclusion

    assert conclusion(ok("a", "")) == "a run would work (1 findings in 1.0 s)"
    assert conclusion(warning("a", "", "do")).startswith("a run would work, with a warning (")
    assert conclusion(warning("a", "", "do"), warning("b", "", "do")).startswith("a run would work, with 2 warnings (")
    assert conclusion(wrong("a", "", "do"), wrong("b", "", "do")).startswith("2 things are wrong; exit code 0")


def test_a_table_shows_each_finding_with_what_to_do_below_it() -> None:
    table = [_SGR.sub("", line) for line in as_table(REPORT, same, 100)]
    text = "\n".join(table)
    assert table[0].split()[:2] == ["ok", "certificate"]
    assert "-> set this node's clock (NTP)" in text and "-> runAsUser: 0" in text
    assert "  queue: Q  (flag --queue)" in table and not any("label" in line for line in table)
    assert table[-1] == REPORT.conclusion


@settings(max_examples=60)
@given(st.integers(60, 200), st.lists(st.tuples(st.sampled_from(Verdict), st.text(), st.text(), st.text()), max_size=5))
def test_no_line_of_a_table_is_as_wide_as_the_terminal_or_commands_it(
    columns: int, findings: list[tuple[Verdict, str, str, str]]
) -> None:
    report = Report("", "", tuple(Finding(n, verdict, d, r) for verdict, n, d, r in findings), SETTINGS, 0, 1.0)
    for line in as_table(report, same, columns):
        shown = _SGR.sub("", line)
        assert len(shown) < columns and shown.isprintable()


def test_everything_that_is_said_is_redacted() -> None:
    findings = (wrong("a hunter2", "b hunter2", "c hunter2"),)
    report = Report("", "", findings, (Setting("x", "hunter2", "flag"),), 1, 1.0)
    for text in (as_json(report, without), *as_lines(report, without), *as_table(report, without, 100)):
        assert "hunter2" not in text
