from __future__ import annotations

from collections import Counter
from pathlib import Path

from pilot.job.advice import ADVICE, advice_for, advice_rows
from pilot.job.errors import PilotError

SCIENTIST = Path(__file__).parents[3] / "docs/scientist.md"


def test_every_code_has_exactly_one_advice() -> None:
    listed = Counter(error for advice in ADVICE for error in advice.errors)
    assert listed == Counter(PilotError)
    assert all(advice_for(error).do for error in PilotError)


def test_an_advice_is_a_sentence_without_its_full_stop() -> None:
    for advice in ADVICE:
        for text in (advice.means, advice.do):
            assert text and text == text.strip() and not text.endswith(".") and "|" not in text


def test_the_scientists_guide_holds_this_very_table() -> None:
    table = "\n".join(advice_rows())
    assert table in SCIENTIST.read_text(), f"docs/scientist.md should hold:\n{table}"
