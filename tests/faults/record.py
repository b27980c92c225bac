"""``python -m tests.faults.record FOLDER``: record journals of real pilots, for tests/data/journals."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from pilot.runtime.probe import Point
from tests.faults.laboratory import Laboratory
from tests.faults.plan import Fault, Plan, Strike

PLANS = (
    Plan("finished", 1, ()),
    Plan("sigterm", 2, (Strike(Point.PAYLOAD_RUNNING, Fault.SIGTERM),)),
    Plan("killed-by-server", 3, (Strike(Point.KILL_RECEIVED, Fault.PAYLOAD_KILLED),)),
    Plan("breach", 4, (Strike(Point.BREACH_SEEN, Fault.PAYLOAD_KILLED),)),
    Plan("lost-before-payload", 5, (Strike(Point.DOWNLOAD_BEGUN, Fault.KILL),)),
    Plan("lost-in-payload", 6, (Strike(Point.PAYLOAD_RUNNING, Fault.KILL),)),
    Plan("lost-in-stage-out", 7, (Strike(Point.UPLOAD_BEGUN, Fault.KILL),)),
    Plan("lost-while-reporting", 8, (Strike(Point.FINAL_SENDING, Fault.KILL),), apis="legacy"),
    Plan("fsync-fails", 9, (Strike(Point.PREPARED, Fault.FSYNC_EIO),)),
)


def main() -> int:
    into = Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Laboratory(Path(folder), record_journals=True) as laboratory:
        for plan in PLANS:
            result = laboratory.run(plan)
            print(f"{plan.name}: {result.final_state}{'' if result.held else ', BROKEN'}")
            shutil.copy(Path(folder) / plan.name / "journal-operations", into / f"{plan.name}.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
