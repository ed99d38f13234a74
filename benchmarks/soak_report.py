"""A soak for people: a table of slopes, and every series as a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Final

import orjson
from rich.table import Table

from benchmarks.soak_findings import Soak
from benchmarks.tables import Sheet, markdown, rich_table

_WIDTH, _HEIGHT, _COLUMNS = 300, 90, 3
_PAD: Final = 8
_TITLE: Final = 18
_STYLE: Final = (
    "text{font:11px system-ui,sans-serif;fill:#222}polyline{fill:none;stroke:#2f6f9f;stroke-width:1.2}"
    ".r polyline{stroke:#b3261e}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


def shown(found: Soak) -> Table:
    """The slopes for the terminal."""
    return rich_table(_sheet(found))


def write(found: Soak, directory: Path) -> list[Path]:
    """The files: every sample, the page, the picture."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{found.setting['at'][:10]}-soak"
    source, text, picture = (directory / f"{name}.{suffix}" for suffix in ("json", "md", "svg"))
    source.write_bytes(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    picture.write_text(draw(found))
    text.write_text(_page(found, source=source.name, picture=picture.name))
    return [source, text, picture]


def draw(found: Soak) -> str:
    """All series side by side; those that rise are red."""
    names = list(found.series)
    rows = (len(names) + _COLUMNS - 1) // _COLUMNS
    parts = [
        _panel(
            name,
            found.series[name],
            left=place % _COLUMNS * _WIDTH,
            top=place // _COLUMNS * _HEIGHT,
            is_rising=name in found.rising,
        )
        for place, name in enumerate(names)
    ]
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'


def _panel(name: str, points: Sequence[tuple[float, float]], *, left: int, top: int, is_rising: bool) -> str:
    values = [value for _, value in points]
    most = max(*values, 1.0) if len(values) > 1 else 1.0
    end_s = max(at for at, _ in points) or 1.0
    wide, high = _WIDTH - 2 * _PAD, _HEIGHT - _TITLE - _PAD
    line = " ".join(
        f"{left + _PAD + at / end_s * wide:.1f},{top + _TITLE + high - max(0.0, value) / most * high:.1f}"
        for at, value in points
    )
    title = f"{name}: {values[0]:g} > {values[-1]:g}, most {max(values):g}"
    mark = "r" if is_rising else "s"
    return (
        f'<g class="{mark}"><text x="{left + _PAD}" y="{top + 13}">{escape(title)}</text>'
        f'<polyline points="{line}"/></g>'
    )


def _sheet(found: Soak) -> Sheet:
    header = ["series", "median", "slope per hour", "99 % of it", "growth", "verdict"]
    rows = [
        [
            name,
            f"{slope.median:.1f}",
            f"{slope.per_hour:+.2f}",
            f"{slope.low:+.2f} .. {slope.high:+.2f}",
            f"{slope.growth:+.2f}",
            "rises" if name in found.rising else "flat",
        ]
        for name, slope in found.slopes.items()
    ]
    return Sheet("After the warm-up", header, rows)


def _page(found: Soak, *, source: str, picture: str) -> str:
    setting = found.setting
    state = "" if setting["is_clean"] else " with local changes"
    verdict = "Nothing rises, nothing is left over." if found.is_well else "Not well:"
    faults = [f"- rises: {name}" for name in found.rising]
    faults += [f"- left over: {name}" for name in found.left] + [f"- wrong: {name}" for name in found.wrong]
    ends = ", ".join(f"{name} {count:,}" for name, count in found.ends.items())
    lines = [
        "# Soak\n",
        f"{setting['at']}, commit {setting['commit']}{state}; {setting['minutes']:g} minutes, {setting['callers']} callers;"
        f" every sample is in [{source}]({source}), the method in [../README.md](../README.md).\n",
        f"{setting['cpu']}, {setting['cores']} cores, {setting['kernel']}, {setting['python']}.\n",
        f"{verdict}\n",
        *(["\n".join(faults) + "\n"] if faults else []),
        f"{sum(found.ends.values()):,} requests: {ends}.\n",
        markdown(_sheet(found)),
        f"![every series]({picture})\n",
    ]
    return "\n".join(lines)
