"""PanDA's pilot error codes, the pilot's exit codes, and the tree of errors that end a stage.

The numbers and texts are the field's own: the server's retry rules match on the code and on the start of the diagnosis
(the server cuts a diagnosis at 500 characters), so a code is never given to anything but what it names.

    StageError                   a stage of a job cannot go on; becomes an Outcome in jobrun.py
    PilotCannotWork              the pilot itself cannot work; becomes an exit code in cli.py
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

DIAG_MAX_CHARS = 500  # pilotErrorDiag and exeErrorDiag columns (server rule)


class PilotError(Enum):
    """``pilotErrorCode`` and its text."""

    GENERAL = (1008, "General pilot error, consult batch log")
    NO_LOCAL_SPACE = (1098, "Not enough local space")
    STAGE_IN_FAILED = (1099, "Failed to stage-in file")
    REPLICA_NOT_FOUND = (1100, "Replica not found")
    NO_SUCH_FILE = (1103, "No such file or directory")
    WORKDIR_TOO_LARGE = (1104, "User work directory too large")
    STDOUT_TOO_BIG = (1106, "Payload log or stdout file too big")
    SETUP_FAILURE = (1110, "Failed during payload setup")
    QUEUEDATA = (1116, "Pilot could not download queuedata")
    QUEUEDATA_NOT_OK = (1117, "Pilot found non-valid queuedata")
    OUTPUT_FILE_TOO_LARGE = (1124, "Output file too large")
    NO_STORAGE = (1133, "Fetching default storage failed: no activity related storage defined")
    STAGE_OUT_FAILED = (1137, "Failed to stage-out file")
    PUT_MD5_MISMATCH = (1141, "md5sum mismatch on output file")
    PANDA_KILL = (1144, "This job was killed by panda server")
    GET_MD5_MISMATCH = (1145, "md5sum mismatch on input file")
    TRF_DOWNLOAD_FAILURE = (1149, "Transform could not be downloaded")
    LOOPING_JOB = (1150, "Looping job killed by pilot")
    STAGE_IN_TIMEOUT = (1151, "File transfer timed out during stage-in")
    STAGE_OUT_TIMEOUT = (1152, "File transfer timed out during stage-out")
    MISSING_OUTPUT_FILE = (1165, "Local output file is missing")
    SIZE_TOO_LARGE = (1168, "Total file size too large")
    GET_AD_MISMATCH = (1171, "adler32 mismatch on input file")
    PUT_AD_MISMATCH = (1172, "adler32 mismatch on output file")
    LFN_TOO_LONG = (1190, "LFN too long (exceeding limit of 255 characters)")
    ZERO_FILE_SIZE = (1191, "File size cannot be zero")
    MKDIR = (1199, "Failed to create directory")
    KILL_SIGNAL = (1200, "Job terminated by unknown kill signal")
    SIGTERM = (1201, "Job killed by signal: SIGTERM")
    SIGQUIT = (1202, "Job killed by signal: SIGQUIT")
    SIGSEGV = (1203, "Job killed by signal: SIGSEGV")
    SIGXCPU = (1204, "Job killed by signal: SIGXCPU")
    SIGBUS = (1206, "Job killed by signal: SIGBUS")
    SIGUSR1 = (1207, "Job killed by signal: SIGUSR1")
    SIGINT = (1208, "Job killed by signal: SIGINT")
    PAYLOAD_OUT_OF_MEMORY = (1212, "Payload ran out of memory")
    REACHED_MAX_TIME = (1213, "Reached batch system time limit")
    BAD_ALLOC = (1223, "Transform failed due to bad_alloc")
    PAYLOAD_EXCEEDED_MAX_MEM = (1235, "Payload exceeded maximum allowed memory")
    UNKNOWN_EXCEPTION = (1301, "An unknown pilot exception has occurred")
    FILE_HANDLING_FAILURE = (1303, "Failed during file handling")
    PAYLOAD_EXECUTION_FAILURE = (1305, "Failed to execute payload")
    CONTAINER_GENERAL_FAILURE = (1306, "Singularity/Apptainer: general failure")
    CONTAINER_BIND_FAILURE = (1308, "Singularity/Apptainer: Not mounting requested bind point")
    CONTAINER_IMAGE_MOUNT_FAILURE = (1309, "Singularity/Apptainer: Failed to mount image")
    NO_STORAGE_PROTOCOL = (1313, "No protocol defined for storage endpoint")
    UNKNOWN_CHECKSUM_TYPE = (1314, "Unknown checksum type")
    EXCEEDED_MAX_WAIT_TIME = (1317, "Exceeded maximum waiting time")
    COMMUNICATION_FAILURE = (1318, "Failed to communicate with server")
    INTERNAL = (1319, "An internal Pilot problem has occurred (consult Pilot log)")
    LOG_CREATION_FAILURE = (1320, "Failed during creation of log file")
    UNKNOWN_COPYTOOL = (1323, "Unknown copy tool")
    UNREACHABLE_NETWORK = (1327, "Unable to stage-in file since network is unreachable")
    PAYLOAD_SIGSEGV = (1328, "SIGSEGV: Invalid memory reference or a segmentation fault")
    NON_DETERMINISTIC_DDM = (1329, "Failed to construct SURL for non-deterministic ddm (update CRIC)")
    MISSING_INPUT_FILE = (1331, "Input file is missing in storage element")
    NO_REMOTE_SPACE = (1333, "No space left on device")
    STAGE_IN_AUTHENTICATION = (1338, "Authentication failure during stage-in")
    BAD_QUEUE_CONFIGURATION = (1341, "Bad queue configuration detected")
    CONTAINER_USER_NAMESPACE = (1345, "Singularity/Apptainer: Failed to create user namespace")
    EMPTY_OUTPUT_FILE = (1350, "Empty output file detected")
    QUEUE_NOT_ACTIVE = (1359, "PanDA queue is not active")
    IMAGE_NOT_FOUND = (1360, "Image not found")
    MISSING_CREDENTIALS = (1364, "Unable to locate credentials for S3 transfer")
    CHECKSUM_CALC_FAILURE = (1366, "Failure during checksum calculation")
    BAD_OUTPUT_FILE_NAME = (1371, "Output file name contains illegal characters")
    APPTAINER_NOT_INSTALLED = (1372, "Apptainer: not installed")
    PREEMPTION = (1379, "Job was preempted")
    STAGE_OUT_AUTHENTICATION = (1383, "Authentication failure during stage-out")
    QUEUE_NOT_ONLINE = (1386, "PanDA queue is not online")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text


class ExitCode(IntEnum):
    """What the pilot process exits with; Harvester and Kubernetes see it. The numbers are a convention of PanDA's pilots.

    What each means stands in exit_codes.py.
    """

    OK = 0
    USAGE = 2
    GENERAL = 65
    MKDIR = 66
    MISSING_FILE = 67
    CREDENTIALS = 68
    NO_LOCAL_SPACE = 69
    NO_QUEUEDATA = 71
    BAD_QUEUEDATA = 72
    QUEUE_NOT_ACTIVE = 78
    SERVER_COMMUNICATION = 79
    PROXY_TOO_SHORT = 80
    QUEUE_NOT_ONLINE = 83
    SIGINT = 130
    SIGTERM = 143


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """An error code with the particulars in words: ``text`` is the code's own text, ``detail`` what happened here."""

    error: PilotError
    detail: str = ""

    @property
    def code(self) -> int:
        return self.error.code

    def __str__(self) -> str:
        text = f"{self.error.text}: {self.detail}" if self.detail else self.error.text
        return text[:DIAG_MAX_CHARS]


class StageError(Exception):
    """A stage of a job cannot go on. ``retryable`` is a hint for people; the server decides on the code."""

    def __init__(self, error: PilotError, detail: str = "") -> None:
        super().__init__(f"{error.text}: {detail}" if detail else error.text)
        self.diagnosis = Diagnosis(error, detail)


class StageInError(StageError):
    """An input cannot be had: missing, unreadable, of the wrong size or checksum."""


class StageOutError(StageError):
    """An output cannot be stored, or what is stored is not what was written."""


class PayloadError(StageError):
    """The payload cannot be started: command, image or container runtime."""


class PilotCannotWork(Exception):
    """The pilot cannot work at all: one sentence saying what is wrong, where, and what to do; and the exit code."""

    def __init__(self, exit_code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class SettingsError(PilotCannotWork):
    """A flag, variable or settings file holds something the pilot cannot take."""

    def __init__(self, sentence: str) -> None:
        super().__init__(ExitCode.USAGE, sentence)
