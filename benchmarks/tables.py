"""Figures as tables, for the terminal and for ``results/latest.md``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.figures import FLOOR, STREAMS, UNARY, Figures, Load
from benchmarks.scenarios import SCENARIOS

_NONE = "-"
_VOID = "void"


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table; the first column is text, the others are figures."""

    title: str
    header: list[str]
    rows: list[list[str]]


def sheets(figures: Sequence[Figures]) -> list[Sheet]:
    """All tables of a run."""
    found = [
        _sheet("Summary", figures, _SUMMARY),
        _sheet("CPU us per request: whole subject (its parts, Valkey last)", figures, _per_scenario(_cost)),
        _sheet("Requests per second (share of the subject's core in use)", figures, _per_scenario(_rate)),
        _sheet("Added latency, p50 / p99 ms (streams: to the first content)", figures, _per_scenario(_added)),
        _sheet(
            "Redis, per request: script calls / all commands / socket reads / CPU us",
            figures,
            _per_scenario(_redis),
        ),
    ]
    return [sheet for sheet in found if len(sheet.header) > 1]


def markdown(sheet: Sheet) -> str:
    """A sheet as a Markdown table."""
    lines = [sheet.header, ["---", *["---:"] * (len(sheet.header) - 1)], *sheet.rows]
    return f"### {sheet.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def rich_table(sheet: Sheet) -> Table:
    """A sheet for the terminal."""
    table = Table(title=sheet.title, title_justify="left", title_style="bold")
    for position, name in enumerate(sheet.header):
        table.add_column(name, justify="right" if position else "left", no_wrap=not position)
    for cells in sheet.rows:
        table.add_row(*cells)
    return table


Cell = Callable[[Figures, Sequence[Figures]], str]


def _sheet(title: str, figures: Sequence[Figures], columns: dict[str, Cell]) -> Sheet:
    """The columns that have a figure at all."""
    cells = {name: [cell(one, figures) for one in figures] for name, cell in columns.items()}
    kept = {name: column for name, column in cells.items() if set(column) - {_NONE, _VOID}}
    rows = [[one.subject, *row] for one, row in zip(figures, zip(*kept.values(), strict=True), strict=False)]
    return Sheet(title, ["subject", *kept], rows)


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _under(scenario: str, cell: Callable[[Load], str]) -> Cell:
    """A figure under one scenario; where something failed in every window, that it did."""

    def of(one: Figures, _: Sequence[Figures]) -> str:
        load = one.loads.get(scenario)
        return cell(load) if load else _VOID if scenario in one.void_loads else _NONE

    return of


def _per_scenario(cell: Callable[[Load], str]) -> dict[str, Cell]:
    return {name: _under(name, cell) for name in SCENARIOS}


def _cost(load: Load) -> str:
    if load.cpu_us is None:
        return _NONE
    parts = list((load.parts_us or {}).values())
    split = f" ({' + '.join(_number(value, 0) for value in parts)})" if len(parts) > 1 else ""
    return _number(load.cpu_us, 0) + split


def _rate(load: Load) -> str:
    share = "" if load.busy is None else f" ({load.busy:.0%})"
    return _number(load.per_s, 0) + share


def _capacity(load: Load) -> str:
    """What its CPU per request would let one core carry, and what came of it, which the load side or the neighbours may have held down."""
    if not load.cpu_us:
        return _rate(load)
    return f"{1e6 / load.cpu_us:,.0f} / {_rate(load)}"


def _added(load: Load) -> str:
    if load.added_p50_ms is None:
        return _NONE
    return f"{_number(load.added_p50_ms, 2)} / {_number(load.added_p99_ms, 2)}"


def _redis(load: Load) -> str:
    if load.scripts is None:
        return _NONE
    figures = (load.scripts, load.commands, load.reads)
    return f"{' / '.join(_number(value, 2) for value in figures)} / {_number(load.redis_cpu_us, 1)}"


def _ratio(one: Figures, figures: Sequence[Figures]) -> str:
    floor = next((other.cpu_us(UNARY[1]) for other in figures if other.subject == FLOOR), None)
    ours = one.cpu_us(UNARY[1])
    return _NONE if floor is None or ours is None else f"{ours / floor:.1f}"


def _chunk(load: Load) -> str:
    return _number(load.chunk_us, 1)


def _redis_share(load: Load) -> str:
    return _NONE if load.scripts is None else f"{load.scripts:.2f} / {_number(load.redis_cpu_us, 0)}"


def _start(one: Figures, _: Sequence[Figures]) -> str:
    return _number(one.start_s or None, 2)


def _memory(one: Figures, _: Sequence[Figures]) -> str:
    if not one.rest_mb:
        return _NONE
    pairs = (f"{rest:.0f} > {one.end_mb[part]:.0f}" for part, rest in one.rest_mb.items())
    return " + ".join(pairs)


def _rest(one: Figures, _: Sequence[Figures]) -> str:
    return _number(one.rest_cpu_ms, 1) if one.rest_mb else _NONE


_SUMMARY: dict[str, Cell] = {
    "CPU us / request, 32 conns": _under(UNARY[1], lambda load: _number(load.cpu_us, 0)),
    f"x {FLOOR}": _ratio,
    "requests / s of one core, 128 conns: by CPU / measured (share in use)": _under(UNARY[2], _capacity),
    "added p50 / p99 ms, 1 conn": _under(UNARY[0], _added),
    "added p50 / p99 ms, 128 conns": _under(UNARY[2], _added),
    **{f"CPU us / chunk, {name}": _under(name, _chunk) for name in reversed(STREAMS)},
    "Redis calls / CPU us per request, 32 conns": _under(UNARY[1], _redis_share),
    "start s": _start,
    "RSS MB, rest > after": _memory,
    "CPU ms / s at rest": _rest,
}
