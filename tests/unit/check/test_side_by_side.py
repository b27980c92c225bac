from __future__ import annotations

import threading
from collections.abc import Callable

from pilot.check.finding import Finding, Verdict, ok, wrong
from pilot.check.side_by_side import Look, side_by_side


def fine(name: str) -> Look:
    return Look(name, lambda: [ok(name, "fine")])


def test_findings_come_in_the_order_of_the_looks_whichever_ends_first() -> None:
    first_may_end = threading.Event()

    def slow() -> list[Finding]:
        first_may_end.wait(10)
        return [ok("a", ""), ok("a too", "")]

    def quick() -> list[Finding]:
        first_may_end.set()
        return [ok("b", "")]

    assert [f.name for f in side_by_side([Look("a", slow), Look("b", quick)], 10)] == ["a", "a too", "b"]


def test_a_look_begins_when_those_before_it_have_ended() -> None:
    known: list[str] = []

    def learn() -> list[Finding]:
        known.append("queue")
        return []

    looks = [Look("storage", lambda: [ok("storage", str(known))], ("queue",)), Look("queue", learn)]
    assert [f.detail for f in side_by_side(looks, 10)] == ["['queue']"]


def test_a_look_that_breaks_is_a_finding_and_hides_no_other() -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("a bug")

    after = Look("after", lambda: [ok("after", "")], ("broken",))
    found = side_by_side([Look("broken", broken), fine("fine"), after], 10)
    assert [(f.name, f.verdict, f.exit_code) for f in found] == [
        ("broken", Verdict.WRONG, 1), ("fine", Verdict.OK, 0), ("after", Verdict.OK, 0),
    ]  # fmt: skip
    assert "RuntimeError: a bug" in found[0].detail


def test_who_is_silent_is_named_with_what_a_run_would_leave_with(eventually: Callable[..., None]) -> None:
    over = threading.Event()

    def silent() -> list[Finding]:
        over.wait(30)
        return [ok("server", "")]

    looks = [
        Look("server", silent, silence=79, remedy="check --server"),
        Look("role", lambda: [ok("role", "")], ("server",), 79, "check --server"),
        fine("disk"),
    ]
    found = side_by_side(looks, 0.2)
    assert [(f.name, f.verdict, f.exit_code) for f in found] == [
        ("server", Verdict.WRONG, 79), ("role", Verdict.WRONG, 79), ("disk", Verdict.OK, 0),
    ]  # fmt: skip
    assert found[0].detail == "no answer within 0.2 s" and found[0].remedy == "check --server"
    over.set()  # what was left behind ends with the process; here it ends now


def test_findings_that_are_wrong_do_not_keep_others_from_looking() -> None:
    looks = [Look("a", lambda: [wrong("a", "", "do")]), Look("b", lambda: [ok("b", "")], ("a",))]
    assert [f.verdict for f in side_by_side(looks, 10)] == [Verdict.WRONG, Verdict.OK]
