"""How long attempts of a model wait for their first content, over the whole cluster: a few of the latest, shared by nodes whose pools hedge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ormsgpack

from shared_state.store import Store


class Wait(NamedTuple):
    """One attempt's, by its reservation: told twice it counts once."""

    reservation: str
    ms: int


async def share_waits(
    store: Store, domain: str, waits: Mapping[str, Sequence[Wait]]
) -> dict[str, float | None]:
    """Tells what was seen since the last time, and hears what 19 of 20 of each model's latest attempts stayed below, in seconds.

    None: fewer than twenty are known of the last ten minutes. At most two hundred are kept of a model.

    Args:
        waits: for every model that is asked for, what there is to tell of it.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    told = [(model, [part for wait in seen for part in wait]) for model, seen in waits.items()]
    reply = await store.run("share_waits", [store.keys.domain(domain)], [ormsgpack.packb(told)])
    return {model: None if ms < 0 else ms / 1000 for model, ms in zip(waits, reply, strict=True)}
