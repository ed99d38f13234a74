"""Lines on logarithmic axes, as an SVG written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 760, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 130, 44, 44
_COLOURS: Final = ("#2f6f9f", "#d98032", "#7a9b4e", "#a04a6f", "#6a5acd", "#888888")
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:13px}.g{stroke:#8884;stroke-width:1}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)

Point = tuple[float, float]


def draw_curves(title: str, x_title: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """The SVG document; points that are not positive are left out."""
    shown = {name: [p for p in points if min(p) > 0] for name, points in curves.items()}
    everything = [point for points in shown.values() for point in points]
    x_axis = _decades([x for x, _ in everything])
    y_axis = _decades([y for _, y in everything])
    parts = [f'<text class="t" x="8" y="24">{escape(title)}</text>', *_grid(x_axis, y_axis)]
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(x_title)}</text>')
    taken: list[float] = []
    for colour, (name, points) in zip(_COLOURS, shown.items(), strict=False):
        parts.append(_curve(name, colour, [(_x(x, x_axis), _y(y, y_axis)) for x, y in points], taken))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img">'
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}</svg>\n"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _x(value: float, axis: tuple[int, int]) -> float:
    return _LEFT + (math.log10(value) - axis[0]) / (axis[1] - axis[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, axis: tuple[int, int]) -> float:
    return (
        _HEIGHT - _BOTTOM - (math.log10(value) - axis[0]) / (axis[1] - axis[0]) * (_HEIGHT - _TOP - _BOTTOM)
    )


def _grid(x_axis: tuple[int, int], y_axis: tuple[int, int]) -> list[str]:
    parts = []
    for power in range(x_axis[0], x_axis[1] + 1):
        x = _x(10.0**power, x_axis)
        parts.append(f'<path class="g" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{10**power:,}</text>'
        )
    for power in range(y_axis[0], y_axis[1] + 1):
        y = _y(10.0**power, y_axis)
        parts.append(f'<path class="g" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    return parts


def _curve(name: str, colour: str, points: Sequence[Point], taken: list[float]) -> str:
    """A line and its name at its end, beside names that stand there already."""
    if not points:
        return ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    while any(abs(y - other) < 14 for other in taken):
        y -= 14
    taken.append(y)
    label = f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>{label}'
