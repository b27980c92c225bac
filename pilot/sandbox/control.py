"""The client of a running sandbox, for tests and for the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import requests

REQUEST_TIMEOUT_S = 30.0
_POLL_S = 0.03
_HEADING_CHARS = 60  # of an answer's first line, which repeats the command


class SandboxError(RuntimeError):
    """The sandbox is not there or refused an order; the message says which."""


class Sandbox:
    """Speaks to the sandbox of a state folder. Every call is one request; errors are SandboxError with a sentence."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        try:
            self.about: dict[str, Any] = json.loads((state_dir / "sandbox.json").read_text())
            token = (state_dir / "admin-token").read_text()
        except (OSError, ValueError):
            raise SandboxError(f"No sandbox has run in {state_dir}: start one with `pilot-sandbox run`.") from None
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["X-Sandbox-Token"] = token

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # jobs

    def submit(self, entries: list[dict[str, Any]]) -> list[int]:
        """Submit `[{label, parents, pseudo_input?, job}, ...]`; the new PandaIDs in the same order."""
        ids: list[int] = self._call("submit", jobs=entries)
        return ids

    def submit_job(self, **job: Any) -> int:
        """Submit one job given by its dispatcher keys; at least `transformation`, usually `jobPars`."""
        return self.submit([{"label": job.get("jobName", "job"), "job": job}])[0]

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first: panda_id, status, attempt_nr, label, parents, command, fields, files, table, ..."""
        jobs: list[dict[str, Any]] = self._call("jobs")
        return jobs

    def job(self, panda_id: int) -> dict[str, Any]:
        job = self._call("job", panda_id=panda_id)
        if job is None:
            raise SandboxError(f"The sandbox knows no job {panda_id}.")
        found: dict[str, Any] = job
        return found

    def wait_for(self, panda_id: int, states: Collection[str], timeout_s: float = 30.0) -> dict[str, Any]:
        """The job once its status is one of `states`; SandboxError when it is not within `timeout_s`."""
        end = time.monotonic() + timeout_s
        while True:
            job = self.job(panda_id)
            if job["status"] in states:
                return job
            if time.monotonic() > end:
                wanted = " or ".join(sorted(states))
                raise SandboxError(f"Job {panda_id} is {job['status']} after {timeout_s:g} s, not {wanted}.")
            time.sleep(_POLL_S)

    def kill(self, panda_id: int) -> bool:
        """Kill a job as an operator would; False when it is unknown or over."""
        return bool(self._call("kill", panda_id=panda_id))

    def debug(self, panda_id: int, on: bool = True) -> bool:
        return bool(self._call("debug", panda_id=panda_id, on=on))

    def command(self, panda_id: int, command: str) -> bool:
        """Give the pilot of a job an operator's command, such as `tail payload.log`."""
        return bool(self._call("command", panda_id=panda_id, command=command))

    def ask(self, panda_id: int, command: str, timeout_s: float) -> str | None:
        """Put a job into debug mode with this command, as an operator would; the pilot's answer, None when none came in time.

        ``debug`` and ``debugoff`` are the mode itself; nothing is waited for then.
        """
        end, seen = time.monotonic() + timeout_s, max((entry["seq"] for entry in self.ledger()), default=0)
        if not self.debug(panda_id, command != "debugoff"):
            raise SandboxError(f"The sandbox knows no job {panda_id}.")
        if command in ("debug", "debugoff"):
            return ""
        self.command(panda_id, command)
        while time.monotonic() < end:
            for entry in self.ledger(seen):
                told = _told_stdout(entry, panda_id)
                if told is not None and told.startswith(f"> {command.split(',')[0].strip()[:_HEADING_CHARS]}"):
                    return told
            time.sleep(_POLL_S)
        return None

    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self._call("workers")
        return workers

    def ledger(self, after_seq: int = 0) -> list[dict[str, Any]]:
        """Every request since: seq, server, arrived, committed, method, path, caller, body, fault, status, answer."""
        entries: list[dict[str, Any]] = self._call("ledger", after_seq=after_seq)
        return entries

    def run_adder(self) -> None:
        self._call("run_adder")

    # faults

    def fault(self, kind: str, **options: Any) -> None:
        """The next `count` requests whose path holds `path` go wrong; kinds and options are those of `faults.Fault`."""
        self._call("fault", kind=kind, **options)

    def faults(self) -> list[dict[str, Any]]:
        """The faults not yet used up."""
        faults: list[dict[str, Any]] = self._call("faults")
        return faults

    def clear_faults(self) -> None:
        self._call("clear_faults")

    def down(self, server: str = "panda", seconds: float | None = None) -> None:
        """Refuse connections to `panda`, `cric` or `google` for wall-clock seconds, or until `up`."""
        self._call("down", server=server, seconds=seconds)

    def up(self, server: str = "panda") -> None:
        self._call("up", server=server)

    def set_apis(self, apis: str) -> None:
        self._call("apis", apis=apis)

    def expire_tokens(self) -> None:
        self._call("expire_tokens")

    def renew_token(self, lifetime_s: float | None = None) -> None:
        self._call("renew_token", lifetime_s=lifetime_s)

    def ban(self, name: str) -> None:
        self._call("ban", name=name)

    def unban(self, name: str) -> None:
        self._call("unban", name=name)

    def set_oauth(self, mode: str) -> None:
        """Google's token endpoints: "ok", "expired", or an HTTP status such as "401"."""
        self._call("oauth", mode=mode)

    def preempt(self, on: bool = True) -> None:
        self._call("preempt", on=on)

    # CRIC

    def set_queue(self, name: str, **values: Any) -> None:
        """Change fields of a queue; an unknown name adds a queue like DOMA_LSST_DEV."""
        self._call("queue", name=name, values=values)

    def set_endpoint(self, name: str, description: dict[str, Any]) -> None:
        self._call("endpoint", name=name, description=description)

    def _call(self, verb: str, **given: Any) -> Any:
        url = f"{self.about['control']}/sandbox/{verb}"
        try:
            answer = self._session.post(url, json=given, timeout=REQUEST_TIMEOUT_S)
            content = answer.json()
        except (requests.RequestException, ValueError):
            raise SandboxError(
                f"The sandbox in {self.state_dir} does not answer; is `pilot-sandbox run` alive?"
            ) from None
        if answer.status_code != 200:
            raise SandboxError(content["error"])
        return content["result"]


def _told_stdout(entry: dict[str, Any], panda_id: int) -> str | None:
    """What an update of this job told in ``stdout``; None for any other entry of the ledger."""
    try:
        body = json.loads(entry["body"] or "{}")
        told = body.get("stdout") if str(body.get("job_id", body.get("jobId"))) == str(panda_id) else None
    except (ValueError, AttributeError):
        return None
    return told if isinstance(told, str) else None
