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


@pytest.mark.parametrize("rung", RUNGS)
def test_no_attempt_succeeds(suite: Suite, rung: str) -> None:
    result = suite.run(rung)
    assert result.isolation == WORDS[rung], result.log
    assert unexpected(rung, result) == {}, result.log
    assert len(ALL) >= 40
