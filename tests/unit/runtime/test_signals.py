from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pilot.runtime.signals import stop_on_signals
from pilot.runtime.stop import Stop, StopKind

CHILD = """
import os, signal, sys, threading
from pilot.runtime.signals import stop_on_signals
from pilot.runtime.stop import Stop

mine = lambda number, frame: None
signal.signal(signal.SIGTERM, mine)
stop = Stop()
with stop_on_signals(stop):
    print("ready", flush=True)
    assert stop.wait(20)
    first = stop.reason
    sys.stdin.readline()  # the second signal has been sent
    with open("/proc/self/status") as status:
        assert not [line for line in status if line.startswith("SigPnd") and int(line.split()[1], 16)]
    assert stop.reason is first
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
assert signal.getsignal(signal.SIGTERM) is mine
assert threading.active_count() == 1
print(first.kind.name, flush=True)
"""


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_the_first_signal_stops_the_second_changes_nothing_and_all_is_as_before(
    first: signal.Signals, second: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "ready\n"
        child.send_signal(first)
        child.send_signal(second)
        child.stdin.write("go\n")
        child.stdin.flush()
        heard = child.stdout.read()
    assert child.returncode == 0
    assert heard in ("SIGTERM\n", "SIGINT\n")


def test_a_signal_names_its_kind() -> None:
    for number, kind in ((signal.SIGTERM, StopKind.SIGTERM), (signal.SIGINT, StopKind.SIGINT)):
        stop = Stop()
        with stop_on_signals(stop):
            os.kill(os.getpid(), number)
            assert stop.wait(10)
        assert stop.reason is not None and stop.reason.kind is kind


def test_a_signal_never_waits_for_a_lock_its_own_thread_holds() -> None:
    """The handler runs on the main thread wherever that is: also inside a plain lock that a follower needs."""
    lock = threading.Lock()
    stop = Stop()

    def follower(_reason: object) -> None:
        with lock:
            pass

    stop.follow(follower)
    with stop_on_signals(stop):
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)


def test_handlers_are_restored_when_the_block_fails() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)]
    with pytest.raises(ValueError, match="mine"), stop_on_signals(Stop()):
        raise ValueError("mine")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)] == before


SENDER = """
import os, signal, sys
for _ in sys.stdin:
    os.kill(os.getppid(), signal.SIGTERM)
"""


def test_no_signal_is_lost_that_comes_while_the_main_thread_begins_to_wait() -> None:
    command = [sys.executable, "-c", SENDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1) as sender:
        assert sender.stdin is not None
        for _ in range(300):
            stop = Stop()
            with stop_on_signals(stop):
                sender.stdin.write("now\n")
                assert stop.wait(10)
        sender.stdin.close()
