"""What each of the pilot's exit codes means, and where to look: the one table. ``--help`` and docs/operate.md show it.

The codes themselves are in errors.py, and what PanDA's codes mean in advice.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilot.job.errors import ExitCode as E


@dataclass(frozen=True, slots=True)
class ExitAdvice:
    """One code: each text is a sentence without its full stop; ``look_at`` is empty where there is nothing to do."""

    code: E
    means: str
    look_at: str = ""


EXIT_ADVICE: tuple[ExitAdvice, ...] = (
    ExitAdvice(E.OK, "duty done, whatever became of the jobs, also when there were none"),
    ExitAdvice(
        E.USAGE, "wrong options or settings", "the sentence on stderr: it names the option and where it came from"
    ),
    ExitAdvice(
        E.GENERAL,
        "payloads cannot be isolated as asked, another pilot uses the work folder, or a thread is stuck",
        "the sentence: it says which, and what the pod lacks",
    ),
    ExitAdvice(E.MKDIR, "work folder cannot be made or written", "--workdir, the volume"),
    ExitAdvice(
        E.MISSING_FILE,
        "a file that was named does not exist, or does not hold exactly one job",
        "--job",
    ),
    ExitAdvice(E.CREDENTIALS, "no valid credentials", "the sentence: it names the file; is it there, is it renewed"),
    ExitAdvice(E.NO_LOCAL_SPACE, "no space on the work volume", "its size, what lies in jobs/, --min-free-mib"),
    ExitAdvice(
        E.NO_QUEUEDATA,
        "queue or its storage unknown, or CRIC silent and nothing cached",
        "--cric, the name of the queue",
    ),
    ExitAdvice(E.BAD_QUEUEDATA, "data of the queue or its storage unusable", "the queue's entry in CRIC"),
    ExitAdvice(E.QUEUE_NOT_ACTIVE, "queue not ACTIVE", "the queue's state in CRIC"),
    ExitAdvice(
        E.SERVER_COMMUNICATION,
        "PanDA server out of reach, or it refuses us; a final report may wait in the work folder",
        "--server, --ca, credentials, the network; a pilot on the same work folder delivers the report",
    ),
    ExitAdvice(E.PROXY_TOO_SHORT, "proxy about to expire", "who renews it"),
    ExitAdvice(E.QUEUE_NOT_ONLINE, "queue offline", "the queue's status in CRIC"),
    ExitAdvice(E.SIGINT, "ended by SIGINT"),
    ExitAdvice(E.SIGTERM, "ended by SIGTERM: deleted, drained or preempted"),
)


def exit_code_rows() -> tuple[str, ...]:
    """The table of docs/operate.md, a Markdown line each."""
    head = ("| code | means | look at |", "| --- | --- | --- |")
    return head + tuple(f"| {advice.code:d} | {advice.means} | {advice.look_at} |" for advice in EXIT_ADVICE)
