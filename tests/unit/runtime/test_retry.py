from __future__ import annotations

import threading
import time

import pytest

from pilot.runtime.retry import (
    CRIC_CALL,
    LOG_UPLOAD,
    RETRYABLE_HTTP_STATUSES,
    SERVER_CALL,
    TRANSFER,
    RetryableError,
    RetryPolicy,
    retry_call,
)
from pilot.runtime.stop import Stop, StopKind, StopReason

QUICK = RetryPolicy("quick", tries=5, first_s=0.001, cap_s=0.002, total_s=10)


class Flaky:
    """Fails as often as told, and remembers when it was called."""

    def __init__(self, failures: int, retry_after_s: float | None = None) -> None:
        self.failures, self.retry_after_s = failures, retry_after_s
        self.called_at_s: list[float] = []

    def __call__(self) -> str:
        self.called_at_s.append(time.monotonic())
        if len(self.called_at_s) <= self.failures:
            raise RetryableError(f"failure {len(self.called_at_s)}", self.retry_after_s)
        return "done"


def test_a_call_is_tried_until_it_succeeds() -> None:
    flaky = Flaky(4)
    assert retry_call(flaky, QUICK, Stop()) == "done"
    assert len(flaky.called_at_s) == 5


def test_the_last_error_comes_when_the_tries_are_used_up() -> None:
    with pytest.raises(RetryableError, match="failure 5"):
        retry_call(Flaky(99), QUICK, Stop())


def test_what_is_not_retryable_passes_at_once() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        retry_call(call, QUICK, Stop())
    assert calls == [1]


def test_the_peers_retry_after_is_a_floor() -> None:
    flaky = Flaky(1, retry_after_s=0.2)
    retry_call(flaky, QUICK, Stop())
    assert flaky.called_at_s[1] - flaky.called_at_s[0] >= 0.19


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_retry_after_beyond_the_total_time_ends_it_at_once() -> None:
    flaky = Flaky(1, retry_after_s=3600)
    with pytest.raises(RetryableError):
        retry_call(flaky, QUICK, Stop())


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_the_total_time_ends_it() -> None:
    policy = RetryPolicy("short", tries=10**6, first_s=0.01, cap_s=0.02, total_s=0.2)
    with pytest.raises(RetryableError):
        retry_call(Flaky(10**6), policy, Stop())


@pytest.mark.timeout(20)  # far less than what it must not wait for
def test_a_stop_ends_the_wait() -> None:
    stop = Stop()
    asking = threading.Timer(0.05, stop.request, (StopReason(StopKind.SIGTERM),))
    asking.start()
    with pytest.raises(RetryableError):
        retry_call(Flaky(99, retry_after_s=30), RetryPolicy("patient", 99, 1, 1, 60), stop)
    asking.join()


def test_under_a_stop_there_is_one_try() -> None:
    stop = Stop()
    stop.request(StopReason(StopKind.SIGTERM))
    flaky = Flaky(99)
    with pytest.raises(RetryableError):
        retry_call(flaky, QUICK, stop)
    assert len(flaky.called_at_s) == 1


def test_what_never_gets_better_is_not_retried() -> None:
    assert not RETRYABLE_HTTP_STATUSES & {200, 301, 400, 401, 403, 404, 409, 412}
    assert {408, 429, 500, 502, 503, 504} <= RETRYABLE_HTTP_STATUSES


@pytest.mark.parametrize("policy", [SERVER_CALL, CRIC_CALL, TRANSFER, LOG_UPLOAD])
def test_every_policy_has_an_end(policy: RetryPolicy) -> None:
    assert 0 < policy.first_s <= policy.cap_s <= policy.total_s <= 3600
    assert policy.tries >= 1
