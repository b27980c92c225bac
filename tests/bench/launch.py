"""Run one command and write what it cost: ``python -I -S launch.py FIGURES COMMAND...``. Exits as the command does.

A process of its own and a small one: the kernel's peak memory of a child begins with that of whoever started it. So nothing
is imported here that is not needed. FIGURES gets wall seconds, CPU seconds of the whole tree, and the peak resident KiB of
the largest process in it.
"""

import os
import sys
import time

if __name__ == "__main__":
    begun_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(sys.argv[2], sys.argv[2:])
        finally:
            os._exit(127)
    _pid, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - begun_s
    with open(sys.argv[1], "w") as figures:
        figures.write(f"{wall_s} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}")
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)
