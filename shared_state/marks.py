"""How far each target of events was told: written by the leading scheduler with every delivery, read by whoever leads next and by nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import orjson

from shared_state.errors import FencedOffError
from shared_state.store import Store


class Place(NamedTuple):
    """The newest event of a list that a target was told."""

    time_ms: int
    id: str


@dataclass(slots=True)
class Mark:
    """The state of a target.

    Attributes:
        since_ms: server time at which it was first seen; what was before is not told.
        places: list of news -> the newest event of it that was delivered, or passed over.
        delivered: events that it took.
        lost: events that it was not told, at least: too many waited, it refused them, or they had left their list before.
        waiting: events that wait for it.
        is_down: whether its quick retries were in vain.
        error: what went wrong last; empty if all is well.
    """

    since_ms: int
    places: dict[str, Place] = field(default_factory=dict)
    delivered: int = 0
    lost: int = 0
    waiting: int = 0
    is_down: bool = False
    error: str = ""


async def read_mark(store: Store, name: str) -> Mark | None:
    """The mark of a target; None if there is none that can be read.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    return _decode(await store.command("HGET", store.keys.targets, f"t:{name}"))


async def read_marks(store: Store, names: Iterable[str]) -> dict[str, Mark]:
    """The marks of those targets that have one.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    wanted = list(names)
    if not wanted:
        return {}
    raw = await store.command("HMGET", store.keys.targets, *(f"t:{name}" for name in wanted))
    marks = {name: _decode(text) for name, text in zip(wanted, raw, strict=True)}
    return {name: mark for name, mark in marks.items() if mark is not None}


async def keep_mark(store: Store, name: str, mark: Mark, *, token: int) -> None:
    """Keeps a mark; doing it again changes nothing.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away; it may have been kept.
    """
    told = asdict(mark) | {"places": {at: list(place) for at, place in mark.places.items()}}
    if await store.run("keep_mark", [store.keys.targets], [token, name, orjson.dumps(told)]) < 0:
        raise FencedOffError("targets")


def _decode(raw: bytes | None) -> Mark | None:
    if raw is None:
        return None
    try:
        told: dict[str, Any] = orjson.loads(raw)
        places = {str(name): Place(int(at), str(id_)) for name, (at, id_) in told.pop("places").items()}
        return Mark(places=places, **told)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):  # another release's
        return None
