"""Plans of the fault laboratory."""

from __future__ import annotations

import json

from pilot.runtime.probe import Point
from tests.faults.plan import Fault, pair_plans, sample, single_plans


def test_the_matrix_holds_each_fault_at_each_point_once() -> None:
    plans = single_plans(1)
    assert len(plans) == 24 * 14 == len({plan.name for plan in plans})
    assert {(plan.strikes[0].point, plan.strikes[0].fault) for plan in plans} == {(p, f) for p in Point for f in Fault}


def test_one_seed_decides_everything() -> None:
    assert single_plans(7) == single_plans(7)
    assert single_plans(7) != single_plans(8)
    assert pair_plans(7, 50) == pair_plans(7, 60)[:50]
    assert sample(single_plans(7), 7, 34) == sample(single_plans(7), 7, 34)


def test_pairs_strike_twice_also_at_the_same_point() -> None:
    plans = pair_plans(3, 200)
    assert all(len(plan.strikes) == 2 for plan in plans)
    same = [plan for plan in plans if plan.strikes[0].point is plan.strikes[1].point]
    assert same
    assert {plan.strikes[1].nth for plan in same} == {1, 2}


def test_a_plan_is_printed_as_json() -> None:
    read = json.loads(single_plans(1)[0].text)
    assert read["strikes"][0]["point"] == "ACQUIRE_ASKING"
    assert read["strikes"][0]["fault"] == "KILL"
