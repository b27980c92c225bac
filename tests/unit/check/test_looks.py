"""The looks that need no server, one by one."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from pilot.check import node, queue, server, told
from pilot.check.finding import Finding, Verdict, ok, wrong
from pilot.job.endpoint import Door, Endpoint
from pilot.job.queue import Queue, QueueStatus
from pilot.payload.cgroup import MemoryGroup
from pilot.runtime.workdir import RESERVE_BYTES, WorkVolume

MB = 1 << 20
QUEUE = Queue("Q", "Q", "SITE", active=True, status=QueueStatus.ONLINE, max_rss_bytes=1800 * MB)
GS = Door(1, "GS", "gs://bucket", "/logs")
RSE = Endpoint("LOGS", active=True, doors={"read_lan": (GS,), "write_lan": (GS,)})


def verdicts(*findings: Finding) -> list[str]:
    return [finding.verdict.value for finding in findings]


# --- clock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off_s", "verdict", "words"),
    [
        (0.0, Verdict.OK, "within 1 s of 2 servers"),
        (-20.0, Verdict.OK, "within 2"),
        (45.0, Verdict.WARNING, "ahead of https://b"),
        (-45.0, Verdict.WARNING, "behind https://b"),
        (400.0, Verdict.WRONG, "ahead of https://b"),
        (-86400.0, Verdict.WRONG, "behind https://b"),
    ],
)
def test_the_clock_is_judged_by_the_server_that_is_farthest_off(off_s: float, verdict: Verdict, words: str) -> None:
    now_s = 1_800_000_000.0
    dates = {
        "https://a": (formatdate(now_s, usegmt=True), now_s + 0.5),
        "https://b": (formatdate(now_s, usegmt=True), now_s + 0.5 + off_s),
        "https://c": ("the day after tomorrow", now_s),
    }
    finding = node.clock(dates)
    assert finding.verdict is verdict and words in finding.detail


def test_a_clock_nobody_told_is_unknown() -> None:
    assert node.clock({}).verdict is Verdict.UNKNOWN
    assert node.clock({"https://c": ("nonsense", 1.0)}).verdict is Verdict.UNKNOWN


# --- memory and disk --------------------------------------------------------------------------------------------------


def group(tmp_path: Path, limit_bytes: int) -> MemoryGroup:
    (tmp_path / "memory.current").write_text(str(10 * MB))
    return MemoryGroup(tmp_path, limit_bytes)


@pytest.mark.parametrize(
    ("limit_mb", "verdict", "words"),
    [
        (None, "ok", "no limit of the container's own"),
        (2000, "ok", "limit is 2000 MB"),
        (1000, "warning", "limit is 1000 MB"),
    ],
)
def test_a_container_smaller_than_its_queue_promises_is_a_warning(
    tmp_path: Path, limit_mb: int | None, verdict: str, words: str
) -> None:
    finding = node.memory(group(tmp_path, limit_mb * MB) if limit_mb else None, QUEUE)
    assert finding.verdict.value == verdict and words in finding.detail


def test_memory_is_told_also_without_a_queue(tmp_path: Path) -> None:
    finding = node.memory(group(tmp_path, 1000 * MB), None)
    assert (finding.verdict.value, finding.detail) == ("ok", "the container's limit is 1000 MB, 10 MB used")


def test_room_is_what_the_pod_allows_of_what_is_free(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    promising = replace(QUEUE, max_workdir_bytes=100 * MB)
    assert node.room_for_jobs(volume, promising, None).verdict is Verdict.OK
    tight = node.room_for_jobs(volume, promising, 50 * MB)
    assert tight.verdict is Verdict.WARNING and tight.detail.startswith(
        "50 MB (the pod's disk limit); queue Q promises 100 MB"
    )
    assert node.room_for_jobs(volume, replace(QUEUE, max_workdir_bytes=None), None).verdict is Verdict.OK
    assert node.room_for_jobs(volume, None, None).verdict is Verdict.UNKNOWN


def test_a_work_folder_is_made_and_gone_again_unless_somebody_uses_it(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    with node.folder_made(root) as trouble:
        assert trouble is None and root.is_dir()
        assert verdicts(*node.work_folder(WorkVolume(root), trouble, 0)) == ["ok"]
        assert os.listdir(root) == []
    assert os.listdir(tmp_path) == []
    with node.folder_made(root):
        (root / "jobs").mkdir()
    assert (root / "jobs").is_dir()


def test_a_folder_that_cannot_be_made_or_holds_too_little_is_what_a_run_leaves_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "x"):
        with node.folder_made(root) as trouble:
            (finding,) = node.work_folder(WorkVolume(root), trouble, 0)
        assert (finding.verdict, finding.exit_code) == (Verdict.WRONG, 66)
    (finding,) = node.work_folder(WorkVolume(tmp_path), None, 1 << 60)
    assert (finding.verdict, finding.exit_code) == (Verdict.WRONG, 69) and "--min-free-mib" in finding.remedy


def test_the_reserve_counts_as_needed_until_it_is_there(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    free_bytes = volume.free_bytes()
    (finding,) = node.work_folder(volume, None, free_bytes - RESERVE_BYTES // 2)
    assert finding.exit_code == 69
    volume.reserve.write_bytes(b"x")
    (finding,) = node.work_folder(volume, None, free_bytes - RESERVE_BYTES // 2)
    assert finding.verdict is Verdict.OK


def test_a_folder_of_a_living_pilot_is_a_warning_and_its_lock_stays_its_own(tmp_path: Path) -> None:
    volume = WorkVolume(tmp_path)
    with volume.held():
        (finding,) = node.work_folder(volume, None, 0)
        assert finding.verdict is Verdict.WARNING and "a pilot works there now" in finding.detail
    (finding,) = node.work_folder(volume, None, 0)
    assert finding.verdict is Verdict.OK
    with (tmp_path / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the check holds it no longer


def test_a_place_for_a_file_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert node.file_place("summary", tmp_path / "s.json").verdict is Verdict.OK
    assert node.file_place("summary", tmp_path / "absent" / "s.json").verdict is Verdict.WARNING
    assert node.file_place("summary", Path("/proc/s.json")).verdict is Verdict.WARNING
    assert os.listdir(tmp_path) == []


# --- queue and storages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        ({}, "ok", 0),
        ({"status": QueueStatus.BROKEROFF}, "warning", 0),
        ({"status": QueueStatus.TEST}, "note", 0),
        ({"status": QueueStatus.OFFLINE}, "wrong", 83),
        ({"active": False, "state": "INACTIVE"}, "wrong", 78),
    ],
)
def test_a_queue_is_judged_by_state_and_status(changes: dict[str, object], verdict: str, code: int) -> None:
    finding, limits = queue.usable(replace(QUEUE, **changes), "from CRIC")  # type: ignore[arg-type]
    assert (finding.verdict.value, finding.exit_code, limits.verdict.value) == (verdict, code, "ok")


@pytest.mark.parametrize(
    ("endpoint", "verdicts_", "words"),
    [
        (RSE, ["ok", "ok"], "gs://bucket/logs"),
        (replace(RSE, active=False, state="DISABLED"), ["warning", "warning"], "DISABLED"),
        (replace(RSE, deterministic=False), ["warning", "warning"], "not deterministic"),
        (replace(RSE, doors={"read_lan": (GS,)}), ["ok", "warning"], "no gs door for write_lan"),
        ("CRIC knows no storage LOGS", ["warning", "warning"], "knows no storage"),
    ],
)
def test_storages_of_inputs_and_outputs_are_judged_by_what_jobs_need(
    endpoint: Endpoint | str, verdicts_: list[str], words: str
) -> None:
    using = replace(QUEUE, storages={"read_lan": ("LOGS",), "write_lan": ("LOGS",)})
    found = queue.other_storages(using, {"LOGS": endpoint}, ("gs",))
    assert verdicts(*found) == verdicts_ and words in found[-1].detail


def test_a_queue_that_names_no_storage_is_a_note() -> None:
    assert verdicts(*queue.other_storages(QUEUE, {}, ("gs",))) == ["note", "note"]


# --- servers and Harvester --------------------------------------------------------------------------------------------


def test_where_one_server_is_good_the_others_are_warnings() -> None:
    good = [ok("server https://a", ""), ok("role at https://a", "")]
    bad = [wrong("server https://b", "", "do", 79), wrong("queue", "", "do", 83)]
    assert verdicts(*server.one_is_enough([*good, *bad])) == ["ok", "ok", "warning", "wrong"]
    assert verdicts(*server.one_is_enough([good[0], *bad])) == ["ok", "wrong", "wrong"]  # reached, and not let in


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, None, None, ()), []),
        (("h", 7, "https://c", None, ()), ["ok"]),
        (("h", None, None, None, ()), ["warning"]),
        ((None, 7, "https://c", None, ()), ["warning", "warning"]),
        ((None, None, "https://c", "my.out", ()), []),
        ((None, None, None, None, ("pythonOption",)), ["note"]),
    ],
)
def test_harvesters_variables_must_fit_together(given: tuple[object, ...], expected: list[str]) -> None:
    assert verdicts(*told.harvester(*given)) == expected  # type: ignore[arg-type]


def test_settings_that_somebody_set_come_first_and_payloads_values_never() -> None:
    values = {"queue": "Q", "label": "managed", "server": ("https://a", "https://b"), "job": None}
    sources = {"label": "default", "queue": "flag --queue", "server": "file /etc/pilot.yaml", "job": "default"}
    settings = told.settings_told(values, sources, ("PGPASSWORD",))
    assert [(setting.name, setting.value) for setting in settings] == [
        ("queue", "Q"), ("server", "https://a, https://b"), ("payload variable PGPASSWORD", "present"),
        ("label", "managed"), ("job", "not set"),
    ]  # fmt: skip
    assert told.summary(settings).detail == "understood; set: 1 by flags, 1 by the file, 1 by the environment"
