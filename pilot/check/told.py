"""What the pilot was told: each setting with where it came from, and what of Harvester's variables is at odds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilot.check.finding import Finding, note, ok, warning

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as people may see it: no value of it is a secret, only names of files that hold one."""

    name: str
    value: str
    source: str


def settings_told(values: Mapping[str, Any], sources: Mapping[str, str], passed_on: tuple[str, ...]) -> list[Setting]:
    """Every setting, those that somebody set first. ``passed_on``: variables of payloads, whose values are nobody's business."""
    told = [Setting(name, _shown(values[name]), source) for name, source in sources.items()]
    told += [Setting(f"payload variable {name}", "present", "environment") for name in passed_on]
    return sorted(told, key=lambda setting: setting.source.startswith(DEFAULT))


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def summary(told: list[Setting]) -> Finding:
    """How many settings came from where."""
    kinds = [setting.source.split()[0] for setting in told if not setting.source.startswith(DEFAULT)]
    words = {"flag": "by flags", "environment": "by the environment", "file": "by the file"}
    counted = ", ".join(f"{kinds.count(kind)} {words.get(kind, kind)}" for kind in dict.fromkeys(kinds))
    return ok("settings", f"understood; set: {counted or 'none, all are defaults'}")


def harvester(
    harvester_id: str | None,
    worker_id: int | None,
    worker_log_upload: str | None,
    worker_log_name: str | None,
    ignored: tuple[str, ...],
) -> list[Finding]:
    """Harvester's variables, where there are any: what does not fit together."""
    name = "Harvester"
    found: list[Finding] = []
    if (harvester_id is None) != (worker_id is None):
        given, missing = ("HARVESTER_ID", "workerID") if worker_id is None else ("workerID", "HARVESTER_ID")
        remedy = f"set {missing} too: Harvester is not told that its worker has started and finished"
        found.append(warning(name, f"{given} is set and {missing} is not", remedy))
    if worker_log_upload and worker_log_name is None and (harvester_id is None or worker_id is None):
        remedy = "set HARVESTER_ID and workerID, or --worker-log-name: the worker log is not handed in"
        found.append(warning(name, "logs_frontend_w is set, and the worker log has no name", remedy))
    if not found and harvester_id is not None:
        found.append(ok(name, f"worker {worker_id} of {harvester_id}"))
    if ignored:
        found.append(note(name, f"{', '.join(ignored)}: of the wrapper this pilot replaces; not used"))
    return found
