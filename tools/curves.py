"""Loss curves as an SVG picture: no plotting library is needed to draw it, and any browser shows it."""

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 50
_COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")
_TICKS = 5

Curve = tuple[str, Sequence[tuple[float, float]]]


def curves_svg(title: str, curves: Sequence[Curve]) -> str:
    """Draws named curves of (step, loss) points with a common scale."""
    points = [point for _, curve in curves for point in curve]
    last = max((x for x, _ in points), default=1.0) or 1.0
    highest = max((y for _, y in points), default=1.0) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / last * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - y / highest * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    body = [f'<text x="{_LEFT}" y="24" font-size="16">{escape(title)}</text>']
    for tick in range(_TICKS + 1):
        x, y = last * tick / _TICKS, highest * tick / _TICKS
        (across, bottom), (left, down) = place(x, 0), place(0, y)
        body += [
            f'<line x1="{left}" y1="{down}" x2="{_WIDTH - _RIGHT}" y2="{down}" stroke="#d0d7de"/>',
            f'<text x="{left - 8}" y="{down + 4}" text-anchor="end">{y:.2f}</text>',
            f'<text x="{across}" y="{bottom + 18}" text-anchor="middle">{x:.0f}</text>',
        ]
    body.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">step</text>')
    for number, (name, curve) in enumerate(curves):
        color = _COLORS[number % len(_COLORS)]
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in curve))
        body.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        body += [
            f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in (place(*p) for p in curve[-1:])
        ]
        label = _TOP + 18 * (number + 1)
        body.append(
            f'<text x="{_WIDTH - _RIGHT - 8}" y="{label}" text-anchor="end" fill="{color}">{escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )
