"""The monitor: a page that shows the jobs while they run, and the data it asks for.

    /monitor                      the page: self-contained, one script without a framework
    /monitor/jobs.json            all jobs, with how deep each lies below its parents
    /monitor/job/ID.json          one job: its updates as the server got them, and the objects beside its log
    /monitor/job/ID/plots.html    what it used over time, drawn from its memory monitor's table
    /monitor/job/ID/tail/NAME     the last bytes of a log
    /monitor/job/ID/file/NAME     an object beside its log as it is, for browsers that do not know the sandbox's authority

Everything a job says is hostile: data go out as JSON and into the page as text; objects go out with a policy that takes
all rights from them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pilot.job.model import Attempt
from pilot.job.report import LEGACY_NAMES
from pilot.logs.page import figures, plots, prmon, story
from pilot.logs.page.style import STYLE
from pilot.sandbox.http_server import Answer, Request
from pilot.sandbox.panda_db import PandaDb
from pilot.sandbox.public_logs import PublicLogs

DATA = Path(__file__).parent / "data"
TAIL_BYTES = 64 << 10
NEWS_MAX_CHARS = 400
JOB_PAGE = "job.html"
TABLE = "memory_monitor_output.txt"
OVER = frozenset({"finished", "failed", "cancelled", "closed"})
_DIAGNOSES = ("piloterror", "exeerror", "ddmerror", "jobdispatchererror", "taskbuffererror")
_V1_NAMES: Mapping[str, str] = {legacy: name for name, legacy in LEGACY_NAMES.items()}
_TOLD_ELSEWHERE = frozenset({"job_id", "job_status", "attempt_nr"})
# A page of a bucket may run its own script, and gets no rights of this origin for it.
_NO_RIGHTS = {"Content-Security-Policy": "sandbox allow-scripts allow-popups", "X-Content-Type-Options": "nosniff"}


def diagnosis(fields: dict[str, Any]) -> str:
    """The error codes and texts of a job in one line."""
    parts = []
    for name in _DIAGNOSES:
        code, text = fields.get(f"{name}code"), fields.get(f"{name}diag")
        if code or text:
            parts.append(f"{name.removesuffix('error')} {code}: {text}" if code else str(text))
    return "; ".join(parts)


def log_url(fields: dict[str, Any]) -> str | None:
    """The link as the real monitor makes it: what stands before the first bar of the pilot id, if it is a URL."""
    url = str(fields.get("pilotid", "")).partition("|")[0]
    return url if url.startswith(("http://", "https://")) and "{" not in url else None


class Monitor:
    """Answers whatever begins with ``/monitor``. ``logs`` None: a world without object stores."""

    def __init__(self, db: PandaDb, logs: PublicLogs | None) -> None:
        self._db = db
        self._logs = logs
        self._page, self._policy = _assembled()
        self._with_page: set[int] = set()
        self._page_tries: dict[int, int] = {}

    def answer(self, request: Request) -> Answer:
        """The answer to a GET of the page or its data."""
        path = request.path.removeprefix("/monitor").strip("/")
        if path == "":
            # The first header makes google-auth take the plain port for a metadata server, which it is.
            headers = {"Metadata-Flavor": "Google", "Content-Security-Policy": self._policy}
            return Answer(200, self._page, "text/html; charset=utf-8", headers)
        if path == "jobs.json":
            return _json({"now": time.time(), "jobs": jobs_view(self._with_pages(self._db.jobs()))}, request)
        number, _, rest = path.removeprefix("job/").partition("/")
        number = number.removesuffix(".json") if not rest else number
        job = self._db.job(int(number)) if number.isdecimal() and len(number) < 19 else None
        if job is None or not path.startswith("job/"):
            return Answer.text(404, "There is no such job.")
        return self._about(job, rest, request)

    def _about(self, job: dict[str, Any], rest: str, request: Request) -> Answer:
        kind, _, name = rest.partition("/")
        name = unquote(name)
        url = log_url(job["fields"])
        if kind == "":
            return _json(self._job_view(job, url), request)
        if kind == "plots.html" and not name:
            return Answer.text(200, self._plots(url), "text/html; charset=utf-8")
        if kind == "tail":
            tail = self._logs.read(url, name, TAIL_BYTES) if self._logs else None
            return _no_object() if tail is None else Answer(200, tail, "text/plain; charset=utf-8", _NO_RIGHTS)
        if kind == "file":
            content = self._logs.read(url, name) if self._logs else None
            return _no_object() if content is None else Answer(200, content, _content_type(name), _NO_RIGHTS)
        return Answer.text(404, "There is no such page.")

    def _with_pages(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The jobs, each with whether its page is stored. Asked for a few at a time, and not for ever."""
        asked = 0
        for job in jobs:
            panda_id, url = job["panda_id"], log_url(job["fields"])
            tries = self._page_tries.get(panda_id, 0)
            if self._logs and job["status"] in OVER and panda_id not in self._with_page and tries < 3 and asked < 10:
                asked += 1
                self._page_tries[panda_id] = tries + 1
                if any(entry.name == JOB_PAGE for entry in self._logs.listing(url)):
                    self._with_page.add(panda_id)
            job["page"] = panda_id in self._with_page
        return jobs

    def _job_view(self, job: dict[str, Any], url: str | None) -> dict[str, Any]:
        panda_id = job["panda_id"]
        objects = self._logs.listing(url) if self._logs else ()
        return {
            "id": panda_id,
            "status": job["status"],
            "attempt": job["attempt_nr"],
            "definition": {
                name: str(value)[:NEWS_MAX_CHARS] for name, value in sorted(job["definition"].items()) if value
            },
            "updates": list(updates_view(self._db.ledger_naming(str(panda_id)), panda_id)),
            "objects": [{"name": entry.name, "size": entry.size_bytes} for entry in objects],
        }

    def _plots(self, url: str | None) -> str:
        """The plots as a piece of HTML, every text in it escaped; empty when there is nothing to draw."""
        table = self._logs.read(url, TABLE) if self._logs else None
        points = prmon.read_table((table or b"").decode("utf-8", "replace"))
        told = story.JobStory(Attempt(0, 0), 0.0, points=points)
        return "".join(str(plots.draw(plot)) for plot in figures.plots_of(told))


def jobs_view(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of all jobs, oldest first. ``depth``: 0 without parents, else one more than the deepest parent."""
    depths = depths_of({job["panda_id"]: job["parents"] for job in jobs})
    return [
        {
            "id": job["panda_id"],
            "label": job["label"],
            "queue": job["site"],
            "status": job["status"],
            "sub": str(job["fields"].get("jobsubstatus") or ""),
            "since": job["modified"],
            "diagnosis": diagnosis(job["fields"]),
            "log": log_url(job["fields"]),
            "page": bool(job.get("page")),
            "parents": job["parents"],
            "depth": depths[job["panda_id"]],
        }
        for job in jobs
    ]


def depths_of(parents: Mapping[int, list[int]]) -> dict[int, int]:
    """How deep each job lies. Unknown parents count as none; a circle cannot be submitted."""
    depths: dict[int, int] = {}
    todo = list(parents)
    while todo:
        panda_id = todo[-1]
        known = [parent for parent in parents[panda_id] if parent in parents]
        missing = [parent for parent in known if parent not in depths]
        if missing and panda_id not in depths:
            todo += missing
            continue
        depths[panda_id] = max((depths[parent] + 1 for parent in known), default=0)
        todo.pop()
    return depths


def updates_view(entries: list[dict[str, Any]], panda_id: int) -> Iterator[dict[str, Any]]:
    """A job's updates in order: when, the state told, what was new against the update before, and what the server answered."""
    before: dict[str, str] = {}
    for entry in entries:
        if entry["path"].endswith(("/acquire_jobs", "/getJob")) and entry["status"] is not None:
            yield {"at": entry["arrived"], "state": "sent", "news": [], "answer": "", "fault": entry["fault"] or ""}
        for told in _updates_in(entry, panda_id):
            state = told.get("job_status", "")
            news = [
                [name, text] for name, text in told.items() if before.get(name) != text and name not in _TOLD_ELSEWHERE
            ]
            before = told
            answer = _command(entry["answer"] or "")
            yield {
                "at": entry["arrived"],
                "state": state,
                "news": news,
                "answer": answer,
                "fault": entry["fault"] or "",
            }


def _updates_in(entry: dict[str, Any], panda_id: int) -> Iterator[dict[str, str]]:
    """The updates of the job in one request, of either API generation, in v1's names."""
    verb = entry["path"].partition("?")[0].rpartition("/")[2]
    if verb not in ("update_job", "update_jobs_bulk", "updateJob", "updateJobsInBulk"):
        return
    try:
        body = json.loads(entry["body"] or "null")
        listed = body.get("job_list") or body.get("jobList") if isinstance(body, dict) else None
        listed = json.loads(listed) if isinstance(listed, str) else listed
    except (ValueError, RecursionError):
        return
    for update in listed if isinstance(listed, list) else [body]:
        if isinstance(update, dict):
            told = {_V1_NAMES.get(str(name), str(name)): str(value)[:NEWS_MAX_CHARS] for name, value in update.items()}
            if told.get("job_id") == str(panda_id):
                yield told


def _command(answer: str) -> str:
    """The command in an answer, such as ``tobekilled``; empty when there is none."""
    for command in ("tobekilled", "debugoff", "debug", "tail", "softkill"):
        if command in answer:
            return command
    return ""


def _assembled() -> tuple[bytes, str]:
    """The page with its style and script in it, and the policy that allows these two and nothing else."""
    parts = {name: (DATA / f"monitor.{name}").read_text() for name in ("html", "css", "js")}
    parts["css"] = STYLE + parts["css"]
    hashes = {name: _hash(parts[name]) for name in ("css", "js")}
    text = parts["html"].replace("/*STYLE*/", parts["css"]).replace("/*SCRIPT*/", parts["js"])
    policy = (
        f"default-src 'none'; style-src '{hashes['css']}'; script-src '{hashes['js']}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(value: dict[str, Any], request: Request) -> Answer:
    """The value, or 304 when the browser has it already; ``now`` alone makes no difference."""
    tag = hashlib.sha256(json.dumps({**value, "now": 0}, sort_keys=True).encode()).hexdigest()[:32]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
    if request.header("If-None-Match") == f'"{tag}"':
        return Answer(304, b"", "application/json", headers)
    return Answer(200, json.dumps(value).encode(), "application/json", headers)


def _content_type(name: str) -> str:
    if name.endswith(".html"):
        return "text/html; charset=utf-8"
    return "application/gzip" if name.endswith((".tgz", ".gz")) else "text/plain; charset=utf-8"


def _no_object() -> Answer:
    return Answer.text(404, "There is no such object beside this job's log.")
