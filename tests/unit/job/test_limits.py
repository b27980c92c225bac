"""Limits of a job: where they come from, and what exceeds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pilot.job.limits import BreachKind, Limits, Sample, breach, limits_for
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


def test_the_pods_memory_limit_less_a_margin_wins_when_it_is_smaller() -> None:
    assert limits_for(JOB, QUEUE, pod_memory_bytes=2000 * MB).memory_bytes == 1900 * MB
    assert limits_for(JOB, QUEUE, pod_memory_bytes=64000 * MB).memory_bytes == 3600 * MB


def test_the_smaller_of_the_two_wall_times_holds() -> None:
    assert limits_for(JOB, replace(QUEUE, max_time_s=300)).walltime_s == 300
    assert limits_for(JOB, replace(QUEUE, max_time_s=3000)).walltime_s == 600


def test_what_nobody_limits_is_not_limited() -> None:
    free = limits_for(replace(JOB, resources=Resources(), looping_check=False), replace(QUEUE, max_rss_bytes=None))
    assert (free.memory_bytes, free.walltime_s, free.looping_s) == (None, None, None)
    assert breach(free, Sample(1e9, memory_bytes=1 << 50, quiet_s=1e9)) is None


@pytest.mark.parametrize(
    ("sample", "kind", "code"),
    [
        (Sample(1, memory_bytes=101 * MB), BreachKind.MEMORY, 1235),
        (Sample(61), BreachKind.WALLTIME, 1213),
        (Sample(1, workdir_bytes=201 * MB), BreachKind.WORKDIR, 1104),
        (Sample(1, stdout_bytes=301 * MB), BreachKind.STDOUT, 1106),
        (Sample(1, quiet_s=31), BreachKind.LOOPING, 1150),
    ],
)
def test_each_limit_has_its_code(sample: Sample, kind: BreachKind, code: int) -> None:
    limits = Limits(100 * MB, 60, 200 * MB, 300 * MB, 30)
    found = breach(limits, sample)
    assert found is not None
    assert (found.kind, found.diagnosis.code) == (kind, code)


def test_exactly_at_a_limit_is_within_it() -> None:
    assert breach(Limits(100, 60, 200, 300, 30), Sample(60, 100, 200, 300, 30)) is None


def test_memory_is_the_most_urgent_breach() -> None:
    found = breach(Limits(1, 1, 1, 1, 1), Sample(2, 2, 2, 2, 2))
    assert found is not None
    assert found.kind is BreachKind.MEMORY
