"""What lies in Redis for domains, providers and models: when a configuration had them last, and how what is left of them goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum
from typing import Literal, NamedTuple

import ormsgpack

from shared_state.cancellation import obey_cancellation
from shared_state.deadline import Deadline
from shared_state.errors import FencedOffError
from shared_state.gates import ANY_MODEL, pool_gate
from shared_state.store import Argument, Store
from shared_state.topology import Topology


class Item(NamedTuple):
    """A quota domain, or a provider or a model in it; ``id`` of a domain is its own."""

    kind: Literal["domain", "provider", "model"]
    domain: str
    id: str


class End(IntEnum):
    """What became of an attempt to delete something."""

    GONE = 1
    HELD = 0
    OWED = -2


def items_of(topology: Topology) -> set[Item]:
    """Everything that a configuration has; of each pool the domain that its cursors and its gate share."""
    domains = {*topology.domains, *topology.gates, *map(pool_gate, topology.pools)}
    return {
        *(Item("domain", name, name) for name in domains),
        *(Item("provider", p.domain, p.id) for p in topology.providers.values()),
        *(Item("model", m.domain, m.id) for m in topology.models.values()),
    }


async def read_known(store: Store) -> dict[Item, int]:
    """Everything that a leading scheduler has had in its configuration: when that was last, in server ms.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    raw: dict[bytes, bytes] = await store.command("HGETALL", store.keys.known)
    return {Item(*name.decode().split("\t", 2)): int(at) for name, at in raw.items()}  # type: ignore[arg-type]


async def note_known(store: Store, items: Iterable[Item], *, now_ms: int) -> None:
    """These are in use now.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    flat: list[Argument] = []
    for item in items:
        flat += ["\t".join(item), now_ms]
    if flat:
        await store.command("HSET", store.keys.known, *flat)


async def drop_known(store: Store, items: Iterable[Item]) -> None:
    """Nothing is left of these.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    names = ["\t".join(item) for item in items]
    if names:
        await store.command("HDEL", store.keys.known, *names)


async def read_in_flight(store: Store, domains: Collection[str]) -> dict[str, int]:
    """How many calls are in flight in each domain, in one round trip.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    pipe = store.client.pipeline(transaction=False)
    for domain in domains:
        pipe.zcard(store.keys.flight(domain))
    async with Deadline(store.timeout_s):
        counts = await pipe.execute()
    obey_cancellation()
    return dict(zip(domains, counts, strict=True))


async def forget(store: Store, item: Item, within: Iterable[Item] = (), *, token: int) -> End:
    """Deletes what is left, unless something is owed.

    Args:
        within: providers and models that were known in a domain.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away; it may have been deleted.
    """
    script: str = "forget_entity"
    args: list[Argument] = [token, item.kind, item.id]
    if item.kind == "domain":
        inner = list(within)
        models = [other.id for other in inner if other.kind == "model"]
        providers = [other.id for other in inner if other.kind == "provider"]
        packed = (ormsgpack.packb([*models, ANY_MODEL]), ormsgpack.packb([*providers, item.id]))
        script, args = "forget_domain", [token, *packed]
    end: int = await store.run(script, [store.keys.domain(item.domain)], args)
    if end == -1:
        raise FencedOffError(item.domain)
    return End(end)
