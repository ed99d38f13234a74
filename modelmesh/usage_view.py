"""`modelmesh usage`: every quota as a bar, pools first, then the accounts behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelmesh.drawing import (
    BAD,
    FAIR,
    GOOD,
    QUIET,
    Fitting,
    amount,
    bar,
    load_style,
    span,
    table,
    text,
    until,
)
from shared_state.shapes.usage import AccountUsage, PoolUsage, QuotaUsage, UsageView, WindowUsage

_SOON_S = 3600.0


def usage_view(usage: UsageView, *, now: float) -> RenderableType:
    """Pools, each as one quota; then accounts and models, window by window."""
    return Group(
        Fitting(_pools(usage.pools), "resting", "rate", "of"),
        Fitting(_accounts(usage.accounts, now=now), "held", "rate", "of", "used", "resets"),
    )


def _pools(pools: Iterable[PoolUsage]) -> Table:
    view = table("Pools", "pool", "quota", "", "#left", "#of", "#resting", "#rate", "runs dry")
    for pool in pools:
        names = _column(_pool_name(pool), len(pool.quotas))
        if not pool.quotas:
            view.add_row(next(names), Text("no limits", style=QUIET), *([""] * 6))
        for quota in pool.quotas:
            view.add_row(next(names), *_quota(quota))
        view.add_section()
    return view


def _pool_name(pool: PoolUsage) -> Text:
    count = f"{pool.active} of {pool.members} active"
    style = GOOD if pool.active == pool.members else FAIR if pool.active else BAD
    return Text.assemble((text(pool.id).plain, "bold"), "  ", (count, style))


def _quota(quota: QuotaUsage) -> list[Text]:
    is_money = quota.unit.startswith("usd")
    if quota.limit is None or quota.remaining is None:
        cells = [Text("unlimited", style=QUIET), Text(""), Text("")]
    else:
        left = Text(amount(quota.remaining, is_money=is_money), style=load_style(quota.share))
        cells = [bar(quota.share), left, Text(amount(quota.limit, is_money=is_money))]
    resting = Text(amount(quota.resting, is_money=is_money) if quota.resting else "", style=QUIET)
    return [_unit(quota.unit), *cells, resting, _rate(quota.rate, quota.unit), dry(quota.dry_s)]


def _accounts(accounts: Iterable[AccountUsage], *, now: float) -> Table:
    view = table(
        "Accounts",
        "account, model",
        "window",
        "",
        "#used",
        "#held",
        "#left",
        "#of",
        "#rate",
        "resets",
        "runs dry",
    )
    for account in accounts:
        _add(view, Text(text(account.id).plain, style="bold"), account.windows, now=now)
        for model in account.models:
            name = Text.assemble("  ", text(model.id))
            if model.status != "active":
                name.append(f" ({model.status})", style=BAD)
            _add(view, name, model.windows, now=now)
        view.add_section()
    return view


def _add(view: Table, name: Text, windows: list[WindowUsage], *, now: float) -> None:
    names = _column(name, len(windows))
    if not windows:
        view.add_row(next(names), Text("no limits", style=QUIET), *([""] * 8))
    for window in windows:
        view.add_row(next(names), *_window(window, now=now))


def _window(window: WindowUsage, *, now: float) -> list[Text]:
    is_money = window.unit.startswith("usd")
    numbers = (window.used, window.held, window.remaining, window.limit)
    used, held, left, limit = (amount(number, is_money=is_money) for number in numbers)
    return [
        text(window.name),
        bar(window.share, held=window.held / window.limit if window.limit else 0.0),
        Text(used),
        Text(held if window.held else "", style=QUIET),
        Text(left, style=load_style(window.share)),
        Text(limit),
        _rate(window.rate, window.unit),
        Text(until(window.resets, now=now), style=QUIET),
        dry(window.dry_s),
    ]


def dry(dry_s: float | None) -> Text:
    """When nothing will be left: red if it is now, yellow if it is within the hour."""
    if dry_s is None:
        return Text("lasts", style=QUIET)
    if dry_s <= 0:
        return Text("dry", style=BAD)
    return Text(f"in {span(dry_s)}", style=FAIR if dry_s < _SOON_S else "")


def _rate(rate: float, unit: str) -> Text:
    if rate <= 0:
        return Text("")
    if unit.startswith("usd"):
        return Text(f"{amount(rate * 3600, is_money=True)}/h")
    return Text(f"{amount(rate * 60)}/min")


def _unit(unit: str) -> Text:
    return text(unit.replace("usd", "USD").replace("_", " "))


def _column(name: Text, rows: int) -> Iterator[Text]:
    """The first cell of each row of a group: its name once."""
    return iter([name, *([Text("")] * max(0, rows - 1))])
