"""A payload in a memory control group of its own: who ends it, the pilot or the kernel, and what is said of it."""

from __future__ import annotations

from tests.bench.guard import against_the_kernel
from tests.integration.payload.conftest import Payloads


def test_a_payload_that_grows_is_stopped_before_the_kernel_strikes() -> None:
    run = against_the_kernel(256 << 20, growth_mib_s=100)
    assert run["kernel_kills"] == 0
    assert run["code"] == 1235
    assert run["words"].endswith("243 MB allowed (the container's memory limit 256 MB x 0.95)")


def test_whoever_is_first_the_counter_decides_what_is_said() -> None:
    run = against_the_kernel(128 << 20, growth_mib_s=100_000)  # as fast as memory is: mostly the kernel is first
    assert run["code"] == (1212 if run["kernel_kills"] else 1235), run
    assert "kernel killed" in run["words"] or run["kernel_kills"] == 0


def test_the_kernel_would_take_the_payload_and_not_the_pilot(payloads: Payloads) -> None:
    assert payloads.run("cat /proc/self/oom_score_adj").stdout == "500\n"
