"""What each of PanDA's pilot error codes means to a person, who has to act, and what to do: the one table.

The job page shows a code's line; docs/scientist.md shows them all (a test keeps the two alike). The codes and their own
texts are in errors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pilot.job.errors import PilotError as E  # sixty times in one table


class Who(Enum):
    """Who has to act."""

    YOU = "you"
    OPERATORS = "the operators"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice for one or several codes: each text is a sentence without its full stop."""

    errors: tuple[E, ...]
    who: Who
    means: str
    do: str

    @property
    def codes(self) -> tuple[int, ...]:
        return tuple(error.code for error in self.errors)


_TELL = "tell the operators, with the address of this job's logs"
_AGAIN = "nothing: the server tries again by itself"

ADVICE: tuple[Advice, ...] = (
    Advice(
        (E.PAYLOAD_EXECUTION_FAILURE,),
        Who.YOU,
        "your command ended with an exit code that is not 0",
        "read the quoted error, then payload-log.json; exit code 20 of pipetask (with --fail-fast) means that trying again "
        "is useless",
    ),
    Advice(
        (E.PAYLOAD_OUT_OF_MEMORY,),
        Who.YOU,
        "the kernel ran out of memory for the payload and killed it",
        "ask for more memory (requestMemory)",
    ),
    Advice(
        (E.PAYLOAD_EXCEEDED_MAX_MEM,),
        Who.YOU,
        "the pilot stopped the payload above its memory limit, before the kernel did",
        "ask for more memory (requestMemory); the sentence names the figure, the limit and where the limit comes from",
    ),
    Advice(
        (E.BAD_ALLOC,),
        Who.YOU,
        "an allocation failed in the payload (bad_alloc or MemoryError)",
        "ask for more memory (requestMemory)",
    ),
    Advice(
        (E.REACHED_MAX_TIME,),
        Who.YOU,
        "the wall time was used up, the job's own or the pilot's",
        "ask for more time (requestWalltime), or split the job",
    ),
    Advice(
        (E.LOOPING_JOB,),
        Who.YOU,
        "the payload wrote nothing and used no CPU for hours, so the pilot ended it",
        "find out what it waits for: the ends of its logs show where it stood",
    ),
    Advice(
        (E.WORKDIR_TOO_LARGE, E.STDOUT_TOO_BIG, E.OUTPUT_FILE_TOO_LARGE),
        Who.YOU,
        "the work folder, a log or an output file grew too large",
        "write less, or ask the operators for a larger limit",
    ),
    Advice(
        (E.PAYLOAD_SIGSEGV, E.SIGSEGV, E.SIGBUS),
        Who.YOU,
        "the payload crashed: it touched memory that was not its own",
        "a bug in compiled code: run the quantum alone, under a debugger",
    ),
    Advice(
        (E.KILL_SIGNAL, E.SIGQUIT, E.SIGXCPU, E.SIGUSR1),
        Who.YOU,
        "the payload was ended by a signal that neither the pilot nor the server sent",
        "look at the end of payload-log.json; a payload that kills its own processes, or somebody on the node, did it",
    ),
    Advice(
        (E.PANDA_KILL,),
        Who.NOBODY,
        "the PanDA server had the job killed, on somebody's request",
        "nothing: nothing is wrong with the job",
    ),
    Advice(
        (E.PREEMPTION, E.SIGTERM, E.SIGINT),
        Who.NOBODY,
        "the node was taken away, or the pod was stopped",
        _AGAIN,
    ),
    Advice(
        (E.COMMUNICATION_FAILURE, E.EXCEEDED_MAX_WAIT_TIME),
        Who.NOBODY,
        "the PanDA server was out of reach for too long",
        _AGAIN,
    ),
    Advice(
        (E.NO_LOCAL_SPACE, E.MKDIR, E.FILE_HANDLING_FAILURE),
        Who.NOBODY,
        "the node's disk is full or cannot be written",
        "nothing: the server tries again elsewhere; tell the operators when it happens often",
    ),
    Advice(
        (E.REPLICA_NOT_FOUND, E.NO_SUCH_FILE, E.MISSING_INPUT_FILE),
        Who.YOU,
        "an input file is not where it should be: the sentence names it",
        "check that the file exists and is registered where the job looks for it",
    ),
    Advice(
        (E.STAGE_IN_FAILED, E.STAGE_IN_TIMEOUT, E.UNREACHABLE_NETWORK),
        Who.NOBODY,
        "an input could not be fetched: the sentence names the file and what the store said",
        "nothing: the server tries again; tell the operators when it happens often",
    ),
    Advice(
        (E.GET_AD_MISMATCH, E.GET_MD5_MISMATCH, E.CHECKSUM_CALC_FAILURE, E.UNKNOWN_CHECKSUM_TYPE),
        Who.YOU,
        "an input is not the file that the catalogue describes: its size or checksum differs",
        "compare the stored file with its catalogue entry, and mend the wrong one",
    ),
    Advice(
        (E.MISSING_OUTPUT_FILE, E.EMPTY_OUTPUT_FILE, E.ZERO_FILE_SIZE),
        Who.YOU,
        "the payload said it was done, and a file it had to make is missing or empty",
        "did the job write the file it declared, under that name, into its own folder?",
    ),
    Advice(
        (E.STAGE_OUT_FAILED, E.STAGE_OUT_TIMEOUT, E.PUT_MD5_MISMATCH, E.PUT_AD_MISMATCH, E.NO_REMOTE_SPACE),
        Who.NOBODY,
        "an output could not be stored: the sentence names the file and what the store said",
        "nothing: the server tries again; tell the operators when it happens often",
    ),
    Advice(
        (E.LFN_TOO_LONG, E.BAD_OUTPUT_FILE_NAME, E.SIZE_TOO_LARGE),
        Who.YOU,
        "the job declares a file that cannot be stored: its name or the total size",
        "give it another name, or split the job",
    ),
    Advice(
        (E.SETUP_FAILURE, E.TRF_DOWNLOAD_FAILURE),
        Who.YOU,
        "the job cannot be run as it is defined",
        "read the sentence and mend the submission",
    ),
    Advice(
        (E.IMAGE_NOT_FOUND,),
        Who.YOU,
        "the container image could not be found or read",
        "check the name of the image in the submission; if it is right, tell the operators",
    ),
    Advice(
        (
            E.CONTAINER_GENERAL_FAILURE,
            E.CONTAINER_BIND_FAILURE,
            E.CONTAINER_IMAGE_MOUNT_FAILURE,
            E.CONTAINER_USER_NAMESPACE,
            E.APPTAINER_NOT_INSTALLED,
        ),
        Who.OPERATORS,
        "the container could not start: it is not your code",
        _TELL,
    ),
    Advice(
        (
            E.STAGE_IN_AUTHENTICATION,
            E.STAGE_OUT_AUTHENTICATION,
            E.MISSING_CREDENTIALS,
            E.NO_STORAGE,
            E.NO_STORAGE_PROTOCOL,
            E.NON_DETERMINISTIC_DDM,
            E.UNKNOWN_COPYTOOL,
        ),
        Who.OPERATORS,
        "the pilot may not use the storage, or its description in CRIC lacks something",
        _TELL,
    ),
    Advice(
        (
            E.QUEUEDATA,
            E.QUEUEDATA_NOT_OK,
            E.BAD_QUEUE_CONFIGURATION,
            E.QUEUE_NOT_ACTIVE,
            E.QUEUE_NOT_ONLINE,
        ),
        Who.OPERATORS,
        "the queue is not online, or its description in CRIC is wrong",
        _TELL,
    ),
    Advice(
        (E.LOG_CREATION_FAILURE,),
        Who.NOBODY,
        "the bundle of the logs could not be made, and without it nothing may be called finished",
        _AGAIN,
    ),
    Advice(
        (E.GENERAL, E.UNKNOWN_EXCEPTION, E.INTERNAL),
        Who.OPERATORS,
        "a part of the pilot itself failed",
        _TELL,
    ),
)

_BY_ERROR: Mapping[E, Advice] = {error: advice for advice in ADVICE for error in advice.errors}


def advice_for(error: E) -> Advice:
    """The advice for a code; every code has one (a test holds this)."""
    return _BY_ERROR[error]


def advice_rows() -> tuple[str, ...]:
    """The table of docs/scientist.md, a Markdown line each."""
    head = ("| code | means | who acts | what to do |", "| --- | --- | --- | --- |")
    return head + tuple(
        f"| {', '.join(str(code) for code in advice.codes)} | {advice.means} | {advice.who.value} | {advice.do} |"
        for advice in ADVICE
    )
