"""What is told has the server's names, types and lengths: one wrong field and v1 refuses the whole update."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.model import ApiGeneration, Attempt
from pilot.job.report import (
    LEGACY_NAMES,
    FileReport,
    Identity,
    StageTimes,
    Usage,
    for_generation,
    metrics_text,
    output_report,
    pilot_id,
    update_fields,
    usage_fields,
)
from pilot.job.states import JobState

URL = "https://storage.googleapis.com/bucket/logs/Q/PandaJob_4711/pilotlog.txt"
WHO = Identity("Q", "node", "harvester-1", "pod-1", "Kubernetes", "PR", "0.1.0")
# The table of the recorded contract, section 6: names that differ between the generations.
WIRE_NAMES = """job_id jobId job_status state attempt_nr attemptNr site_name siteName scheduler_id schedulerID
pilot_id pilotID batch_id batchID job_sub_status jobSubStatus start_time startTime end_time endTime
core_count coreCount mean_core_count meanCoreCount cpu_consumption_time cpuConsumptionTime
cpu_consumption_unit cpuConsumptionUnit max_rss maxRSS max_vmem maxVMEM max_swap maxSWAP max_pss maxPSS
avg_rss avgRSS avg_vmem avgVMEM avg_swap avgSWAP avg_pss avgPSS job_metrics jobMetrics pilot_timing pilotTiming
trans_exit_code transExitCode pilot_error_code pilotErrorCode pilot_error_diag pilotErrorDiag
exe_error_code exeErrorCode exe_error_diag exeErrorDiag job_output_report xml meta_data metaData pilot_log pilotLog"""


def test_the_legacy_names_are_the_recorded_ones() -> None:
    words = WIRE_NAMES.split()
    assert dict(zip(words[::2], words[1::2], strict=True)) == LEGACY_NAMES


def test_every_field_of_an_update_has_a_name_in_both_generations() -> None:
    told = update_fields(Attempt(1, 2), JobState.RUNNING, WHO, URL) | usage_fields(
        Usage(1.0, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20)
    )
    assert for_generation(told, ApiGeneration.V1) == told
    legacy = for_generation(told, ApiGeneration.LEGACY)
    assert list(legacy.values()) == list(told.values())
    assert not [name for name in legacy if "_" in name]
    assert legacy["state"] == "running" and legacy["jobId"] == 1 and legacy["node"] == "node"


@given(st.integers(1, 1 << 62), st.integers(0, 99), st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_identities_of_any_length_fit_their_columns(
    panda_id: int, attempt_nr: int, node: str, batch_id: str, scheduler_id: str
) -> None:
    who = replace(WHO, node=node, batch_id=batch_id, scheduler_id=scheduler_id)
    told = update_fields(Attempt(panda_id, attempt_nr), JobState.FAILED, who, URL)
    assert (type(told["job_id"]), type(told["attempt_nr"])) == (int, int)
    assert len(str(told["node"])) <= 128
    assert len(str(told.get("batch_id", ""))) <= 80
    assert len(str(told.get("scheduler_id", ""))) <= 128
    assert None not in told.values()


def test_what_is_not_known_is_left_out_and_never_null() -> None:
    told = update_fields(Attempt(1, 2), JobState.RUNNING, Identity("Q", "node"), URL)
    assert not {"batch_id", "scheduler_id"} & told.keys()


# --- the log URL ------------------------------------------------------------------------------------------------------


def test_the_pilot_id_begins_with_the_log_url_and_ends_with_the_version() -> None:
    assert pilot_id(URL, WHO) == f"{URL}|Kubernetes|PR|0.1.0"
    assert pilot_id(URL, Identity("Q", "n", pilot_version="0.1.0")) == f"{URL}|PR|0.1.0"


@given(st.integers(1, 260), st.text(max_size=40), st.text(max_size=40), st.text(max_size=12))
def test_the_url_is_never_cut(length: int, system: str, tag: str, version: str) -> None:
    url = "https://h/".ljust(length, "x")[:length]
    text = pilot_id(url, Identity("Q", "n", batch_system=system, version_tag=tag, pilot_version=version))
    assert text == url or text.startswith(f"{url}|")
    assert len(text) <= max(200, length)


@pytest.mark.parametrize(
    ("length", "rest"),
    [(180, "|Kubernetes|PR|0.1.0"), (181, "|0.1.0"), (194, "|0.1.0"), (195, ""), (200, ""), (201, "")],
)
def test_what_does_not_fit_beside_the_url_is_left_out(length: int, rest: str) -> None:
    url = "https://h/".ljust(length, "x")
    assert pilot_id(url, WHO) == url + rest


# --- measures ---------------------------------------------------------------------------------------------------------


@given(st.builds(StageTimes, *[st.floats(0, 1e12)] * len(fields(StageTimes))))
def test_the_timing_is_six_whole_numbers_in_100_characters(times: StageTimes) -> None:
    text = times.pilot_timing()
    assert len(text) <= 100
    assert len(text.split("|")) == 6 and all(part.isdigit() for part in text.split("|"))


def test_the_timing_has_the_monitors_order() -> None:
    times = StageTimes(acquire_s=1.2, setup_s=6, stage_in_s=2, payload_s=3, stage_out_s=4, log_s=0.9, report_s=99)
    assert times.pilot_timing() == "1|2|3|5|0|6"


def test_memory_is_told_in_kilobytes_and_cpu_in_whole_seconds() -> None:
    told = usage_fields(Usage(cpu_s=1.6, max_rss_bytes=2 << 20, avg_pss_bytes=1 << 20))
    assert told == {"max_rss": 2048, "avg_pss": 1024, "cpu_consumption_time": 2, "cpu_consumption_unit": "s"}
    assert all(type(value) is int for value in told.values() if value != "s")


@given(st.dictionaries(st.text("abc", min_size=1), st.text(max_size=600) | st.integers()))
def test_metrics_fit_their_column_and_are_words(metrics: dict[str, object]) -> None:
    text = metrics_text(metrics)
    assert len(text) <= 500
    assert all("=" in word for word in text.split())


def test_a_metric_that_is_too_long_makes_room_for_the_next() -> None:
    assert metrics_text({"a": "x" * 600, "logStored": 0}) == "logStored=0"
    assert metrics_text({"a": "one two\nthree", "b": 1}) == "a=one_two_three b=1"


def test_the_report_of_files_is_keyed_by_name_and_leaves_out_an_unknown_url() -> None:
    report = output_report(
        (FileReport("log.tgz", "g", 12, "0a0b0c0d", "gs://b/o"), FileReport("o", "h", 1, "00000001"))
    )
    assert json.loads(report) == {
        "log.tgz": {"guid": "g", "fsize": 12, "adler32": "0a0b0c0d", "surl": "gs://b/o"},
        "o": {"guid": "h", "fsize": 1, "adler32": "00000001"},
    }
