"""Which group a process is in, read from what the kernel tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.quota import NoQuota, _present_group

V1 = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "31 25 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_present_group_of_the_first_version_is_that_with_the_cpu_controller() -> None:
    told = "3:cpuset:/other\n1:cpu,cpuacct:/a/b\n0::/somewhere\n"
    assert _present_group(told, V2 + V1) == (Path("/sys/fs/cgroup/cpu,cpuacct/a/b"), 1)


def test_of_the_second_version_there_is_one() -> None:
    assert _present_group("0::/user.slice\n", V2) == (Path("/sys/fs/cgroup/user.slice"), 2)


def test_a_group_below_the_mounts_root_is_found_from_there() -> None:
    below = V2.replace("0:27 / ", "0:27 /docker/x ")
    assert _present_group("0::/docker/x/y\n", below) == (Path("/sys/fs/cgroup/y"), 2)


def test_no_controller_and_no_mount_are_said() -> None:
    with pytest.raises(NoQuota, match="no cgroup"):
        _present_group("2:memory:/\n", V1)
    with pytest.raises(NoQuota, match="not mounted"):
        _present_group("1:cpu:/\n", "")
