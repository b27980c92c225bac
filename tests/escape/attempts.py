"""What a hostile payload tries. Each attempt is a small program that prints GOT and what it got, or nothing of the kind.

The attacker is told everything: the pilot's pid and the names of all its files stand in the variables of PLACES.
Nothing is damaged by an attempt that succeeds, but for the last ones, which are aimed at the pilot's life.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Names of the shell and environment variables that tell the attacker where everything is.
PLACES = (
    "PILOT", "VOLUME", "STATE", "KEY", "CERT", "S3_KEY", "GCS_KEY", "TOKEN", "SUMMARY", "PACKAGE", "SITE", "TMP_SECRET",
    "SHM_SECRET", "SERVER",
)  # fmt: skip


class Kind(StrEnum):
    READ = "read"
    CHANGE = "change"
    STOP = "stop"
    REACH = "reach"


@dataclass(frozen=True, slots=True)
class Attempt:
    """``program`` is a shell text, or Python's when ``python``.

    ``undefended``: the rungs whose table (docs/isolation.md) does not claim to prevent it.
    """

    kind: Kind
    name: str
    program: str
    python: bool = False
    undefended: str = ""


def _reads(path: str) -> str:
    return f'x=$(head -c 200 {path} 2>/dev/null | tr -d "\\0") && [ -n "$x" ] && echo "GOT $x"'


def _opens(path: str) -> str:
    """Open for writing and write nothing."""
    return f'(: >>{path}) 2>/dev/null && echo "GOT {path} open for writing"'


def _creates(path: str) -> str:
    return f'[ -e {path} ] || ((: >{path}) 2>/dev/null && rm -f {path} && echo "GOT {path} made")'


_CALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\npilot = int(os.environ['PILOT'])\n"

READ = (
    Attempt(Kind.READ, "environment of the pilot", _reads("/proc/$PILOT/environ")),
    Attempt(Kind.READ, "memory map of the pilot", _reads("/proc/$PILOT/maps")),
    Attempt(Kind.READ, "memory of the pilot by ptrace", _CALL + "if libc.ptrace(0x4206, pilot, 0, 0) == 0: print('GOT attached')", True),
    Attempt(
        Kind.READ,
        "memory of the pilot by process_vm_readv",
        _CALL
        + """
class V(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(64)
mine, other = V(ctypes.addressof(buffer), 64), V(0x1000, 64)
done = libc.process_vm_readv(pilot, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0)
# EFAULT (14): it was allowed, and only that address is not mapped
if done >= 0 or ctypes.get_errno() == 14: print('GOT the right to read')
""",
        True,
    ),
    Attempt(Kind.READ, "memory of the pilot by /proc/PID/mem", '(: </proc/$PILOT/mem) 2>/dev/null && echo "GOT mem open"'),
    Attempt(Kind.READ, "descriptors of the pilot", 'x=$(readlink /proc/$PILOT/fd/* 2>/dev/null) && [ -n "$x" ] && echo GOT $x'),
    Attempt(
        Kind.READ,
        "a descriptor of the pilot by pidfd_getfd",
        _CALL
        + "import signal\nh = os.pidfd_open(pilot)\n"
        + "fds = [libc.syscall(438, h, n, 0) for n in range(3, 40)]\nif max(fds) >= 0: print('GOT descriptors', fds)",
        True,
    ),
    Attempt(Kind.READ, "root folder of the pilot", 'x=$(ls /proc/$PILOT/root/ 2>/dev/null) && [ -n "$x" ] && echo GOT $x'),
    Attempt(Kind.READ, "current folder of the pilot", 'x=$(ls -a /proc/$PILOT/cwd/ 2>/dev/null) && [ -n "$x" ] && echo GOT $x'),
    Attempt(Kind.READ, "private key", _reads("$KEY")),
    Attempt(Kind.READ, "private key in a user namespace of its own", "unshare -Ur sh -c 'head -c 100 $KEY' 2>/dev/null | grep -q . && echo GOT key"),
    Attempt(Kind.READ, "key of the S3 store", _reads("$S3_KEY")),
    Attempt(Kind.READ, "key of the Google store", _reads("$GCS_KEY")),
    Attempt(Kind.READ, "token", _reads("$TOKEN")),
    Attempt(Kind.READ, "anything secret beside the key", 'x=$(grep -rls "PRIVATE KEY\\|secret_key" $STATE 2>/dev/null | head -n 3) && [ -n "$x" ] && echo GOT $x'),
    Attempt(Kind.READ, "well-known variables", "x=$(env | grep 'canary\\|X509\\|GOOGLE\\|MY_TOKEN\\|PANDA_AUTH') && echo GOT $x"),
    Attempt(Kind.READ, "home folder of root", 'x=$(ls -a /root 2>/dev/null | grep -v "^[.]*$" | head -n 5) && [ -n "$x" ] && echo GOT $x'),
    Attempt(Kind.READ, "metadata server by address", "x=$(wget -q -T 1 -O - http://169.254.169.254/ 2>/dev/null) && [ -n \"$x\" ] && echo GOT $x"),
    Attempt(Kind.READ, "metadata server by name", "x=$(wget -q -T 1 -O - http://metadata.google.internal/ 2>/dev/null) && [ -n \"$x\" ] && echo GOT $x"),
    Attempt(Kind.READ, "service account token", _reads("/var/run/secrets/kubernetes.io/serviceaccount/token")),
    Attempt(Kind.READ, "journal of the worker", _reads("$VOLUME/worker.journal")),
    Attempt(Kind.READ, "journal of the job", "for f in $VOLUME/jobs/*/journal; do " + _reads("$f") + "; done"),
    Attempt(Kind.READ, "log of the pilot on disk", "for f in $VOLUME/jobs/*/logs/pilotlog.txt; do " + _reads("$f") + "; done"),
    Attempt(Kind.READ, "names of other jobs", 'x=$(ls $VOLUME/jobs 2>/dev/null) && [ -n "$x" ] && echo GOT $x'),
    Attempt(Kind.READ, "work folder of the job before", _reads("$VOLUME/jobs/$BEFORE.0/work/left-here")),
    Attempt(Kind.READ, "a private file in /tmp", _reads("$TMP_SECRET")),
    Attempt(Kind.READ, "a private file in /dev/shm", 'head -c 1 $SHM_SECRET >/dev/null 2>&1 && echo GOT it', undefended="C"),
    Attempt(Kind.READ, "kernel memory", _reads("/proc/kcore")),
    Attempt(Kind.READ, "raw disk", "for d in /dev/[svx]d[a-z] /dev/nvme0n1; do " + _reads("$d") + "; done"),
)  # fmt: skip
CHANGE = (
    Attempt(Kind.CHANGE, "journal of the worker", _opens("$VOLUME/worker.journal")),
    Attempt(Kind.CHANGE, "journal of the job", "for f in $VOLUME/jobs/$MINE.0/journal; do " + _opens("$f") + "; done"),
    Attempt(Kind.CHANGE, "log of the pilot on disk", _opens("$VOLUME/jobs/$MINE.0/logs/pilotlog.txt")),
    Attempt(Kind.CHANGE, "script it was started with", _opens("$VOLUME/jobs/$MINE.0/control/payload.sh")),
    Attempt(Kind.CHANGE, "folder of a job to come", 'mkdir $VOLUME/jobs/999.0 2>/dev/null && echo "GOT a folder"'),
    Attempt(Kind.CHANGE, "all jobs moved away", 'mv $VOLUME/jobs $VOLUME/gone 2>/dev/null && mv $VOLUME/gone $VOLUME/jobs && echo "GOT them"'),
    Attempt(Kind.CHANGE, "images of the node", _creates("$VOLUME/images/evil.sif")),
    Attempt(Kind.CHANGE, "lock of the volume removed", 'rm $VOLUME/lock 2>/dev/null && echo "GOT it"'),
    Attempt(Kind.CHANGE, "program of the pilot", _opens("$PACKAGE/__init__.py")),
    Attempt(Kind.CHANGE, "a .pth file for its Python", _creates("$SITE/evil.pth")),
    Attempt(Kind.CHANGE, "sitecustomize for its Python", _creates("$SITE/sitecustomize.py")),
    Attempt(Kind.CHANGE, "private key", _opens("$KEY")),
    Attempt(Kind.CHANGE, "summary of the pilot", _creates("$SUMMARY.new")),
    Attempt(Kind.CHANGE, "a helper in PATH", _creates("/usr/local/sbin/setpriv")),
    Attempt(Kind.CHANGE, "libraries preloaded by everybody", _creates("/etc/ld.so.preload")),
    Attempt(Kind.CHANGE, "users of the node", 'if [ "$RUNG" != A ]; then ' + _opens("/etc/passwd") + "; fi"),  # a container has its own
    Attempt(Kind.CHANGE, "what the kernel runs at a crash", _opens("/proc/sys/kernel/core_pattern")),
    Attempt(Kind.CHANGE, "magic keys of the kernel", _opens("/proc/sysrq-trigger")),
    Attempt(Kind.CHANGE, "settings of the kernel", 'for f in $(find /proc/sys /sys -type f -perm -0200 ! -name ns_last_pid 2>/dev/null | head -n 2000); do ' + _opens("$f") + "; done"),
    Attempt(Kind.CHANGE, "interrupts of the node", "for f in /proc/irq/*/smp_affinity; do " + _opens("$f") + "; done"),
    Attempt(Kind.CHANGE, "control groups", 'for g in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/unified; do mkdir $g/evil 2>/dev/null && rmdir $g/evil && echo "GOT $g"; done'),
)  # fmt: skip
REACH = (
    Attempt(Kind.REACH, "capabilities by set-user-ID programs", "su -c 'grep CapEff /proc/self/status' </dev/null 2>/dev/null | grep -v 0000000000000000 && echo GOT them"),
    Attempt(Kind.REACH, "user 0 with rights", "setpriv --reuid 0 head -c 9 $KEY 2>/dev/null | grep -q . && echo GOT the key"),
    Attempt(Kind.REACH, "socket of a container engine", 'for s in /var/run/docker.sock /run/containerd/containerd.sock; do [ -w $s ] && echo "GOT $s"; done'),
    Attempt(Kind.REACH, "paths of the host", _creates("/opt/evil")),
    Attempt(Kind.REACH, "/tmp of the node", '[ -d "${TMP_SECRET%/*}" ] && (: >/var/tmp/escape-$MINE) 2>/dev/null && rm -f /var/tmp/escape-$MINE && echo GOT'),
    Attempt(Kind.REACH, "device made by mknod", "mknod disk b 254 0 2>/dev/null && head -c 1 disk >/dev/null 2>&1 && echo GOT the disk; rm -f disk"),
    Attempt(Kind.REACH, "mounts of the node", "mount -t tmpfs none /mnt 2>/dev/null && umount /mnt && echo GOT a mount"),
    Attempt(Kind.REACH, "namespaces of the pilot", _CALL + "h = os.open(f'/proc/{pilot}/ns/mnt', 0)\nif libc.setns(h, 0) == 0: print('GOT in')", True),
    Attempt(Kind.REACH, "chroot", "chroot / true 2>/dev/null && echo GOT it"),
    Attempt(Kind.REACH, "raw sockets", "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nprint('GOT one')", True),
    Attempt(Kind.REACH, "a counter on the pilot by perf_event_open", _CALL + "a = ctypes.create_string_buffer(128)\na[0] = 1\na[4] = 128\nif libc.syscall(298, a, pilot, -1, -1, 0) >= 0: print('GOT it')", True),
    Attempt(
        Kind.REACH,
        "PanDA server with the pilot's identity",
        """
import os, ssl, urllib.request
context = ssl._create_unverified_context()
context.load_cert_chain(os.environ['CERT'], os.environ['KEY'])
url = os.environ['SERVER'] + '/api/v1/pilot/get_job_status?job_ids=1'
print('GOT', urllib.request.urlopen(url, context=context, timeout=5).status)
""",
        True,
    ),
)  # fmt: skip
STOP = (
    Attempt(Kind.STOP, "signals to the pilot", 'kill -0 $PILOT 2>/dev/null && echo "GOT the right"'),
    Attempt(Kind.STOP, "signals to the pilot by pidfd", _CALL + "import signal\nh = os.pidfd_open(pilot)\nsignal.pidfd_send_signal(h, signal.SIGCONT)\nprint('GOT one through')", True),
    Attempt(
        Kind.STOP,
        "signals to single threads of the pilot",
        _CALL + "threads = map(int, os.listdir(f'/proc/{pilot}/task'))\n"
        "if [t for t in threads if libc.tgkill(pilot, t, 0) == 0]: print('GOT the right')",
        True,
    ),
    Attempt(Kind.STOP, "limits of the pilot", _CALL + "import resource\nprint('GOT', resource.prlimit(pilot, resource.RLIMIT_NOFILE))", True, "C"),
    Attempt(Kind.STOP, "priority of the pilot", _CALL + "os.setpriority(os.PRIO_PROCESS, pilot, 1)\nprint('GOT it lowered')", True, "C"),
    Attempt(Kind.STOP, "the pilot made the kernel's victim", '(echo 1000 >/proc/$PILOT/oom_score_adj) 2>/dev/null && echo "GOT it"'),
    Attempt(Kind.STOP, "itself never the kernel's victim", '(echo -900 >/proc/self/oom_score_adj) 2>/dev/null && echo "GOT it"'),
    Attempt(Kind.STOP, "itself before all others", "import os\nos.setpriority(os.PRIO_PROCESS, 0, -10)\nprint('GOT it')", True),
    Attempt(Kind.STOP, "core files although they are off", "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (1, 1))\nprint('GOT it')", True),
    Attempt(Kind.STOP, "SIGSTOP to the pilot", "kill -STOP $PILOT 2>/dev/null && echo GOT"),
    Attempt(Kind.STOP, "SIGTERM to the pilot", "kill -TERM $PILOT 2>/dev/null && echo GOT"),
    Attempt(Kind.STOP, "SIGKILL to the pilot", "kill -KILL $PILOT 2>/dev/null && echo GOT"),
)  # fmt: skip
IN_ONE_JOB = (*READ, *CHANGE, *REACH, *STOP)
