"""Limits of a job: where they come from, and what exceeds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pilot.job.limits import BreachKind, Limits, LimitSettings, Sample, breach, limits_for, next_look_s
from pilot.job.model import Attempt, Job, Resources
from pilot.job.queue import Queue, QueueStatus

MB = 1 << 20
QUEUE = Queue("Q", "Q", "S", True, QueueStatus.ONLINE, max_rss_bytes=1800 * MB, max_workdir_bytes=1000 * MB)
JOB = Job(Attempt(1, 1), 1, "j", "bash-c", "true", "managed", Resources(max_walltime_s=600))


def test_limits_come_from_the_queue_with_their_graces_and_from_the_job() -> None:
    limits = limits_for(JOB, QUEUE)
    assert limits.memory_bytes == 3600 * MB
    assert limits.workdir_bytes == 1200 * MB
    assert limits.walltime_s == 600
    assert limits.looping_s == 7200


def test_the_containers_memory_limit_less_a_margin_is_a_limit_of_its_own() -> None:
    limits = limits_for(JOB, QUEUE, LimitSettings(container_memory_bytes=2000 * MB))
    assert (limits.container_bytes, limits.memory_bytes) == (1900 * MB, 3600 * MB)
    assert limits.sources["container_bytes"] == "the container's memory limit 2000 MB x 0.95"


def test_the_limit_of_a_pod_that_is_not_here_is_held_by_the_payloads_own_memory() -> None:
    limits = limits_for(JOB, QUEUE, LimitSettings(absent_container_bytes=2000 * MB))
    assert (limits.memory_bytes, limits.container_bytes) == (1900 * MB, None)
    assert limits.sources["memory_bytes"] == "the memory limit of the job's pod 2000 MB x 0.95"
    assert limits_for(JOB, QUEUE, LimitSettings(absent_container_bytes=1 << 40)).memory_bytes == 3600 * MB


def test_min_ram_count_limits_where_the_pod_was_cut_to_the_job_or_the_queue_says_nothing() -> None:
    small = replace(JOB, resources=Resources(min_ram_bytes=1024 * MB))
    assert limits_for(small, QUEUE).memory_bytes == 3600 * MB
    for queue in (replace(QUEUE, params={"job_minramcount": True}), replace(QUEUE, max_rss_bytes=None)):
        limits = limits_for(small, queue)
        assert limits.memory_bytes == 2048 * MB
        assert limits.sources["memory_bytes"] == "minRamCount 1024 MB of the job x 2"


def test_a_job_that_asks_for_more_than_the_queue_gives_keeps_to_the_queue() -> None:
    large = replace(JOB, resources=Resources(min_ram_bytes=64000 * MB))
    assert limits_for(large, replace(QUEUE, params={"job_minramcount": True})).memory_bytes == 3600 * MB


def test_the_pods_disk_limit_less_a_margin_wins_when_it_is_smaller() -> None:
    limits = limits_for(JOB, QUEUE, LimitSettings(disk_limit_bytes=1000 * MB))
    assert limits.workdir_bytes == 950 * MB
    assert limits.sources["workdir_bytes"] == "the pod's disk limit 1000 MB x 0.95"


def test_the_operators_limits_are_taken_and_zero_switches_them_off() -> None:
    limits = limits_for(JOB, QUEUE, LimitSettings(looping_s=60, max_processes=7, max_inodes=9))
    assert (limits.looping_s, limits.processes, limits.inodes) == (60, 7, 9)
    free = limits_for(JOB, QUEUE, LimitSettings(looping_s=0, max_processes=0, max_inodes=0))
    assert (free.looping_s, free.processes, free.inodes) == (None, None, None)


def test_a_job_without_looping_check_may_be_quiet() -> None:
    assert limits_for(replace(JOB, looping_check=False), QUEUE, LimitSettings(looping_s=60)).looping_s is None


def test_the_smaller_of_the_two_wall_times_holds() -> None:
    assert limits_for(JOB, replace(QUEUE, max_time_s=300)).walltime_s == 300
    assert limits_for(JOB, replace(QUEUE, max_time_s=3000)).walltime_s == 600


def test_what_nobody_limits_is_not_limited() -> None:
    free = limits_for(replace(JOB, resources=Resources(), looping_check=False), replace(QUEUE, max_rss_bytes=None))
    assert (free.memory_bytes, free.walltime_s, free.looping_s) == (None, None, None)
    assert breach(free, Sample(1e9, memory_bytes=1 << 50, quiet_s=1e9)) is None


FULL = Limits(
    memory_bytes=100 * MB,
    walltime_s=60,
    workdir_bytes=200 * MB,
    stdout_bytes=300 * MB,
    looping_s=30,
    container_bytes=400 * MB,
    inodes=50,
    output_bytes=600 * MB,
    processes=70,
    sources={"memory_bytes": "maxrss 50 MB of queue Q x 2", "inodes": "--max-inodes"},
)


@pytest.mark.parametrize(
    ("sample", "kind", "code", "words"),
    [
        (
            Sample(1, memory_bytes=101 * MB),
            BreachKind.MEMORY,
            1235,
            "the payload uses 101 MB (PSS), 100 MB allowed (maxrss 50 MB of queue Q x 2)",
        ),
        (
            Sample(1, container_bytes=401 * MB),
            BreachKind.CONTAINER_MEMORY,
            1235,
            "the container uses 401 MB, 400 MB allowed",
        ),
        (Sample(61), BreachKind.WALLTIME, 1213, "the payload ran for 61 s, 60 s allowed"),
        (Sample(1, workdir_bytes=201 * MB), BreachKind.WORKDIR, 1104, "201 MB in the work folder, 200 MB allowed"),
        (
            Sample(1, inodes=51),
            BreachKind.WORKDIR,
            1104,
            "51 files and folders in the work folder, 50 allowed (--max-inodes)",
        ),
        (
            Sample(1, stdout_bytes=301 * MB),
            BreachKind.STDOUT,
            1106,
            "301 MB written to stdout or stderr, 300 MB allowed",
        ),
        (Sample(1, output_bytes=601 * MB), BreachKind.OUTPUT, 1124, "an output file has 601 MB, 600 MB allowed"),
        (Sample(1, processes=71), BreachKind.PROCESSES, 1305, "the payload has 71 processes, 70 allowed"),
        (Sample(1, quiet_s=31), BreachKind.LOOPING, 1150, "nothing written and no CPU used for 31 s, 30 s allowed"),
    ],
)
def test_each_limit_has_its_code_and_names_itself(sample: Sample, kind: BreachKind, code: int, words: str) -> None:
    found = breach(FULL, sample)
    assert found is not None
    assert (found.kind, found.diagnosis.code, found.diagnosis.detail) == (kind, code, words)


def test_memory_measured_as_rss_says_so() -> None:
    found = breach(FULL, Sample(1, memory_bytes=101 * MB, memory_kind="RSS"))
    assert found is not None
    assert "101 MB (RSS)" in found.diagnosis.detail


def test_the_nearer_the_limit_and_the_faster_the_growth_the_sooner_the_next_look() -> None:
    assert next_look_s(0, 1000, 0, 100) == 5
    assert next_look_s(900, 1000, 0, 100) == 0.5
    assert next_look_s(900, 1000, 200, 100) == 0.25
    assert next_look_s(1000, 1000, -50, 100) == next_look_s(2000, 1000, 1, 100) == 0


def test_exactly_at_a_limit_is_within_it() -> None:
    assert breach(Limits(100, 60, 200, 300, 30), Sample(60, 100, 200, 300, 30)) is None


def test_memory_is_the_most_urgent_breach() -> None:
    found = breach(Limits(1, 1, 1, 1, 1), Sample(2, 2, 2, 2, 2))
    assert found is not None
    assert found.kind is BreachKind.MEMORY
