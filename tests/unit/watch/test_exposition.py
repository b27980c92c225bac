"""The text is read by Prometheus' own parser; the documentation's table is the code's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pilot.runtime.metrics import JOBS, METRICS, STAGE_BUCKETS_S, STAGES, TRANSFERRED, Counts
from pilot.runtime.progress import JobAt, PayloadAt, PilotAt, Progress, TransferAt
from pilot.watch.exposition import About, OwnUse, rendered, table

ABOUT = About("0.1.0", "DOMA_LSST_DEV", "node-7", 1_800_000_000.25)
OWN = OwnUse(50 << 20, 1.5)
IDLE = Progress(PilotAt("DOMA_LSST_DEV"))
JOB = JobAt(4711, 2, 9, "isr", "https://logs.example/p", Path("/logs"), "payload", 50.0, 90.0)
PAYLOAD = PayloadAt(
    10.0, 3 << 20, 8.25, 4, 100 << 20, None, container_bytes=9 << 20, container_limit_bytes=None, workdir_bytes=77
)
BUSY = Progress(
    PilotAt("DOMA_LSST_DEV"),
    JOB,
    PAYLOAD,
    (TransferAt("a", "in", 1, 2), TransferAt("b", "in", 1, None), TransferAt("c", "out", 0, 1)),
    heard_s=95.0,
    report_since_s=97.5,
)


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, as Prometheus reads it."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is said twice"
            found[key] = sample.value
    return found


def values(text: str, name: str, **labels: str) -> float:
    return read(text)[(name, frozenset(labels.items()))]


def test_a_pilot_without_a_job_says_what_it_is_and_that_nothing_waits() -> None:
    text = rendered(ABOUT, IDLE, Counts().now(), OWN, 100.0)
    assert values(text, "pilot_info", version="0.1.0", queue="DOMA_LSST_DEV", node="node-7") == 1
    assert values(text, "pilot_up") == 1
    assert values(text, "pilot_outbox_age_seconds") == 0
    assert values(text, "process_resident_memory_bytes") == 50 << 20
    assert values(text, "process_cpu_seconds_total") == 1.5
    assert values(text, "process_start_time_seconds") == 1_800_000_000.25
    assert values(text, "pilot_recovered_jobs_total") == 0
    assert "pilot_payload_memory_bytes" not in text and "pilot_job_info" not in text and "pilot_heartbeat" not in text


def test_a_running_job_says_which_it_is_how_old_and_what_it_uses() -> None:
    text = rendered(ABOUT, BUSY, Counts().now(), OWN, 100.0)
    assert values(text, "pilot_job_info", panda_id="4711", attempt="2", stage="payload") == 1
    assert values(text, "pilot_stage_age_seconds") == 10
    assert values(text, "pilot_heartbeat_age_seconds") == 5
    assert values(text, "pilot_outbox_age_seconds") == 2.5
    assert values(text, "pilot_payload_memory_bytes", kind="payload") == 3 << 20
    assert values(text, "pilot_payload_memory_bytes", kind="container") == 9 << 20
    assert values(text, "pilot_payload_memory_limit_bytes", kind="payload") == 100 << 20
    assert values(text, "pilot_payload_workdir_bytes") == 77
    assert values(text, "pilot_payload_cpu_seconds") == 8.25
    assert values(text, "pilot_payload_processes") == 4
    assert values(text, "pilot_transfers_running", direction="in") == 2
    assert values(text, "pilot_transfers_running", direction="out") == 1
    assert 'limit_bytes{kind="container"}' not in text  # it has none


def test_counts_and_spreads_are_said_as_they_are() -> None:
    counts = Counts()
    counts.add(JOBS, "failed", "1305")
    counts.add(TRANSFERRED, "out", "gs", amount=1 << 40)
    for value in (0.05, 0.05, 2.0, 1e6):
        counts.observe(STAGES, value, "payload")
    text = rendered(ABOUT, IDLE, counts.now(), OWN, 100.0)
    assert values(text, "pilot_jobs_total", state="failed", code="1305") == 1
    assert values(text, "pilot_transferred_bytes_total", direction="out", scheme="gs") == 1 << 40
    bucket = "pilot_stage_duration_seconds_bucket"
    assert values(text, bucket, stage="payload", le="0.1") == 2
    assert values(text, bucket, stage="payload", le="1") == 2
    assert values(text, bucket, stage="payload", le=f"{STAGE_BUCKETS_S[-1]:g}") == 3
    assert values(text, bucket, stage="payload", le="+Inf") == 4
    assert values(text, "pilot_stage_duration_seconds_sum", stage="payload") == pytest.approx(1000002.1)
    assert values(text, "pilot_stage_duration_seconds_count", stage="payload") == 4


def test_a_name_with_quotes_and_line_ends_cannot_forge_a_metric() -> None:
    evil = 'node"} 1\npilot_up 0\n\\'
    text = rendered(replace(ABOUT, node=evil), IDLE, Counts().now(), OWN, 100.0)
    assert values(text, "pilot_info", version="0.1.0", queue="DOMA_LSST_DEV", node=evil) == 1
    assert values(text, "pilot_up") == 1


def test_the_last_words_say_that_the_pilot_is_gone() -> None:
    assert values(rendered(ABOUT, IDLE, Counts().now(), OWN, 100.0, up=False), "pilot_up") == 0


def test_types_and_helps_stand_before_their_series() -> None:
    families = {f.name: f for f in text_string_to_metric_families(rendered(ABOUT, BUSY, Counts().now(), OWN, 100.0))}
    for metric in METRICS:
        name = metric.name.removesuffix("_total")
        if name in families:
            assert (families[name].type, families[name].documentation) == (metric.kind, metric.help)


def test_the_documentation_has_the_table_of_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    assert table() in page, "renew the table in docs/metrics.md: python -m pilot.watch.exposition prints it"
