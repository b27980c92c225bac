"""From a JobStory to the job page: one HTML text, self-contained, with no request to anywhere else and no need of a script.

Every text of a story is hostile. htpy escapes each, as content and as attribute; links are made from names by quoting or
kept to http and https. A policy in the page itself forbids all but its own style and script, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from htpy import (
    Element,
    Node,
    a,
    b,
    body,
    button,
    code,
    dd,
    details,
    div,
    dl,
    dt,
    footer,
    h1,
    h2,
    head,
    header,
    html,
    li,
    link,
    main,
    meta,
    ol,
    p,
    pre,
    script,
    section,
    span,
    style,
    summary,
    svg,
    table,
    tbody,
    td,
    th,
    thead,
    title,
    tr,
    ul,
)
from markupsafe import Markup

from pilot.job.advice import Advice, Who, advice_for
from pilot.job.errors import PilotError
from pilot.job.states import JobState
from pilot.logs.page import words
from pilot.logs.page.figures import plots_of
from pilot.logs.page.plots import draw, short_time, time_ticks
from pilot.logs.page.story import Direction, JobStory, LogStory, StageSpan, TransferStory, cleaned
from pilot.logs.page.style import SCRIPT, STYLE

PAGE_NAME = "job.html"
CONTENT_TYPE = "text/html; charset=utf-8"
_KINDS = {
    PilotError.PANDA_KILL: "Killed",
    PilotError.PREEMPTION: "Preempted",
    PilotError.SIGTERM: "Stopped",
    PilotError.SIGINT: "Stopped",
}
_RUNGS = {
    "A": "in a container",
    "B": "as another user, no container",
    "C": "with Landlock, no container",
    "D": "not isolated from the pilot",
}
_ARROWS = {Direction.IN: "in", Direction.OUT: "out"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for people. ``kind`` is its colour: ok, failed, stopped (nobody's fault), running."""

    kind: str
    headline: str
    sentence: str = ""
    advice: Advice | None = None


def job_page(story: JobStory) -> str:
    """The page. ``story`` must have passed the redactor (``story.cleaned``)."""
    story = cleaned(story, words.plain)
    verdict = verdict_of(story)
    name = f"Job {story.attempt.panda_id}"
    policy = (
        f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = html(lang="en")[
        head[
            meta(charset="utf-8"),
            meta(http_equiv="Content-Security-Policy", content=policy),
            meta(name="viewport", content="width=device-width, initial-scale=1"),
            meta(name="referrer", content="no-referrer"),
            meta(name="robots", content="noindex"),
            title[f"{name}: {verdict.headline}"],
            link(rel="icon", href="data:,"),
            style[Markup(STYLE)],  # noqa: S704  (our own)
        ],
        body[
            header[p(".job")[_job_line(story)]],
            main[
                _verdict(story, verdict),
                _figures(story),
                _first_error(story),
                _stages(story, verdict),
                _plots(story),
                _transfers(story),
                _logs(story, verdict),
                _where(story),
                _replay(story),
            ],
            footer[
                p[
                    f"Written {words.moment(story.written_at_s)}",
                    story.where.pilot_version and f" by pilot {story.where.pilot_version}",
                    ". Times on the axes count from the moment the job was acquired. 1 MB is 2",
                    Element("sup")["20"],
                    " bytes, as in PanDA. Secrets were taken out of all texts before they were put here.",
                ]
            ],
            script[Markup(SCRIPT)],  # noqa: S704  (our own)
        ],
    ]
    return "".join(page.iter_chunks())  # a plain text, no Markup that would escape what it is joined with


def verdict_of(story: JobStory) -> Verdict:
    """The outcome in words, and what to do about it."""
    outcome = story.outcome
    if outcome is None:
        return Verdict("running", "Still at work", "The job was not over when this page was written.")
    if outcome.pilot_error is None:
        return Verdict(*_without_error(story, outcome.state))
    error, detail = outcome.pilot_error.error, outcome.pilot_error.detail
    advice = advice_for(error)
    kind = "stopped" if advice.who is Who.NOBODY else "failed"
    word = _KINDS.get(error, "Failed")
    said = word.lower() in error.text.lower()
    return Verdict(kind, error.text if said else f"{word}: {error.text}", detail, advice)


def _without_error(story: JobStory, state: JobState) -> tuple[str, str, str]:
    if state is not JobState.FINISHED:
        return "failed", f"Ended as {state.value}", ""
    if story.outcome is not None and story.outcome.notes.get("noWork"):
        return "ok", "Finished: there was nothing to do", "The payload found no work for this data, which is a success."
    stored = sum(1 for t in story.transfers if t.direction is Direction.OUT and not t.problem)
    outputs = (
        f"{stored} output{'s' if stored != 1 else ''} stored and verified" if stored else "no output had to be stored"
    )
    return "ok", "Finished", f"Exit code 0; {outputs}."


# --- the parts, top to bottom -----------------------------------------------------------------------------------------


def _job_line(story: JobStory) -> Node:
    parts = [f"PandaID {story.attempt.panda_id}, attempt {story.attempt.attempt_nr}"]
    if story.task_id is not None:
        parts.append(f"task {story.task_id}")
    parts += [text for text in (story.name, story.where.queue) if text]
    return " · ".join(parts)


def _verdict(story: JobStory, verdict: Verdict) -> Node:
    outcome = story.outcome
    rows: list[tuple[str, Node]] = []
    if verdict.advice is not None:
        rows += [("What it means", _sentence(verdict.advice.means))]
        rows += [("What to do", span(".do")[_sentence(verdict.advice.do)])]
        rows += [("Who has to act", _sentence(verdict.advice.who.value))]
    if outcome is not None and outcome.pilot_error is not None:
        exit_code = outcome.trans_exit_code
        ended = "" if exit_code is None else f", exit code of the payload {exit_code}"
        rows += [("Told to PanDA", f"{outcome.state.value}, pilotErrorCode {outcome.pilot_error.code}{ended}")]
    return section(f".verdict.{verdict.kind}")[
        h1[verdict.headline],
        verdict.sentence and p[verdict.sentence],
        rows and dl[((dt[name], dd[text]) for name, text in rows)],
    ]


def _figures(story: JobStory) -> Node:
    cards = list(_cards(story))
    return (
        cards
        and ul(".figures", aria_label="Key figures")[
            (
                li({"class": "over"} if over else {})[span(".name")[name], b[value], note and span[note]]
                for name, value, note, over in cards
            )
        ]
    )


def _cards(story: JobStory) -> Iterator[tuple[str, str, str, bool]]:
    """Name, value, note, and whether a limit was exceeded, of each key figure."""
    usage, limits, payload = story.usage, story.limits, story.payload
    wall_s = payload.end_s - payload.begin_s if payload and payload.end_s is not None else None
    if wall_s is not None:
        yield _card("Payload ran for", wall_s, limits.walltime_s, words.duration)
    if usage is not None:
        cores = story.resources.core_count if story.resources else 0
        share = words.share(usage.cpu_s, (wall_s or 0.0) * cores)
        of_cores = f"{share} of {cores} core{'s' if cores > 1 else ''}" if wall_s and cores else ""
        yield "CPU time", words.duration(usage.cpu_s), of_cores, False
        peak = usage.max_rss_bytes if usage.pss_is_rss else usage.max_pss_bytes
        yield _card("Peak memory", peak, limits.memory_bytes, words.size)
    disk = max((point.disk_bytes for point in story.points if point.disk_bytes is not None), default=None)
    if disk is not None:
        yield _card("Peak work folder", disk, limits.workdir_bytes, words.size)
    if story.points:
        last = story.points[-1]
        yield "Read", words.size(last.read_bytes), f"{words.size(last.disk_read_bytes)} from a disk", False
        yield "Written", words.size(last.written_bytes), f"{words.size(last.disk_written_bytes)} to a disk", False
    if story.outcome is not None and story.outcome.trans_exit_code is not None:
        yield "Exit code", str(story.outcome.trans_exit_code), "of the payload", False


def _first_error(story: JobStory) -> Node:
    error = story.error
    return (
        error is not None
        and section[
            h2["The payload's first error"],
            p[error.text, error.found_in and span(".quiet")[" (from ", _to(error.found_in), ")"]],
            error.traceback and pre(".traceback", tabindex="0")[error.traceback],
        ]
    )


def _stages(story: JobStory, verdict: Verdict) -> Node:
    if not story.stages:
        return section[h2["Time line"], p["No stage was begun."]]
    begin_s = min(stage.begin_s for stage in story.stages)
    ends_s = [stage.begin_s if stage.end_s is None else stage.end_s for stage in story.stages]
    if story.acquired_at_s is not None and any(stage.end_s is None for stage in story.stages):
        ends_s.append(story.written_at_s - story.acquired_at_s)
    end_s = max(*ends_s, begin_s + 0.01)
    return section(f".{verdict.kind}")[
        h2["Time line"],
        ol(".stages")[
            (_stage(stage, begin_s, end_s) for stage in story.stages),
            li(".axis", aria_hidden="true")[span, svg(aria_hidden="true")[_stage_axis(begin_s, end_s)], span],
        ],
        story.acquired_at_s is not None and p(".quiet")[f"Acquired {words.moment(story.acquired_at_s)}."],
        bool(story.events) and ul[(li[f"{words.duration(e.at_s)}: {e.text}"] for e in story.events)],
    ]


def _stage(stage: StageSpan, begin_s: float, end_s: float) -> Node:
    left = 100 * (stage.begin_s - begin_s) / (end_s - begin_s)
    until_s = end_s if stage.end_s is None else stage.end_s
    width = 100 * max(0.0, until_s - stage.begin_s) / (end_s - begin_s)
    kind = f"bar{' guilty' if stage.failed else ''}{' open' if stage.end_s is None else ''}"
    took = "not over" if stage.end_s is None else words.duration(stage.end_s - stage.begin_s)
    rect = Element("rect")
    return li[
        span[stage.name],
        svg(aria_hidden="true")[
            rect({"class": "track", "width": "100%", "height": "100%", "rx": "3"}),
            rect(
                {"class": kind, "x": f"{left:.2f}%", "width": f"{width:.2f}%", "y": "15%", "height": "70%", "rx": "1"}
            ),
        ],
        span(".took")[took, stage.failed and [span(aria_hidden="true")[" ✗"], span(".unseen")[", failed"]]],
    ]


def _stage_axis(begin_s: float, end_s: float) -> Iterator[Node]:
    for tick in time_ticks(begin_s, end_s, most=5):
        share = (tick - begin_s) / (end_s - begin_s)
        anchor = "start" if share < 0.04 else "end" if share > 0.93 else "middle"
        yield Element("text")({"x": f"{100 * share:.2f}%", "y": "1em", "text-anchor": anchor})[short_time(tick)]


def _plots(story: JobStory) -> Node:
    plots = plots_of(story)
    if plots:
        return section[h2["What it used over time"], map(draw, plots)]
    why = (
        "The payload was not started." if story.payload is None else "The payload was over before it could be measured."
    )
    return section[h2["What it used over time"], p[why]]


def _transfers(story: JobStory) -> Node:
    if not story.transfers:
        return None
    names = ("way", "file", "size", "time", "rate", "checksum", "where")
    numeric = ("size", "time", "rate")
    return section[
        h2["Transfers"],
        div(".scroll", tabindex="0", role="region", aria_label="Transfers")[
            table[
                thead[tr[(th({"class": "n"} if name in numeric else {}, scope="col")[name] for name in names)]],
                tbody[map(_transfer, story.transfers)],
            ]
        ],
        p(".quiet")[_totals(story.transfers)],
    ]


def _transfer(moved: TransferStory) -> Node:
    timed = moved.took_s is not None and moved.took_s > 0 and moved.size_bytes is not None and not moved.problem
    speed = words.rate((moved.size_bytes or 0) / (moved.took_s or 1.0)) if timed else ""
    problem = moved.problem and td(".problem", colspan="2")[moved.problem]
    return tr[
        td[_ARROWS[moved.direction]],
        td(".name")[moved.name],
        td(".n")[words.size(moved.size_bytes) if moved.size_bytes is not None else ""],
        td(".n")[words.duration(moved.took_s) if moved.took_s is not None else ""],
        td(".n")[speed],
        problem or [td[code[moved.checksum] if moved.checksum else ""], td(".url")[_web_link(moved.url)]],
    ]


def _totals(transfers: tuple[TransferStory, ...]) -> str:
    parts = []
    for direction, verb in ((Direction.IN, "fetched"), (Direction.OUT, "stored")):
        good = [t for t in transfers if t.direction is direction and not t.problem]
        if good:
            total = sum(t.size_bytes or 0 for t in good)
            parts.append(f"{len(good)} file{'s' if len(good) > 1 else ''} {verb}, {words.size(total)} together")
    bad = sum(1 for t in transfers if t.problem)
    parts += [f"{bad} not moved"] if bad else []
    return "; ".join(parts) + "."


def _logs(story: JobStory, verdict: Verdict) -> Node:
    wanted = ("payload.stderr", "payload-log.json") if verdict.kind == "failed" else ()
    return section[
        h2["Logs"],
        [_log(log, opened=log.name in wanted and story.error is None) for log in story.logs]
        or p["No log was stored when this page was made."],
    ]


def _log(log: LogStory, opened: bool) -> Node:
    count = len(log.lines)
    return div(".log")[
        div(".log-head")[
            b[_to(log.name)],
            log.size_bytes is not None and span(".quiet")[words.size(log.size_bytes)],
            log.note and span(".quiet")[log.note],
            log.segments and span(".quiet")["earlier parts: ", ((_to(name), " ") for name in log.segments)],
        ],
        log.lines
        and details(open=opened)[
            summary[f"the last {count} lines" if count > 1 else "the last line"],
            pre(".tail", tabindex="0")["\n".join(log.lines)],
        ],
    ]


def _where(story: JobStory) -> Node:
    facts = [(name, text) for name, text in _facts(story) if text]
    return section[
        h2["What ran where"],
        dl(".facts")[((dt[name], dd[text]) for name, text in facts)],
        story.command and details[summary["The command"], pre(".command", tabindex="0")[story.command]],
    ]


def _facts(story: JobStory) -> Iterator[tuple[str, Node]]:
    where, asked = story.where, story.resources
    yield "Job", story.name
    yield "PandaID", f"{story.attempt.panda_id}, attempt {story.attempt.attempt_nr}"
    yield "Task", "" if story.task_id is None else str(story.task_id)
    yield "Request", "" if story.request_id is None else str(story.request_id)
    yield "Label", story.label
    yield "Queue", where.queue if where.site in ("", where.queue) else f"{where.queue} ({where.site})"
    yield "Node", where.node
    yield "Batch job", where.batch_id
    yield "Sent by", where.scheduler_id
    yield "Image", where.image and code[where.image]
    yield "Isolation", _isolation(where.isolation)
    yield "Pilot", where.pilot_version
    yield from where.versions.items()
    if asked is not None:
        amounts = ((asked.min_ram_bytes, "memory"), (asked.max_disk_bytes, "disk"))
        wishes = [f"{asked.core_count} core{'s' if asked.core_count != 1 else ''}"]
        wishes += [f"{words.size(amount)} {name}" for amount, name in amounts if amount]
        wishes += [f"{words.duration(asked.max_walltime_s)} wall time"] if asked.max_walltime_s else []
        yield "Asked for", ", ".join(wishes)
    yield "Limits", _limits(story)
    yield "Monitor", story.monitor_url and _web_link(story.monitor_url)


def _limits(story: JobStory) -> Node:
    """Every limit with where it comes from; the plots show three of them."""
    limits = story.limits
    shown = (
        ("memory", limits.memory_bytes, words.size, "memory_bytes"),
        ("memory of the container", limits.container_bytes, words.size, "container_bytes"),
        ("wall time", limits.walltime_s, words.duration, "walltime_s"),
        ("work folder", limits.workdir_bytes, words.size, "workdir_bytes"),
        ("stdout and stderr, each", limits.stdout_bytes, words.size, "stdout_bytes"),
        ("an output file", limits.output_bytes, words.size, "output_bytes"),
        ("silence", limits.looping_s, words.duration, "looping_s"),
        ("processes", limits.processes, str, "processes"),
        ("files", limits.inodes, str, "inodes"),
    )
    lines = []
    for name, value, text, key in shown:
        if value is not None:
            source = limits.sources.get(key)
            lines.append(f"{name} {text(value)}{f' ({source})' if source else ''}")
    return lines and [div[line] for line in lines]


def _isolation(rung: str) -> str:
    meaning = _RUNGS.get(rung.partition(":")[0], "")
    return f"{rung}: {meaning}" if meaning else rung


def _replay(story: JobStory) -> Node:
    """How to run it again; a job that could not be read has no command to run."""
    address = _web(story.log_url)
    if not address:
        return None
    replay = [
        h2["Run it again yourself"],
        p["This runs the job on your machine, with the same command, image, inputs and limits:"],
        pre[code[f"pilot-replay {shlex.quote(address)}"], " ", button(".copy", type="button", hidden=True)["copy"]],
    ]
    return section[story.command and replay, h2["Address of the logs"], p[_web_link(story.log_url)]]


# --- small things -----------------------------------------------------------------------------------------------------


def _to(name: str) -> Node:
    """A link to an object beside the page: never to anywhere else, whatever the name."""
    return a(href=f"./{quote(name, safe='', errors='replace')}")[name]


def _web(url: str) -> str:
    """The URL if it is one a browser may follow, else nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and parts.netloc else ""


def _web_link(url: str) -> Node:
    return a(href=url, rel="noopener noreferrer")[url] if _web(url) else url


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _card(name: str, value: float, limit: float | None, shown: Callable[[float], str]) -> tuple[str, str, str, bool]:
    """A key figure with the share of its limit, and whether that was exceeded."""
    note = f"{words.share(value, limit)} of {shown(limit)} allowed" if limit else ""
    return name, shown(value), note, limit is not None and value > limit


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
