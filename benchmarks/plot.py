"""The picture of a run: cost per request and per chunk of every subject, as an SVG written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from benchmarks.figures import STREAMS, UNARY, Figures

_WIDTH, _LABEL, _VALUE = 760, 150, 70
_BAR, _GAP, _HEAD = 18, 8, 44
_COLOURS: Final = ("#2f6f9f", "#d98032", "#7a9b4e")
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:13px}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)

Bar = tuple[str, dict[str, float]]


def draw(figures: Sequence[Figures]) -> str:
    """The SVG document; subjects without a figure have no bar."""
    return picture(
        [
            ("CPU per request, 32 connections (us)", _requests(figures)),
            *((f"CPU per chunk, {name} (us)", _chunks(figures, name)) for name in reversed(STREAMS)),
            ("Added latency, 1 connection, 99th percentile (ms)", _tails(figures, UNARY[0])),
            ("Added latency, 128 connections, 99th percentile (ms)", _tails(figures, UNARY[2])),
        ]
    )


def picture(panels: Sequence[tuple[str, list[Bar]]]) -> str:
    """The SVG document of these panels; one without bars is left out."""
    panels = [(title, bars) for title, bars in panels if bars]
    parts: list[str] = []
    y = 0
    for title, bars in panels:
        parts.append(_panel(title, bars, top=y))
        y += _HEAD + len(bars) * (_BAR + _GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + _GAP}" role="img">'
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}</svg>\n"


def _requests(figures: Sequence[Figures]) -> list[Bar]:
    found = ((one.subject, one.loads.get(UNARY[1])) for one in figures)
    return [(subject, load.parts_us) for subject, load in found if load and load.parts_us]


def _chunks(figures: Sequence[Figures], scenario: str) -> list[Bar]:
    found = ((one.subject, one.loads.get(scenario)) for one in figures)
    return [(subject, {"": load.chunk_us}) for subject, load in found if load and load.chunk_us is not None]


def _tails(figures: Sequence[Figures], scenario: str) -> list[Bar]:
    found = ((one.subject, one.loads.get(scenario)) for one in figures)
    return [
        (subject, {"": max(0.0, load.added_p99_ms)})
        for subject, load in found
        if load and load.added_p99_ms is not None
    ]


def _panel(title: str, bars: list[Bar], *, top: int) -> str:
    longest = max(sum(parts.values()) for _, parts in bars)
    scale = (_WIDTH - _LABEL - _VALUE) / longest if longest > 0 else 0.0
    drawn = [f'<text class="t" x="8" y="{top + 24}">{escape(title)}</text>']
    for place, (subject, parts) in enumerate(bars):
        y = top + _HEAD - 8 + place * (_BAR + _GAP)
        drawn.append(f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(subject)}</text>')
        x = float(_LABEL)
        for colour, (part, value) in zip(_COLOURS, parts.items(), strict=False):
            width = max(0.0, value * scale)
            hint = f"<title>{escape(part or subject)}: {value:.1f} us</title>"
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}">{hint}</rect>'
            )
            x += width
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{sum(parts.values()):.1f}</text>')
    return "".join(drawn)
