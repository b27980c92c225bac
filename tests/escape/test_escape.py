"""No attempt succeeds on a rung that claims to prevent it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pilot.sandbox.world import World
from tests.escape.suite import ALL, RUNGS, WORDS, Suite, open_folder, unexpected


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with open_folder() as folder, World(folder / "state", adder_delay_s=0.0) as world:
        yield Suite(world, folder)


@pytest.mark.parametrize("rung", RUNGS[:-1])
def test_no_attempt_succeeds(suite: Suite, rung: str) -> None:
    result = suite.run(rung)
    assert result.isolation == WORDS[rung], result.log
    assert unexpected(rung, result) == {}, result.log
    assert len(ALL) >= 40


def test_the_attempts_are_worth_something_where_nothing_is_defended(suite: Suite) -> None:
    result = suite.run("D")
    assert result.isolation == WORDS["D"], result.log
    assert len(result.got) >= 25, sorted(result.got)
    assert {"private keyread", "journal of the jobchange", "signals to the pilotstop"} <= result.got.keys()
