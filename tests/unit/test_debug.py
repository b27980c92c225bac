"""The operators' words -> what is looked at -> the text of an update."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.debug import MOST_ANSWERS, STDOUT_MAX_BYTES, Asked, DebugMode, asked_in, cut
from pilot.panda.commands import update_answer
from pilot.ports import Question, Sight


def looked(question: Question, most_bytes: int) -> str:
    return f"{question.sight.value}({question.name})"


def heard(mode: DebugMode, command: str) -> bool:
    """What the mode makes of a server's answer with this command."""
    return mode.hear(update_answer({"command": command}).commands)


# --- words -> questions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "questions"),
    [
        ("tail", [Question(Sight.TAIL)]),
        ("tail payload.stdout", [Question(Sight.TAIL, "payload.stdout")]),
        ("tail -n 5 a", [Question(Sight.TAIL, "a", 5)]),
        ("tail -5 a", [Question(Sight.TAIL, "a", 5)]),
        ("tail -n5 a b", [Question(Sight.TAIL, "a", 5), Question(Sight.TAIL, "b", 5)]),
        ("tail 'with blanks'", [Question(Sight.TAIL, "with blanks")]),
        ("tail it's", [Question(Sight.TAIL, "it's")]),
        ("ls -la --color=always", [Question(Sight.LS)]),
        ("ls -- -rf", [Question(Sight.LS, "-rf")]),
        ("du -sk sub", [Question(Sight.DU, "sub")]),
        ("ps aux", [Question(Sight.PS)]),
    ],
)
def test_a_command_is_a_question_for_each_name(line: str, questions: list[Question]) -> None:
    assert [asked.question for asked in asked_in((line,))] == questions


@pytest.mark.parametrize(
    "line",
    ["gdb --pid 1", "cat /etc/passwd", "rm -rf .", "TAIL x", "tail;id", "$(id)", "`id`", "bash -c id", "lsof", "|ls"],
)
def test_everything_else_is_refused_with_a_word(line: str) -> None:
    assert asked_in((line,)) == (Asked(line, None),)
    mode = DebugMode(on=False)
    assert mode.hear((line,))
    answer = mode.answer(looked)
    assert answer is not None and "refused: this pilot answers tail, ls, du, ps" in answer


def test_a_shells_signs_are_a_part_of_the_name() -> None:
    names = [asked.question.name for asked in asked_in(("tail $(id);a|b>c",)) if asked.question]
    assert names == ["$(id);a|b>c"]


def test_words_that_steer_ask_for_nothing() -> None:
    assert asked_in(("debug", "debugoff", "tobekilled", "softkill", "alreadydone", "nocleanup")) == ()


def test_no_more_is_answered_than_there_is_room_for() -> None:
    assert len(asked_in(tuple(f"tail {n}" for n in range(20)))) == MOST_ANSWERS


@given(st.lists(st.text(max_size=200), max_size=6))
def test_any_words_are_understood_and_any_answer_fits(words: list[str]) -> None:
    mode = DebugMode(on=True)
    mode.hear(tuple(words))
    answer = mode.answer(lambda _question, most_bytes: "\N{SNOWMAN}" * 3000)
    assert answer is not None
    assert len(answer.encode("utf-8", "replace")) <= STDOUT_MAX_BYTES


def test_a_text_is_cut_between_characters() -> None:
    assert cut("ab\N{SNOWMAN}", 4) == "ab"
    assert cut("ab\ud800", 10) == "ab?"
    assert cut("abc", 3) == "abc"


# --- the mode ---------------------------------------------------------------------------------------------------------


def test_by_default_nobody_is_told_anything() -> None:
    mode = DebugMode(on=False)
    assert not heard(mode, "NULL")
    assert mode.answer(looked) is None
    assert mode.interval_s(1800) == 1800


def test_in_debug_mode_each_heartbeat_carries_the_usual_tail() -> None:
    mode = DebugMode(on=False)
    assert heard(mode, "debug")
    assert mode.answer(looked) == "tail()"
    assert not heard(mode, "debug")
    assert mode.answer(looked) == "tail()"
    assert (mode.interval_s(1800), mode.interval_s(5)) == (60, 5)


def test_a_job_may_be_in_debug_mode_from_its_beginning() -> None:
    mode = DebugMode(on=True)
    assert not heard(mode, "NULL")
    assert mode.answer(looked) == "tail()"
    heard(mode, "debugoff")
    assert mode.answer(looked) is None


def test_what_was_asked_for_last_is_told_until_something_else_is() -> None:
    mode = DebugMode(on=False)
    assert heard(mode, "debug,ls sub,ps")
    assert mode.answer(looked) == "> ls sub\nls(sub)\n> ps\nps()"
    assert not heard(mode, "debug,ls sub,ps")
    assert not heard(mode, "debug")
    assert mode.answer(looked) == "> ls sub\nls(sub)\n> ps\nps()"
    assert heard(mode, "debug,du")
    assert mode.answer(looked) == "> du\ndu()"


def test_outside_of_debug_mode_a_command_is_answered_once() -> None:
    mode = DebugMode(on=False)
    assert heard(mode, "tail a")
    assert mode.answer(looked) == "> tail a\ntail(a)"
    assert not heard(mode, "tail a")  # the server repeats it for ever
    assert mode.answer(looked) is None
    assert heard(mode, "tail b")
    assert mode.answer(looked) == "> tail b\ntail(b)"


def test_an_answer_that_was_not_delivered_is_told_again() -> None:
    mode = DebugMode(on=False)
    heard(mode, "ls")
    assert mode.answer(looked) == mode.answer(looked) == "> ls\nls()"


def test_the_mode_ends_when_the_server_says_it_no_more() -> None:
    mode = DebugMode(on=True)
    heard(mode, "debug,tail a")
    assert not heard(mode, "tail a")
    assert not mode.on
    assert mode.answer(looked) is None


def test_a_heading_holds_nothing_that_a_terminal_obeys() -> None:
    mode = DebugMode(on=True)
    mode.hear(("tail \x1b[31mred\x00",))
    answer = mode.answer(looked)
    assert answer is not None
    assert answer.startswith("> tail ?[31mred?\n")
