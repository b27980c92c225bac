"""Watch one pilot from inside a PID namespace of its own: ``python -I -S watch.py FILE COMMAND...``.

It is the namespace's first process. Twice a second it writes a line of JSON: the time, the last PID that was given (so that
two lines tell how many processes and threads were made between them, the short ones included), and what the pilot itself
uses. Nothing is made for a look: no process, no thread. Nothing is imported that is not needed.
"""

import json
import os
import sys
import time

PAUSE_S = 0.5


def sample(pid: int) -> dict[str, float]:
    """The pilot's own process now: its payload and its other children are not counted."""
    with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/status") as status, open("/proc/loadavg") as load:
        fields = stat.read().rpartition(")")[2].split()
        told = dict(line.split(":", 1) for line in status if ":" in line)
        last_pid = int(load.read().split()[-1])
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "at": time.time(),
        "last_pid": last_pid,
        "cpu_s": (int(fields[11]) + int(fields[12])) / ticks,
        "rss_bytes": int(told["VmRSS"].split()[0]) << 10,
        "peak_rss_bytes": int(told["VmHWM"].split()[0]) << 10,
        "threads": int(told["Threads"]),
    }


def watch(path: str, command: list[str]) -> int:
    """Until the pilot has left; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    with open(path, "w", buffering=1) as samples:
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == pid:
                return os.waitstatus_to_exitcode(status)
            if ended == 0:  # else an orphan, and there may be more
                samples.write(json.dumps(sample(pid)) + "\n")
                time.sleep(PAUSE_S)


if __name__ == "__main__":
    code = watch(sys.argv[1], sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
