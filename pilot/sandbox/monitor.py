"""The monitor page: one self-contained HTML table of jobs, states, diagnoses and log links."""

from __future__ import annotations

import html
import time
from typing import Any

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>PanDA sandbox</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3em .8em; border-bottom: 1px solid #ddd; vertical-align: top; }}
.finished {{ color: #17692b; }} .failed, .cancelled, .closed {{ color: #a31515; }} .running {{ color: #0b5cad; }}
.quiet {{ color: #777; }}
</style></head><body>
<h1>PanDA sandbox</h1>
<p class="quiet">{summary} &middot; {time} UTC &middot; refreshes itself</p>
<table><tr><th>PandaID</th><th>label</th><th>queue</th><th>state</th><th>for</th><th>diagnosis</th><th>logs</th></tr>
{rows}
</table></body></html>
"""
_DIAGNOSES = ("piloterror", "exeerror", "ddmerror", "jobdispatchererror", "taskbuffererror")


def page(jobs: list[dict[str, Any]], now: float) -> str:
    """The page for all jobs, newest first; every text from a job is escaped."""
    states: dict[str, int] = {}
    for job in jobs:
        states[job["status"]] = states.get(job["status"], 0) + 1
    summary = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no jobs yet"
    rows = "\n".join(_row(job, now) for job in reversed(jobs))
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
    return _PAGE.format(summary=html.escape(summary), time=clock, rows=rows)


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


def _row(job: dict[str, Any], now: float) -> str:
    fields = job["fields"]
    state = html.escape(job["status"])
    sub = (
        f" <span class='quiet'>({html.escape(str(fields['jobsubstatus']))})</span>"
        if fields.get("jobsubstatus")
        else ""
    )
    return (
        f"<tr><td>{job['panda_id']}</td><td>{html.escape(job['label'])}</td><td>{html.escape(job['site'])}</td>"
        f"<td class='{state}'>{state}{sub}</td><td>{_span(now - job['modified'])}</td>"
        f"<td>{html.escape(diagnosis(fields))}</td><td>{_links(log_url(fields))}</td></tr>"
    )


def _links(url: str | None) -> str:
    if url is None:
        return ""
    links = [("log", url)]
    if url.endswith("pilotlog.txt"):
        base = url.removesuffix("pilotlog.txt")
        links += [("stdout", f"{base}payload.stdout"), ("stderr", f"{base}payload.stderr")]
    return " ".join(f"<a href='{html.escape(target, quote=True)}'>{name}</a>" for name, target in links)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
