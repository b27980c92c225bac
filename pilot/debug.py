"""Debug mode and the operators' commands: the server's words -> what is to be looked at -> the text of an update. Pure.

The words come in the answer to an update, joined by commas (panda-wire, section 8): ``debug`` for as long as an operator has
the mode on, ``debugoff``, and a command line, which the server repeats in every answer until it is replaced. A command is
answered once when it is new, and again with each heartbeat while debug mode is on.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pilot.ports import Question, Sight

STDOUT_MAX_BYTES = 2048  # of the server's column; counted in bytes, which suits a database that counts either way
MOST_ANSWERS = 4  # to the words of one answer: there is no room for more
SHORTEST_DEBUG_BEAT_S = 60.0
HEADING_MAX_CHARS = 100
# What steers the pilot or is meant for others of its kind; none of it asks to see anything.
_NO_QUESTIONS = frozenset({"tobekilled", "softkill", "alreadydone", "nocleanup", "debug", "debugoff"})
_SIGHTS = {sight.value: sight for sight in Sight}
_USUAL = Question(Sight.TAIL)


@dataclass(frozen=True, slots=True)
class Asked:
    """A command as it was given, and what it asks for; without a question it is refused."""

    words: str
    question: Question | None


def asked_in(words: Iterable[str]) -> tuple[Asked, ...]:
    """The commands among the words of one answer, each file or folder that is named by itself."""
    found = [asked for word in words if word not in _NO_QUESTIONS for asked in _asked(word)]
    return tuple(found[:MOST_ANSWERS])


def _asked(line: str) -> list[Asked]:
    verb, *rest = _split(line) or [""]
    sight = _SIGHTS.get(verb)
    if sight is None:
        return [Asked(line, None)]
    names, lines = _names(rest)
    if sight is Sight.PS or len(names) < 2:
        return [Asked(line, Question(sight, "" if sight is Sight.PS else "".join(names), lines))]
    return [Asked(f"{verb} {name}", Question(sight, name, lines)) for name in names]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation mark without its twin is a part of a name
        return line.split()


def _names(words: list[str]) -> tuple[list[str], int | None]:
    """Names, and the number of lines (``-n 20``, ``-20``). Other options are passed over: answers have one form.

    What begins with a hyphen is a name behind ``--`` only.
    """
    names: list[str] = []
    lines = None
    while words:
        word, *words = words
        if word == "--":
            return [*names, *words], lines
        if not word.startswith("-"):
            names.append(word)
            continue
        if word == "-n" and words:
            word, *words = words
        number = word.removeprefix("-n").lstrip("-+")
        if number.isascii() and number.isdigit() and len(number) < 7:
            lines = int(number)
    return names, lines


class DebugMode:
    """Whether a job is being debugged, and what was asked for last. For the thread that talks with the server."""

    def __init__(self, on: bool) -> None:
        """``on``: the job's definition says so."""
        self.on = on
        self._said = False  # by an answer; then the word's absence says the contrary
        self._asked: tuple[Asked, ...] = ()
        self._unanswered = False

    def hear(self, words: tuple[str, ...]) -> bool:
        """The words of the server's answer to an update. True when something is to be told at once."""
        was_on, asked = self.on, asked_in(words)
        if "debug" in words:
            self.on = self._said = True
        elif self._said or "debugoff" in words:
            self.on = self._said = False
        self._unanswered = bool(asked) and asked != self._asked
        if asked:
            self._asked = asked
        return self._unanswered or (self.on and not was_on)

    def interval_s(self, usual_s: float) -> float:
        """Seconds between two heartbeats."""
        return min(usual_s, SHORTEST_DEBUG_BEAT_S) if self.on else usual_s

    def answer(self, look: Callable[[Question, int], str]) -> str | None:
        """What the next update tells; None when nobody wants to know. ``look(question, most_bytes)`` does the looking."""
        if not (self.on or self._unanswered):
            return None
        asked = self._asked or (Asked("", _USUAL),)
        share_bytes = STDOUT_MAX_BYTES // len(asked)
        return "\n".join(_answered(one, look, share_bytes - 1) for one in asked)


def _answered(asked: Asked, look: Callable[[Question, int], str], most_bytes: int) -> str:
    if asked.question is None:
        known = ", ".join(_SIGHTS)
        return cut(f"{_heading(asked.words)}refused: this pilot answers {known}, debug and debugoff", most_bytes)
    heading = _heading(asked.words)
    return cut(heading + look(asked.question, most_bytes - len(heading.encode())), most_bytes)


def _heading(words: str) -> str:
    """The command, so that an answer tells what it is an answer to."""
    shown = "".join(char if char.isprintable() else "?" for char in words[:HEADING_MAX_CHARS])
    return f"> {shown}\n" if shown else ""


def cut(text: str, most_bytes: int) -> str:
    """The beginning of a text, in at most so many bytes of UTF-8."""
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= most_bytes and text.isascii() else raw[:most_bytes].decode("utf-8", "ignore")
