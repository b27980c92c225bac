"""Our final reports, run through the PanDA server's own retry module: does the server do with a failed job what it should?

The module is the one of PyPI's panda-server, downloaded once (by checksum) and never installed. The rules are those the field
has for these codes; they live in the server's database. Without a rule the server tries again plainly.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pilot.job.errors import Diagnosis, PayloadError, PilotError, StageError, StageInError, StageOutError
from pilot.job.model import ApiGeneration
from pilot.job.report import Usage
from pilot.jobrun import run_job
from pilot.ports import Acquired
from pilot.runtime.payload_end import PayloadEnd
from pilot.runtime.stop import Stop, StopKind, StopReason
from tests.unit.parts import WITH_INPUT, WITH_OUTPUT, Bench, Script, definition

HERE = Path(__file__).parent
MEMBER = "pandaserver/taskbuffer/retryModule.py"


@pytest.fixture(scope="session")
def sources() -> Path:
    """The server's source archive, kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilot" / "panda-server"
    if not list(cache.glob("*.tar.gz")):
        # pip, because it knows this machine's package index; a backend that builds nothing, because only a file is read
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            ":all:",
        ]
        command += ["--require-hashes", "-r", str(HERE / "retry-requirements.lock"), "-d", str(cache)]
        environment = {**os.environ, "PYTHONPATH": str(HERE / "no_build")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"panda-server's sources cannot be downloaded: {done.stderr[-500:]}"
    return next(cache.glob("*.tar.gz"))


@pytest.fixture
def retry_module(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The server's module; of what it imports only the loggers, which are ours."""
    with tarfile.open(sources) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith(MEMBER))
        file = archive.extractfile(member)
        assert file is not None
        (tmp_path / "retryModule.py").write_bytes(file.read())
    for name in ("pandacommon", "pandacommon.pandalogger"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, value in (("LogWrapper", lambda logger, _prefix: logger), ("PandaLogger", _Loggers)):
        module = ModuleType(f"pandacommon.pandalogger.{name}")
        setattr(module, name, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    specification = importlib.util.spec_from_file_location("retryModule", tmp_path / "retryModule.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class _Loggers:
    @staticmethod
    def getLogger(name: str) -> logging.Logger:
        return logging.getLogger(name)


def rule(action: str, *, diag: str | None = None, **params: int) -> dict[str, Any]:
    return {
        "error_id": 1,
        "error_diag": diag,
        "action": action,
        "params": params,
        "architecture": None,
        "release": None,
        "wqid": None,
        "active": True,
    }


# What the field has for these codes: more memory for memory, a few tries where more tries cannot help, none for an algorithm's
# own verdict (matched from the start of the diagnosis, as the server does).
RULES = {
    "pilotErrorCode": {
        1212: [rule("increase_memory")],
        1223: [rule("increase_memory")],
        1235: [rule("increase_memory")],
        1213: [rule("limit_retry", maxAttempt=3)],
        1150: [rule("limit_retry", maxAttempt=3)],
        1098: [rule("limit_retry", maxAttempt=4)],
        1104: [rule("limit_retry", maxAttempt=2)],
        1106: [rule("limit_retry", maxAttempt=2)],
        1305: [rule("no_retry", diag="Failed to execute payload: exit code 20: ")],
    }
}
# The other half of the server's processing: a fault of the system gives the attempt back.
SYSTEM = [(1, "pilotErrorCode", 1379, ".*", "system", "Y"), (2, "pilotErrorCode", 1201, ".*", "system", "Y")]


@dataclass
class TaskBuffer:
    """The database as far as the module asks it; keeps what it was told to do."""

    job: SimpleNamespace
    done: list[str] = field(default_factory=list)

    def getRetrialRules(self) -> dict[str, dict[int, list[dict[str, Any]]]]:
        return RULES

    def querySQLS(self, sql: str, variables: object) -> tuple[bool, list[tuple[Any, ...]]]:
        return True, SYSTEM

    def peekJobs(self, ids: list[int], **_how: bool) -> list[SimpleNamespace]:
        return [self.job]

    def increaseRamLimitJobJEDI(self, *_: object) -> None:
        self.done.append("increase_memory")

    def setMaxAttempt(self, job_id: int, task_id: int, files: object, most: int) -> None:
        self.done.append(f"limit_retry {most}")

    def setNoRetry(self, *_: object) -> None:
        self.done.append("no_retry")

    def increase_max_failure(self, *_: object) -> None:
        self.done.append("attempt given back")


class Ends(Script):
    """A payload that ends as it is told, whatever stops it."""

    def __init__(self, end: PayloadEnd) -> None:
        super().__init__()
        self._end = end

    def run(self, stop: Stop, started: Callable[[int], None]) -> PayloadEnd:
        started(12345)
        return self._end


def ended(exit_code: int | None = None, signal: int | None = None, **facts: Any) -> PayloadEnd:
    return PayloadEnd(exit_code, signal, Usage(), 1.0, "plain", **facts)


def stopped(kind: StopKind) -> PayloadEnd:
    return ended(signal=15, stopped_by=StopReason(kind))


def breached(error: PilotError, words: str) -> PayloadEnd:
    return ended(signal=9, stopped_by=StopReason(StopKind.LIMIT, words), breach=Diagnosis(error, words))


def final_of(bench: Bench, job: dict[str, Any]) -> dict[str, Any]:
    assert run_job(Acquired(job, ApiGeneration.V1), bench.parts, bench.volume, bench.stop) is not None
    return dict(bench.server.final)


def actions(retry_module: ModuleType, final: dict[str, Any]) -> list[str]:
    """What the server does after this report; it lists the errors in this order."""
    job = SimpleNamespace(
        PandaID=final["job_id"],
        jediTaskID=9,
        Files=[],
        prodSourceLabel="managed",
        AtlasRelease=None,
        cmtConfig=None,
        workQueue_ID=None,
        minRamCount=1024,
        attemptNr=final["attempt_nr"],
        jobStatus=final["job_status"],
        computingSite="DOMA_LSST_DEV",
        pilotErrorCode=final.get("pilot_error_code", 0),
        pilotErrorDiag=final.get("pilot_error_diag"),
        exeErrorCode=final.get("exe_error_code", 0),
        exeErrorDiag=final.get("exe_error_diag"),
        transExitCode=final.get("trans_exit_code"),
    )
    errors = [
        {"source": source, "error_code": code, "error_diag": diag}
        for source, code, diag in (
            ("pilotErrorCode", job.pilotErrorCode, job.pilotErrorDiag),
            ("exeErrorCode", job.exeErrorCode, job.exeErrorDiag),
            ("transExitCode", job.transExitCode, ""),
        )
        if code
    ]
    assert errors, "a failed job without any code is not even looked at"
    buffer = TaskBuffer(job)
    retry_module.job_failure_postprocessing(buffer, job.PandaID, errors, job.attemptNr)
    return buffer.done


MEMORY, PLAIN, SYSTEM_FAULT = ["increase_memory"], list[str](), ["attempt given back"]


@pytest.mark.parametrize(
    ("end", "code", "done"),
    [
        (ended(exit_code=1, first_error="ValueError: x"), 1305, PLAIN),
        (ended(exit_code=20, first_error="AlgorithmError: no stars"), 1305, ["no_retry"]),
        (ended(exit_code=255), 1305, PLAIN),
        (ended(signal=11), 1328, PLAIN),
        (ended(signal=9), 1200, PLAIN),
        (ended(signal=9, oom_kills=1), 1212, MEMORY),
        (ended(exit_code=137, oom_kills=1), 1212, MEMORY),
        (ended(exit_code=1, first_error="MemoryError: x"), 1223, MEMORY),
        (ended(exit_code=134, first_error="std::bad_alloc"), 1223, MEMORY),
        (breached(PilotError.PAYLOAD_EXCEEDED_MAX_MEM, "4000 MB"), 1235, MEMORY),
        (breached(PilotError.REACHED_MAX_TIME, "61 s"), 1213, ["limit_retry 3"]),
        (breached(PilotError.LOOPING_JOB, "7201 s"), 1150, ["limit_retry 3"]),
        (breached(PilotError.WORKDIR_TOO_LARGE, "20 GB"), 1104, ["limit_retry 2"]),
        (breached(PilotError.STDOUT_TOO_BIG, "3 GB"), 1106, ["limit_retry 2"]),
        (breached(PilotError.NO_LOCAL_SPACE, "full"), 1098, ["limit_retry 4"]),
        (stopped(StopKind.SIGTERM), 1201, SYSTEM_FAULT),
        (stopped(StopKind.SERVER_KILL), 1144, PLAIN),
        (stopped(StopKind.LIFETIME), 1213, ["limit_retry 3"]),
        (stopped(StopKind.SERVER_LOST), 1318, PLAIN),
        (ended(container_message="mount source /x doesn't exist"), 1308, PLAIN),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else None,
)
def test_a_payloads_end_brings_the_action_it_should(
    retry_module: ModuleType, tmp_path: Path, end: PayloadEnd, code: int, done: list[str]
) -> None:
    final = final_of(Bench(tmp_path / "work", payload=Ends(end)), definition())
    assert final["pilot_error_code"] == code
    assert actions(retry_module, final) == done


def test_a_preempted_job_gets_its_attempt_back(retry_module: ModuleType, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "work", payload=Ends(stopped(StopKind.SIGTERM)), preempted=True)
    final = final_of(bench, definition())
    assert final["pilot_error_code"] == 1379
    assert actions(retry_module, final) == SYSTEM_FAULT


@pytest.mark.parametrize(
    "error",
    [
        StageInError(PilotError.STAGE_IN_FAILED, "x"),
        StageOutError(PilotError.STAGE_OUT_FAILED, "x"),
        StageOutError(PilotError.MISSING_OUTPUT_FILE, "out.root"),
        PayloadError(PilotError.IMAGE_NOT_FOUND, "x"),
        PayloadError(PilotError.TRF_DOWNLOAD_FAILURE, "x"),
    ],
    ids=lambda error: str(error.diagnosis.code),
)
def test_a_stage_that_failed_is_tried_again_plainly(
    retry_module: ModuleType, tmp_path: Path, error: StageError
) -> None:
    bench = Bench(tmp_path / "work")
    if isinstance(error, StageInError):
        bench.stager.in_error = error
    elif isinstance(error, StageOutError):
        bench.stager.out_error = error
    else:
        bench.payload.prepare_error = error
    final = final_of(bench, definition(**WITH_INPUT, **WITH_OUTPUT))
    assert final["pilot_error_code"] == error.diagnosis.code
    assert actions(retry_module, final) == PLAIN


def test_a_finished_job_gives_the_server_no_error_to_act_on(tmp_path: Path) -> None:
    final = final_of(Bench(tmp_path / "work"), definition())
    assert final["job_status"] == "finished"
    assert not {"pilot_error_code", "exe_error_code"} & final.keys()
    assert final["trans_exit_code"] == 0
