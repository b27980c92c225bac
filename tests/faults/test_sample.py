"""A seeded tenth of the matrix, a few pairs and a few failing writes, against real pilots. ``make faults`` runs all of it."""

from __future__ import annotations

import os

import pytest

from tests.faults.__main__ import writing_plans
from tests.faults.plan import pair_plans, sample, single_plans
from tests.faults.pool import run_all

SEED = int(os.environ.get("FAULT_SEED", "20261123"))
SINGLES, PAIRS, WRITES, WORKERS = 34, 6, 12, 2


@pytest.mark.timeout(400)
def test_no_promise_is_broken_by_a_seeded_tenth_of_the_faults() -> None:
    print(f"FAULT_SEED={SEED}")
    plans = [*sample(single_plans(SEED), SEED, SINGLES), *pair_plans(SEED, PAIRS)]
    plans += sample(writing_plans(SEED), SEED, WRITES)
    results = list(run_all(plans, WORKERS))
    broken = [result.text for result in results if not result.held]
    assert not broken, f"{len(results) - len(broken)} of {len(results)} held, FAULT_SEED={SEED}\n" + "\n\n".join(broken)
    assert len(results) == len(plans)
