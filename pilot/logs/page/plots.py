"""Time plots as SVG that is readable on a phone: lines scale with the page, texts do not.

Places are given in percent of the drawing, so texts and grid keep their size at any width; the lines lie in an inner
drawing of 1000 x 1000 units that is stretched over it. Colours come from the style sheet, by class, so that a plot follows
the reader's light or dark scheme. Every plot is an image with a title and a description for those who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from htpy import Element, Node, div, figcaption, figure, span, svg
from htpy import title as svg_title

from pilot.logs.page import words
from pilot.logs.page.series import Points, thinned

_UNITS = 1000
_HEADROOM = 1.06  # free space above the highest line
_FAR = 8.0  # a limit this many times above everything drawn is told at the upper edge, not to scale
_TICK_STEPS_S = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot. ``tone``: 1 to 4, its colour in the style sheet. ``filled``: the area below it is shaded."""

    name: str
    points: Points
    tone: int
    filled: bool = False


@dataclass(frozen=True, slots=True)
class LimitLine:
    """A level, and in words where it comes from. Not ``hard``: nobody stops a payload for it."""

    value: float
    name: str
    source: str = ""
    hard: bool = True


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure: lines over a common time, from ``begin_s`` to ``end_s``.

    ``shown`` makes a value readable; ``step`` is what the scale's steps are multiples of (1024 for bytes, else 10).
    ``marks``: moments, with a word each or an empty one.
    """

    title: str
    lines: tuple[Line, ...]
    begin_s: float
    end_s: float
    shown: Callable[[float], str]
    limits: tuple[LimitLine, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    binary: bool = True
    note: str = ""


def draw(plot: Plot) -> Element:
    """The plot with its heading, legend, axes, limits and marks."""
    top = _top(plot)
    ticks = value_ticks(top, plot.binary)
    return figure(".plot")[
        figcaption[span(".plot-title")[plot.title], span(".legend")[(_legend(plot, line) for line in plot.lines)]],
        div(".plot-frame")[
            svg(".axis-y", aria_hidden="true")[(_y_label(tick, top, plot.shown) for tick in ticks)],
            _area(plot, top, ticks),
            svg(".axis-x", aria_hidden="true")[(_x_label(tick, plot) for tick in time_ticks(plot.begin_s, plot.end_s))],
        ],
        [
            div(f".limit-note.{_kind(limit)}")[f"{limit.name} {plot.shown(limit.value)}{_source(limit)}"]
            for limit in plot.limits
        ],
        plot.note and div(".plot-note")[plot.note],
    ]


def description(plot: Plot) -> str:
    """The plot in words, for screen readers."""
    parts = [f"{plot.title} over {words.duration(plot.end_s - plot.begin_s)}"]
    for line in plot.lines:
        if line.points:
            peak_s, peak = highest(line.points)
            parts.append(f"{line.name}: at most {plot.shown(peak)}, at {words.duration(peak_s)}")
    parts += [f"{limit.name}: {plot.shown(limit.value)}{_source(limit)}" for limit in plot.limits]
    return ". ".join(parts)


def highest(points: Points) -> tuple[float, float]:
    """Time and value of the highest point."""
    return max(points, key=lambda point: point[1])


def time_ticks(begin_s: float, end_s: float, most: int = 6) -> list[float]:
    """Round moments between begin and end, at most ``most`` and one more."""
    length_s = max(end_s - begin_s, 1e-3)
    step_s = next((step for step in _TICK_STEPS_S if length_s / step <= most), length_s / most)
    first = math.ceil(begin_s / step_s - 1e-9)
    return [index * step_s for index in range(first, math.floor(end_s / step_s + 1e-9) + 1)]


def value_ticks(top: float, binary: bool) -> list[float]:
    """Round values from 0 up to ``top``: three to six of them. ``binary``: round in kB, MB, GB of 1024."""
    unit = 1.0
    while binary and top / unit >= 1024:
        unit *= 1024
    raw = top / unit / 4
    magnitude = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999) * unit
    return [index * step for index in range(math.floor(top / step + 1e-9) + 1)]


def _top(plot: Plot) -> float:
    """The upper end of the scale: above all lines, and above the limits that are not out of all proportion."""
    drawn = max((highest(line.points)[1] for line in plot.lines if line.points), default=0.0)
    near = [limit.value for limit in plot.limits if limit.value <= _FAR * drawn or not drawn]
    return (max([drawn, *near]) or (1024.0 if plot.binary else 1.0)) * _HEADROOM


def _area(plot: Plot, top: float, ticks: Sequence[float]) -> Element:
    attributes = {
        "data-begin": _exact(plot.begin_s),
        "data-end": _exact(plot.end_s),
        "data-top": _exact(top),
        "data-unit": "bytes" if plot.binary else "",
    }
    return svg(".area", attributes, role="img", aria_label=description(plot))[
        [
            _E("line", {"class": "grid", "x1": "0", "x2": "100%", "y1": _y(tick, top), "y2": _y(tick, top)})
            for tick in ticks
        ],
        [
            _E("line", {"class": "grid", "y1": "0", "y2": "100%", "x1": _x(tick, plot), "x2": _x(tick, plot)})
            for tick in time_ticks(plot.begin_s, plot.end_s)
        ],
        svg(
            x="0",
            y="0",
            width="100%",
            height="100%",
            viewBox=f"0 0 {_UNITS} {_UNITS}",
            preserveAspectRatio="none",
        )[[_line(line, plot, top) for line in plot.lines if line.points]],
        [_level(limit, top) for limit in plot.limits],
        [
            _level_name(limit, plot, top, right=(index % 2 == 0) != _peaks_late(plot))
            for index, limit in enumerate(plot.limits)
        ],
        [_mark(at_s, text, plot) for at_s, text in plot.marks if plot.begin_s <= at_s <= plot.end_s],
        [_peak(line, plot, top) for line in plot.lines[:1] if line.points],
    ]


def _line(line: Line, plot: Plot, top: float) -> Node:
    scale_x, scale_y = _UNITS / max(plot.end_s - plot.begin_s, 1e-9), _UNITS / top
    places = [
        f"{(at_s - plot.begin_s) * scale_x:.4g},{_UNITS - value * scale_y:.4g}" for at_s, value in thinned(line.points)
    ]
    path = " ".join(places)
    shape = _E("polyline", {"class": f"line tone{line.tone}", "points": path, "data-name": line.name})
    if not line.filled:
        return shape
    first, last = places[0].partition(",")[0], places[-1].partition(",")[0]
    below = _E("polygon", {"class": f"below tone{line.tone}", "points": f"{first},{_UNITS} {path} {last},{_UNITS}"})
    return [below, shape]


def _level(limit: LimitLine, top: float) -> Node:
    """To scale; one that is far above everything lies on the upper edge, and its name says so."""
    place = _place(limit, top)
    return _E("line", {"class": _kind(limit), "x1": "0", "x2": "100%", "y1": place, "y2": place})


def _level_name(limit: LimitLine, plot: Plot, top: float, *, right: bool) -> Node:
    """Neighbours are named at opposite ends."""
    arrow = "\N{UPWARDS ARROW} " if limit.value > top else ""
    side = {"x": "100%", "dx": "-6", "text-anchor": "end"} if right else {"x": "0", "dx": "6"}
    below = limit.value > 0.85 * top
    attributes = {
        "class": f"limit-label {_kind(limit)}",
        "y": _place(limit, top),
        "dy": "1.15em" if below else "-.4em",
        **side,
    }
    return _E("text", attributes, f"{arrow}{limit.name} {plot.shown(limit.value)}")


def _peaks_late(plot: Plot) -> bool:
    """True when the right end is where the lines are high, and names of limits had better stand at the left."""
    first = plot.lines[0].points
    return bool(first) and highest(first)[0] - plot.begin_s > 0.7 * (plot.end_s - plot.begin_s)


def _place(limit: LimitLine, top: float) -> str:
    return _y(min(limit.value, top), top)


def _kind(limit: LimitLine) -> str:
    return "limit" if limit.hard else "level"


def _mark(at_s: float, text: str, plot: Plot) -> Node:
    place = _x(at_s, plot)
    late = at_s - plot.begin_s > 0.5 * (plot.end_s - plot.begin_s)
    side = {"dx": "-5", "text-anchor": "end"} if late else {"dx": "5"}
    return [
        _E("line", {"class": "mark", "x1": place, "x2": place, "y1": "0", "y2": "100%"}),
        text and _E("text", {"class": "mark-label", "x": place, "y": "100%", "dy": "-.6em", **side}, text),
    ]


def _peak(line: Line, plot: Plot, top: float) -> Node:
    """A dot at the highest point."""
    at_s, value = highest(line.points)
    if value <= 0:
        return None
    return _E("circle", {"class": f"peak tone{line.tone}", "cx": _x(at_s, plot), "cy": _y(value, top), "r": "3.5"})[
        svg_title[f"highest: {plot.shown(value)} at {words.duration(at_s)}"]
    ]


def _legend(plot: Plot, line: Line) -> Node:
    peak = f", at most {plot.shown(highest(line.points)[1])}" if line.points else ": not measured"
    return span(".key")[span(f".swatch.tone{line.tone}", aria_hidden="true"), f"{line.name}{peak}"]


def _y_label(tick: float, top: float, shown: Callable[[float], str]) -> Node:
    return _E("text", {"x": "100%", "dx": "-6", "y": _y(tick, top), "dy": ".35em"}, shown(tick))


def _x_label(tick: float, plot: Plot) -> Node:
    share = (tick - plot.begin_s) / max(plot.end_s - plot.begin_s, 1e-9)
    anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
    return _E("text", {"x": _x(tick, plot), "y": "1em", "text-anchor": anchor}, short_time(tick))


def short_time(seconds: float) -> str:
    """A moment on a time axis: ``0``, ``0.5 s``, ``90 s``, ``5 min``, ``1.5 h``, ``2 d``."""
    if seconds == 0:
        return "0"
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s or (seconds >= length_s and seconds % (length_s / 2) == 0):
            return f"{words.number(seconds / length_s)} {unit}"
    return f"{words.number(seconds)} s"


def _source(limit: LimitLine) -> str:
    return f": {limit.source}" if limit.source else ""


def _x(at_s: float, plot: Plot) -> str:
    return f"{100 * (at_s - plot.begin_s) / max(plot.end_s - plot.begin_s, 1e-9):.2f}%"


def _y(value: float, top: float) -> str:
    return f"{100 - 100 * value / top:.2f}%"


def _exact(value: float) -> str:
    return f"{value:.6g}"


def _E(name: str, attributes: dict[str, str], text: str | None = None) -> Element:  # noqa: N802  (an element)
    made = Element(name)(attributes)
    return made if text is None else made[text]
