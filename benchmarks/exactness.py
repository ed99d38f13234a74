"""The outside test of two promises: no window is ever exceeded, and the books balance, whatever dies meanwhile.

Load, upstream and oracle know nothing of what is examined. Without ``--url`` a fleet is started and struck by faults; with it
any OpenAI-compatible endpoint is examined whose provider is the counting upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from rich.console import Console

from benchmarks.exactness_load import Load
from benchmarks.exactness_oracle import Arrival, Balance, compare, judge
from benchmarks.exactness_report import Report, describe, save, show
from benchmarks.exactness_upstream import CountingUpstream
from benchmarks.exactness_windows import Plan, PlanError, read_plan

if TYPE_CHECKING:
    from benchmarks.exactness_faults import Fault
    from benchmarks.exactness_fleet import Fleet

_RESULTS = Path(__file__).parent / "results"
_ALL = "all"
_WIDTH = 110


async def examine(
    fleet: Fleet,
    upstream: CountingUpstream,
    faults: dict[str, Fault],
    *,
    prefix: str = "",
    seed: int,
    requests: int,
    seconds: float,
    awaits_allowances: bool = True,
) -> Report:
    """Load a fleet, let the faults strike, side by side, wait until it is quiet, and judge.

    Args:
        prefix: of the models to ask for, where several runs share a fleet.
        awaits_allowances: wait for what is booked only when the allowance of a dead node ends.
    """
    from benchmarks.exactness_fleet import plan

    asked, began = plan(prefix), time.monotonic()
    load = Load(fleet.cluster.base_url, asked.asks, seed=seed, requests=requests, seconds=seconds)
    await asyncio.gather(load.run(), *(_strike(fleet, faults, name, seed, seconds) for name in faults))
    await fleet.mend()
    balance = await _quiet_balance(fleet, asked, load, awaits_allowances=awaits_allowances)
    name = _ALL if len(faults) == len(_every_fault()) else "+".join(faults) or "none"
    return await _judged(upstream, asked, load, balance, name=name, seed=seed, began=began)


def _every_fault() -> dict[str, Fault]:
    from benchmarks.exactness_faults import FAULTS

    return FAULTS


async def _strike(fleet: Fleet, faults: dict[str, Fault], name: str, seed: int, seconds: float) -> None:
    """At a random time within the first half of the load."""
    rng = random.Random(f"{seed}/{name}")
    await asyncio.sleep(rng.uniform(0.1, 0.5) * seconds)
    await faults[name](fleet, rng)


async def _quiet_balance(fleet: Fleet, plan: Plan, load: Load, *, awaits_allowances: bool) -> Balance:
    """The balance as soon as it is clean, or as it is one lease time later; what is held then has leaked.

    What a node had admitted without its store, and died, is booked only when its allowance ends.
    """
    from benchmarks.exactness_fleet import ALLOWANCE_S, LEASE_S

    balance = await _balance_within(LEASE_S + 1.0, fleet, plan)
    if balance.is_clean:
        return balance
    await load.knock()
    balance = await _balance_within(1.0, fleet, plan)
    if not (balance.lost and awaits_allowances):
        return balance
    later = await _balance_within(ALLOWANCE_S - LEASE_S, fleet, plan)
    return replace(later, leaked=max(balance.leaked, later.leaked))


async def _balance_within(seconds: float, fleet: Fleet, plan: Plan) -> Balance:
    """Clean, or the last one within that time."""
    give_up_at = time.monotonic() + seconds
    while True:
        balance = await fleet.balance(plan.models)
        if balance.is_clean or time.monotonic() > give_up_at:
            return balance
        await asyncio.sleep(0.25)


async def _judged(
    upstream: CountingUpstream,
    plan: Plan,
    load: Load,
    balance: Balance | None,
    *,
    name: str,
    seed: int,
    began: float,
) -> Report:
    arrivals, lag_s = await upstream.ledger()
    return Report(
        name,
        seed,
        dict(load.answers),
        [judge(window, arrivals) for window in plan.windows],
        balance,
        sum(one.model in plan.models for one in arrivals),
        lag_s,
        time.monotonic() - began,
    )


async def _examine_fleet(options: argparse.Namespace, names: str, seed: int) -> Report:
    from benchmarks.exactness_faults import ALONE
    from benchmarks.exactness_fleet import Fleet

    known = _every_fault() | ALONE
    chosen = list(_every_fault()) if names == _ALL else [] if names == "none" else names.split("+")
    faults = {name: known[name] for name in chosen}
    with CountingUpstream(seed=seed) as upstream, Fleet(upstream, nodes=options.nodes) as fleet:
        requests, seconds = options.requests, options.seconds
        return await examine(fleet, upstream, faults, seed=seed, requests=requests, seconds=seconds)


async def _examine_endpoint(
    options: argparse.Namespace, plan: Plan, seed: int, upstream: CountingUpstream
) -> Report:
    """Somebody else's endpoint, under the faults that the operator's command makes."""
    began = time.monotonic()
    load = Load(
        options.url,
        plan.asks,
        seed=seed,
        requests=options.requests,
        api_key=options.api_key,
        seconds=options.seconds,
        workers=options.workers,
    )
    striking = asyncio.create_task(_run_command(options.fault_command, options.fault_every, seed))
    await load.run()
    striking.cancel()
    await asyncio.gather(striking, return_exceptions=True)
    arrivals, _ = await upstream.ledger()
    balance = await _balance_of(options.books, arrivals, options.settle) if options.books else None
    name = options.fault_command or "none"
    return await _judged(upstream, plan, load, balance, name=name, seed=seed, began=began)


async def _run_command(command: str | None, every_s: float, seed: int) -> None:
    rng = random.Random(seed)
    while command:
        await asyncio.sleep(rng.expovariate(1 / every_s))
        process = await asyncio.create_subprocess_shell(command)
        await process.wait()


async def _balance_of(url: str, arrivals: Sequence[Arrival], settle_s: float) -> Balance:
    """The endpoint's own books, once they are clean or the time to settle is over."""
    give_up_at = time.monotonic() + settle_s
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        while True:
            async with session.get(url) as response:
                balance = compare(arrivals, (await response.json())["rows"])
            if balance.is_clean or time.monotonic() > give_up_at:
                return balance
            await asyncio.sleep(0.5)


async def _examine_endpoint_with_seeds(options: argparse.Namespace, plan: Plan) -> list[Report]:
    """All seeds on one upstream: windows outlive a run, and so does its ledger."""
    with CountingUpstream(host=options.upstream_host, port=options.upstream_port) as upstream:
        _console().print(describe(plan, upstream.base_url))
        seeds = range(1, options.seeds + 1)
        return [await _examine_endpoint(options, plan, seed, upstream) for seed in seeds]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=150.0, help="spread the requests over this time")
    parser.add_argument("--seeds", type=int, default=3, help="this many runs of each kind")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder for JSON and Markdown")
    parser.add_argument("--name", help="of the files there; default: date and `exactness`")
    own = parser.add_argument_group("a fleet of our own")
    own.add_argument("--nodes", type=int, default=4)
    own.add_argument(
        "--faults", default=f"none,{_ALL}", help="runs by comma, faults of a run by plus; none, all"
    )
    other = parser.add_argument_group("any endpoint")
    other.add_argument("--url", help="of the endpoint; its provider must be the counting upstream")
    other.add_argument("--api-key", default="unused")
    other.add_argument("--upstream-host", default="127.0.0.1")
    other.add_argument("--upstream-port", type=int, default=0, help="where the counting upstream listens")
    other.add_argument("--limits", type=Path, help="YAML or JSON: what is asked for, and the windows")
    other.add_argument("--workers", type=int, default=64)
    other.add_argument("--fault-command", help="run in a shell at random times while the load lasts")
    other.add_argument("--fault-every", type=float, default=15.0, help="seconds between them, on average")
    other.add_argument("--books", help="URL of books in JSON: rows of model, admitted, settled, ...")
    other.add_argument("--settle", type=float, default=30.0, help="seconds that books may take to settle")
    options = parser.parse_args()
    if options.url and not options.limits:
        parser.error("--url needs --limits")
    return options


def _run(options: argparse.Namespace) -> list[Report]:
    if options.url:
        return asyncio.run(_examine_endpoint_with_seeds(options, read_plan(options.limits)))
    return [
        asyncio.run(_examine_fleet(options, names, seed))
        for names in options.faults.split(",")
        for seed in range(1, options.seeds + 1)
    ]


def _console() -> Console:
    """Wide enough for the tables, also where there is no terminal."""
    return Console(width=max(_WIDTH, shutil.get_terminal_size().columns))


def main() -> int:
    """Run what the command line asks for; 1 if anything was not exact, 2 if nothing could be judged."""
    options, console = _options(), _console()
    try:
        reports = _run(options)
    except (PlanError, OSError) as error:
        console.print(f"{error}", style="red")
        return 2
    show(reports, console)
    if not all(report.calls for report in reports):
        console.print("Nothing arrived at the upstream: is it the provider of what was asked?", style="red")
        return 2
    save(reports, options.results, name=options.name or f"{datetime.now(UTC):%Y-%m-%d}-exactness")
    return 0 if all(report.is_exact for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
