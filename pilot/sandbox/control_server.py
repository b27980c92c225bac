"""The operator's side of the sandbox: `/sandbox/<verb>` with the admin token, JSON in and out."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pilot.sandbox.faults import make_fault
from pilot.sandbox.http_server import Answer, Request
from pilot.sandbox.submission import BadSubmission, check_submission

if TYPE_CHECKING:
    from pilot.sandbox.world import World

OPERATOR_DN = "/DC=org/DC=example/OU=People/CN=Sandbox Operator"


class ControlServer:
    """Each public verb takes the decoded JSON object of the request and returns what the answer holds."""

    def __init__(self, world: World, token: str) -> None:
        self._world = world
        self._token = token
        self._verbs: dict[str, Callable[[dict[str, Any]], Any]] = {
            "submit": self._submit,
            "jobs": lambda _: [self._full(job) for job in world.db.jobs()],
            "job": lambda given: self._full(world.db.job(int(given["panda_id"]))),
            "kill": lambda given: world.dispatcher.kill(int(given["panda_id"]), OPERATOR_DN),
            "debug": lambda given: world.dispatcher.set_debug(int(given["panda_id"]), bool(given["on"])),
            "command": lambda given: world.dispatcher.set_command(int(given["panda_id"]), str(given["command"])),
            "workers": lambda _: world.db.workers(),
            "ledger": lambda given: world.db.ledger(int(given.get("after_seq", 0))),
            "fault": lambda given: world.faults.add(make_fault(**given)),
            "faults": lambda _: world.faults.pending(),
            "clear_faults": lambda _: world.faults.clear(),
            "down": lambda given: world.take_down(given.get("server", "panda"), given.get("seconds")),
            "up": lambda given: world.bring_up(given.get("server", "panda")),
            "apis": lambda given: world.panda.set_apis(given["apis"]),
            "expire_tokens": lambda _: world.issuer.expire_all(),
            "renew_token": lambda given: world.renew_token(lifetime_s=given.get("lifetime_s")),
            "ban": lambda given: world.callers.banned.add(given["name"]),
            "unban": lambda given: world.callers.banned.discard(given["name"]),
            "oauth": lambda given: setattr(world.google, "mode", str(given["mode"])),
            "preempt": lambda given: setattr(world.google, "preempted", bool(given["on"])),
            "queue": lambda given: world.cric.set_queue(given["name"], given["values"]),
            "endpoint": lambda given: world.cric.set_endpoint(given["name"], given["description"]),
            "run_adder": lambda _: world.run_adder(),
        }

    def answer(self, request: Request) -> Answer:
        if not hmac.compare_digest(request.header("X-Sandbox-Token").encode(), self._token.encode()):
            return _json(403, {"error": "The admin token is missing or wrong; it is in the state folder."})
        verb = self._verbs.get(request.path.removeprefix("/sandbox/"))
        if verb is None:
            return _json(404, {"error": f"There is no {request.path}; known are {', '.join(self._verbs)}."})
        try:
            given = json.loads(request.body or b"{}")
            return _json(200, {"result": verb(given)})
        except BadSubmission as error:
            return _json(400, {"error": str(error)})
        except KeyError as error:
            return _json(400, {"error": f"{request.path} needs {error}."})
        except (TypeError, ValueError) as error:
            return _json(400, {"error": str(error)})

    def _submit(self, given: dict[str, Any]) -> list[int]:
        return self._world.dispatcher.submit(check_submission(given["jobs"]))

    def _full(self, job: dict[str, Any] | None) -> dict[str, Any] | None:
        if job is None:
            return None
        table = "jobsarchived4" if job["archived"] else "jobsdefined4" if job["status"] == "defined" else "jobsactive4"
        return {**job, "table": table, "files": self._world.db.files(job["panda_id"])}


def _json(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/json")
