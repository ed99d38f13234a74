"""State of quota domains outside the hot path: reading it whole, operators' orders, recovery and reaping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import ormsgpack

from shared_state.cancellation import obey_cancellation
from shared_state.deadline import Deadline
from shared_state.errors import FencedOffError
from shared_state.limits import windows_of
from shared_state.state import DomainState, decode_entity
from shared_state.store import Store
from shared_state.topology import DomainSpec

_ABANDON_AT_ONCE: Final = 200
_SCAN_AT_ONCE: Final = 1000

Kind = Literal["model", "provider"]


class Pulse(NamedTuple):
    """What tells whether a domain has to be read again.

    Attributes:
        copied_ms: server time of its last durable copy; 0 if there is none.
    """

    epoch: int
    term: int
    copied_ms: int


@dataclass(slots=True, frozen=True)
class Order:
    """State of an entity after an operator's order."""

    status: str
    reason: str
    until_ms: int


async def read_domain(store: Store, domain: DomainSpec) -> tuple[int, DomainState]:
    """Server time and the state of all models and providers, consistent at one moment."""
    wanted = [("provider", p.id) for p in domain.providers] + [("model", m.id) for m in domain.models]
    now_ms, epoch, term, *rows = await store.run(
        "read_domain", [store.keys.domain(domain.id)], [ormsgpack.packb(wanted)]
    )
    states = {entity: decode_entity(row) for entity, row in zip(wanted, rows, strict=True)}
    return now_ms, DomainState(
        epoch=epoch,
        term=term,
        models={name: state for (kind, name), state in states.items() if kind == "model"},
        providers={name: state for (kind, name), state in states.items() if kind == "provider"},
    )


async def read_pulses(store: Store, domains: Sequence[str]) -> dict[str, Pulse]:
    """The pulse of each domain, in one round trip."""
    pipe = store.client.pipeline(transaction=False)
    for domain in domains:
        pipe.hmget(store.keys.domain(domain), ["epoch", "term", "copied"])
    async with Deadline(store.timeout_s):
        rows = await pipe.execute()
    obey_cancellation()
    return {
        domain: Pulse(*(int(value or 0) for value in row)) for domain, row in zip(domains, rows, strict=True)
    }


async def next_lease_ends(store: Store, domains: Sequence[str]) -> dict[str, float]:
    """When the first lease of each domain ends, in unix milliseconds; infinity where there is none."""
    return await _read_firsts(store, domains, [store.keys.leases(domain) + ":ends" for domain in domains])


async def next_recoveries(store: Store, domains: Sequence[str]) -> dict[str, float]:
    """When the first recovery of each domain is due, in unix milliseconds; infinity where there is none."""
    return await _read_firsts(store, domains, [store.keys.due(domain) for domain in domains])


async def _read_firsts(store: Store, domains: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    found = await _read_each(store, names, lambda pipe, name: pipe.zrange(name, 0, 0, withscores=True))
    return {
        domain: float(rows[0][1]) if rows else math.inf for domain, rows in zip(domains, found, strict=True)
    }


async def read_lists_of_news(store: Store, domains: Sequence[str]) -> list[list[bytes]]:
    """The latest events of each domain as they were published, newest first."""
    names = [store.keys.news(domain) for domain in domains]
    return await _read_each(store, names, lambda pipe, name: pipe.lrange(name, 0, -1))


async def _read_each(store: Store, names: Sequence[str], ask: Callable[[Any, str], object]) -> list[Any]:
    """The replies to one command for each key, in few round trips."""
    found: list[Any] = []
    for i in range(0, len(names), _SCAN_AT_ONCE):
        pipe = store.client.pipeline(transaction=False)
        for name in names[i : i + _SCAN_AT_ONCE]:
            ask(pipe, name)
        async with Deadline(store.timeout_s):
            found += await pipe.execute()
    return found


async def order(
    store: Store,
    domain: str,
    *,
    kind: Kind,
    name: str,
    action: Literal["deactivate", "activate"],
    reason: str = "manual",
    for_s: float = 0,
    node: str = "",
) -> Order:
    """Carries out an operator's order; ``for_s`` of 0 means until further notice."""
    status, why, until_ms = await store.run(
        "set_state",
        [store.keys.domain(domain)],
        [domain, store.keys.channel, node, kind, name, action, reason, round(for_s * 1000)],
    )
    return Order(status.decode(), why.decode(), until_ms)


async def tell(store: Store, domain: str, *, event: str, name: str, reason: str, node: str) -> None:
    """Tells everybody of something about a model that has changed no state. Sent again it is told again."""
    await store.run(
        "tell",
        [store.keys.domain(domain)],
        [domain, store.keys.channel, node, event, "model", name, reason],
    )


async def recover_due(store: Store, domain: str, *, token: int, most: int = 100) -> list[tuple[str, str]]:
    """Begins the recovery of what is due: pairs of ``m:<model>`` or ``p:<provider>`` and ``active`` or ``trial``.

    Raises:
        FencedOffError: another scheduler leads.
    """
    reply = await store.run("recover", [store.keys.domain(domain)], [token, domain, store.keys.channel, most])
    if reply and reply[0] == -1:
        raise FencedOffError(domain)
    names = [item.decode() for item in reply]
    return list(zip(names[::2], names[1::2], strict=True))


async def maintain(store: Store, domain: str, rests: Sequence[tuple[str, int, int]], *, token: int) -> int:
    """Begins maintenance: (model, begin ms, end ms) of windows that are running; how many models it took out.

    Raises:
        FencedOffError: another scheduler leads.
    """
    rested: int = await store.run(
        "maintain",
        [store.keys.domain(domain)],
        [token, domain, store.keys.channel, ormsgpack.packb(list(rests))],
    )
    if rested < 0:
        raise FencedOffError(domain)
    return rested


async def lift_rests(
    store: Store, domain: DomainSpec, entities: Sequence[tuple[Kind, str]], *, token: int, now_ms: int
) -> list[tuple[str, str]]:
    """Ends standbys that are owed to money or caps, where the limits of the domain have room for another call now; (kind, id) of each.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away; doing it again is safe.
    """
    limits = {model.id: model.config.limits for model in domain.models}
    asked = [
        (kind, name, windows_of(limits[name], now_ms) if kind == "model" else []) for kind, name in entities
    ]
    packed = ormsgpack.packb((windows_of(domain.providers[0].config.limits, now_ms), asked))
    keys = [store.keys.domain(domain.id)]
    reply = await store.run("lift_rests", keys, [token, domain.id, store.keys.channel, packed])
    if reply and reply[0] == -1:
        raise FencedOffError(domain.id)
    names = [item.decode() for item in reply]
    return list(zip(names[::2], names[1::2], strict=True))


async def abandon_of_nodes(store: Store, domain: str, nodes: set[str], *, token: int) -> int:
    """Books every reservation of dead nodes as abandoned; how many there were.

    Raises:
        FencedOffError: another scheduler leads.
    """
    flight, abandoned, start = store.keys.flight(domain), 0, 0
    found: list[str] = []
    while page := await store.command("ZRANGE", flight, start, start + _SCAN_AT_ONCE - 1):
        found += [member for member in (raw.decode() for raw in page) if _node_of(member) in nodes]
        start += _SCAN_AT_ONCE
    for i in range(0, len(found), _ABANDON_AT_ONCE):
        batch = ormsgpack.packb(found[i : i + _ABANDON_AT_ONCE])
        count = await store.run(
            "abandon", [store.keys.domain(domain)], [token, batch, domain, store.keys.channel]
        )
        if count < 0:
            raise FencedOffError(domain)
        abandoned += count
    return abandoned


async def read_nodes_on_record(store: Store, domains: Sequence[str]) -> dict[str, set[str]]:
    """The nodes whose sequences each domain knows."""
    names = [store.keys.sequences(domain) for domain in domains]
    found = await _read_each(store, names, lambda pipe, name: pipe.hkeys(name))
    return {
        domain: {field.decode().rpartition("\t")[0] for field in fields}
        for domain, fields in zip(domains, found, strict=True)
    }


async def forget_nodes(store: Store, domain: str, nodes: set[str], *, token: int) -> None:
    """Forgets the sequences of nodes that will not be heard of again.

    Raises:
        FencedOffError: another scheduler leads.
    """
    names = sorted(nodes)
    for i in range(0, len(names), _ABANDON_AT_ONCE):
        batch = ormsgpack.packb(names[i : i + _ABANDON_AT_ONCE])
        if await store.run("forget_nodes", [store.keys.domain(domain)], [token, batch]) < 0:
            raise FencedOffError(domain)


def _node_of(member: str) -> str:
    """The node in ``model TAB node.number``."""
    return member.partition("\t")[2].rpartition(".")[0]
