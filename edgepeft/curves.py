"""Curves over steps as an SVG picture: no plotting library is needed to draw it, and any browser shows it."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from edgepeft.elements import element, xml

#: Points that are drawn of a curve; of more, each is the mean of equally many neighbours, over a band from their
#: lowest to their highest.
MAX_POINTS = 200

#: Points that each get a dot.
_MAX_DOTS = 30

# Units of the picture: small, so that its text can be read where a phone shrinks it.
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 52, 40
_LETTER = 7
_TICKS = 5
_COLORS = 4

#: Colours, for light and dark.
STYLE = """
.curves{--ground:#fff;--ink:#1f2328;--faint:#d8dee4;--c0:#0969da;--c1:#cf222e;--c2:#1a7f37;--c3:#9a6700;
font:12px system-ui,sans-serif}
@media (prefers-color-scheme:dark){.curves{--ground:#161b22;--ink:#e6edf3;--faint:#373e47;--c0:#58a6ff;--c1:#ff7b72;
--c2:#56d364;--c3:#e3b341}}
.curves text{fill:var(--ink)}.curves .ground{fill:var(--ground)}.curves .grid{stroke:var(--faint)}
.curves .line{fill:none;stroke-width:2;stroke-linejoin:round}.curves .band{opacity:.2}
"""

Curve = tuple[str, Sequence[tuple[float, float]]]


class Point(NamedTuple):
    """What is drawn at a step: a mean, and the lowest and highest value that went into it."""

    x: float
    y: float
    low: float
    high: float


def curves_svg(title: str, curves: Sequence[Curve]) -> str:
    """Draws named curves of (step, value) points on a common scale, as a file of its own."""
    picture = draw(title, curves)
    picture.set("xmlns", "http://www.w3.org/2000/svg")
    picture.insert(0, element("style", STYLE))
    return xml(picture) + "\n"


def draw(title: str, curves: Sequence[Curve]) -> Element:
    """The same as an element, for a page that has `STYLE`. Values that are no finite numbers are left out."""
    drawn = [(name, thin([point for point in curve if math.isfinite(point[1])])) for name, curve in curves]
    points = [point for _, curve in drawn for point in curve]
    across = _Scale([0.0, *(point.x for point in points)], _LEFT, _WIDTH - _RIGHT, whole=True)
    down = _Scale([0.0, *(value for point in points for value in point[2:])], _HEIGHT - _BOTTOM, _TOP)
    return element(
        "svg",
        element("title", title),
        element("rect", class_="ground", width="100%", height="100%", rx=6),
        element("text", title, x=_LEFT, y=20, font_size=14, font_weight=600),
        *(_legend([name for name, _ in drawn]) if len(drawn) > 1 else []),
        *_axes(across, down),
        *(part for number, (_, curve) in enumerate(drawn) for part in _curve(curve, number, across, down)),
        class_="curves",
        role="img",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    )


def thin(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> list[Point]:
    """At most so many points that show the same course."""
    each = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + each] for start in range(0, len(points), each)]
    return [_middle([x for x, _ in group], [y for _, y in group]) for group in groups]


def _middle(xs: Sequence[float], ys: Sequence[float]) -> Point:
    return Point(sum(xs) / len(xs), math.fsum(ys) / len(ys), min(ys), max(ys))


class _Scale:
    """From values to places on the picture, with round numbers as marks."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, whole: bool = False) -> None:
        lowest, highest = min(values), max(values)
        step = _round_step((highest - lowest) / _TICKS or 1.0)
        self._step = max(1.0, step) if whole else step
        first = math.floor(lowest / self._step)
        last = max(first + 1, math.ceil(highest / self._step))
        self.marks = [number * self._step for number in range(first, last + 1)]
        self._start, self._end = start, end
        # Steps end where the last one is: a curve that stops short of the edge would look unfinished.
        self._low, self._high = self.marks[0], highest if whole and highest > 0 else self.marks[-1]
        self.marks = [mark for mark in self.marks if mark <= self._high]

    def place(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)


def _round_step(least: float) -> float:
    """The next larger number that is 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)


def _axes(across: _Scale, down: _Scale) -> list[Element]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for mark in down.marks:
        y = down.place(mark)
        parts += [
            element("line", class_="grid", x1=_LEFT, y1=y, x2=right, y2=y),
            element("text", f"{mark:.6g}", x=_LEFT - 6, y=y + 4, text_anchor="end"),
        ]
    for mark in across.marks:
        parts.append(
            element("text", f"{mark:,.0f}", x=across.place(mark), y=bottom + 16, text_anchor="middle")
        )
    return [*parts, element("text", "step", x=(_LEFT + right) / 2, y=_HEIGHT - 6, text_anchor="middle")]


def _legend(names: Sequence[str]) -> list[Element]:
    parts, x = [], _LEFT
    for number, name in enumerate(names):
        parts += [
            element("circle", cx=x + 4, cy=34, r=4, style=f"fill:{_color(number)}"),
            element("text", name, x=x + 13, y=38),
        ]
        x += 13 + _LETTER * len(name) + 2 * _LETTER
    return parts


def _curve(curve: Sequence[Point], number: int, across: _Scale, down: _Scale) -> list[Element]:
    color = _color(number)
    xs = [across.place(point.x) for point in curve]
    parts = []
    if any(point.low < point.high for point in curve):
        upper = [(x, down.place(point.high)) for x, point in zip(xs, curve, strict=True)]
        lower = [(x, down.place(point.low)) for x, point in zip(xs, curve, strict=True)]
        parts.append(
            element("polygon", class_="band", points=_path([*upper, *lower[::-1]]), style=f"fill:{color}")
        )
    places = [(x, down.place(point.y)) for x, point in zip(xs, curve, strict=True)]
    parts.append(element("polyline", class_="line", points=_path(places), style=f"stroke:{color}"))
    dots = places if len(places) <= _MAX_DOTS else places[-1:]
    return parts + [element("circle", cx=x, cy=y, r=2.5, style=f"fill:{color}") for x, y in dots]


def _color(number: int) -> str:
    return f"var(--c{number % _COLORS})"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)
