"""Plain pictures of curves, as SVG that a page of results can show.

Here: lines of shares from 0 to 100 % over numbers. Not here: pictures of runs
(`covey.actors.observe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_WIDTH: Final = 640
_HEIGHT: Final = 320
_LEFT: Final = 50
_RIGHT: Final = 20
_BOTTOM: Final = 40
_TOP: Final = 5
_COLOURS: Final = ("#4269d0", "#efb118", "#ff725c", "#3ca951")


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], unit: str, floor: float = 0) -> str:
    """A picture of at most four curves of (x, share); `unit` is what x counts.

    What lies below `floor` is not shown.
    """
    most = max(points[-1][0] for points in curves.values())

    def place(x: float, share: float) -> tuple[float, float]:
        right, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
        height = (share - floor) / (1 - floor)
        return _LEFT + right * x / most, _TOP + down * (1 - max(0.0, height))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for fifth in range(6):
        share = floor + (1 - floor) * fifth / 5
        y = place(0, share)[1]
        parts.append(f'<path d="M{_LEFT} {y:.0f}H{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="5" y="{y + 4:.0f}">{share:.0%}</text>')
    for quarter in range(5):
        x = most * quarter / 4
        label = f"{x:.0f} {unit}" if quarter == 4 else f"{x:.0f}"
        anchor = "end" if quarter == 4 else "middle"
        at = place(x, floor)[0]
        parts.append(f'<text x="{at:.0f}" y="{_HEIGHT - 20}" text-anchor="{anchor}">{label}</text>')
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number]
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _HEIGHT - _BOTTOM - 15 * (len(curves) - number)
        parts.append(f'<text x="{_WIDTH - 150}" y="{y}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
