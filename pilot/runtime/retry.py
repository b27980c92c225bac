"""What is worth retrying, and how often: decided here once, for the server, CRIC and the stores alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pilot.runtime.stop import Stop

T = TypeVar("T")

# 408, 429 and every 5xx are worth another try; 400, 403, 404 and 412 never get better by asking again.
RETRYABLE_HTTP_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# Transport errors of requests that may pass: reset, refused, time-outs, truncated bodies. TLS verification is not among them.


class RetryableError(Exception):
    """Something that may succeed when tried again. ``retry_after_s``: the peer's own word (Retry-After), a floor."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full-jitter exponential back-off from ``first_s`` to ``cap_s``, ended by ``tries`` or by ``total_s`` seconds in all."""

    name: str
    tries: int
    first_s: float
    cap_s: float
    total_s: float


SERVER_CALL = RetryPolicy("server call", tries=4, first_s=0.5, cap_s=10, total_s=60)
CRIC_CALL = RetryPolicy("CRIC call", tries=3, first_s=0.5, cap_s=10, total_s=60)
TRANSFER = RetryPolicy("transfer", tries=5, first_s=0.5, cap_s=30, total_s=1800)
LOG_UPLOAD = RetryPolicy("log upload", tries=1000, first_s=0.5, cap_s=30, total_s=600)


def retry_call(call: Callable[[], T], policy: RetryPolicy, stop: Stop) -> T:
    """Call until it succeeds; re-raises the last RetryableError when the policy is used up or the scope was stopped.

    Every other exception passes at once. The waits are waits on ``stop``. What succeeds at once, as nearly everything does,
    costs nothing more: the machinery is set up for the second try.
    """
    try:
        return call()
    except RetryableError as error:
        failed = [error]

    def go_on() -> T:
        if failed:
            raise failed.pop()
        return call()

    import tenacity

    def wait_s(state: tenacity.RetryCallState) -> float:
        jittered = tenacity.wait_random_exponential(multiplier=policy.first_s, max=policy.cap_s)(state)
        error = state.outcome.exception() if state.outcome else None
        floor_s = error.retry_after_s if isinstance(error, RetryableError) else None
        return max(jittered, min(floor_s or 0.0, policy.total_s))

    given_up = tenacity.stop_any(tenacity.stop_after_attempt(policy.tries), tenacity.stop_before_delay(policy.total_s))

    def stopped(_state: tenacity.RetryCallState) -> bool:
        return stop.is_set()

    def nap(seconds: float) -> None:
        stop.wait(seconds)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetryableError),
        stop=lambda state: stopped(state) or given_up(state),
        wait=wait_s,
        sleep=nap,
        reraise=True,
    )
    return retrying(go_on)
