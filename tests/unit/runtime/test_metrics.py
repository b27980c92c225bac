from __future__ import annotations

import re
import threading

import pytest

from pilot.runtime import metrics
from pilot.runtime.metrics import JOBS, METRICS, REQUESTS, STAGE_BUCKETS_S, STAGES, Counts, Metric


def test_counts_add_up_by_their_labels() -> None:
    counts = Counts()
    counts.add(REQUESTS, "update_job", "ok")
    counts.add(REQUESTS, "update_job", "ok")
    counts.add(REQUESTS, "update_job", "retry")
    counts.add(JOBS, "failed", "1305", amount=3)
    assert counts.now().counters == {
        (REQUESTS, ("update_job", "ok")): 2,
        (REQUESTS, ("update_job", "retry")): 1,
        (JOBS, ("failed", "1305")): 3,
    }


def test_an_observation_falls_into_the_first_bucket_that_holds_it() -> None:
    counts = Counts()
    for value in (0.05, STAGE_BUCKETS_S[0], 2.0, 1e6):
        counts.observe(STAGES, value, "payload")
    spread = counts.now().spreads[(STAGES, ("payload",))]
    assert spread.counts[0] == 2  # a bound belongs to its bucket
    assert spread.counts[STAGE_BUCKETS_S.index(3)] == 1
    assert spread.counts[-1] == 1
    assert sum(spread.counts) == 4 and spread.total == pytest.approx(1000002.15)


def test_no_count_is_lost_between_threads() -> None:
    counts = Counts()

    def count() -> None:
        for _ in range(5000):
            counts.add(REQUESTS, "update_job", "ok")
            counts.observe(STAGES, 1.0, "log")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = counts.now()
    assert counted.counters[(REQUESTS, ("update_job", "ok"))] == 20000
    assert sum(counted.spreads[(STAGES, ("log",))].counts) == 20000


def test_what_was_read_stays_as_it_was() -> None:
    counts = Counts()
    counts.observe(STAGES, 1.0, "log")
    before = counts.now()
    counts.observe(STAGES, 1.0, "log")
    assert sum(before.spreads[(STAGES, ("log",))].counts) == 1


def test_every_metric_is_in_the_table_once() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert sorted(metric.name for metric in METRICS) == sorted(metric.name for metric in defined)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_is_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"(pilot|process)_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".") and "|" not in metric.help
    assert bool(metric.buckets) == (metric.kind == "histogram")
    if any(word in metric.help.lower() for word in ("bytes", "memory")):
        assert "_bytes" in metric.name
