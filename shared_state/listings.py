"""The lists of models that providers publish, as the scheduler has seen them last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import ormsgpack
from pydantic import TypeAdapter, ValidationError

from shared_state.errors import FencedOffError
from shared_state.shapes.listing import ListedModel
from shared_state.store import Store

#: Reason of the standby that a retired model is put on; a list that has the model again ends it.
RETIRED: Final = "retired by its provider"
_MODELS: Final = TypeAdapter(list[ListedModel])
_MISMATCHES: Final = TypeAdapter(dict[str, str])
_NEVER: Final = 0


class ModelNews(NamedTuple):
    """Something to tell about a model.

    Attributes:
        model: a configured id, or ``provider/name`` of one that is not configured.
    """

    event: Literal["model_discovered", "model_deprecated", "model_changed"]
    model: str
    reason: str
    until_ms: int = 0
    numbers: Mapping[str, int] = {}


class ModelOrder(NamedTuple):
    """A model to be taken out, or brought back if it was taken out so."""

    model: str
    action: Literal["deactivate", "activate"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list as it was kept.

    Attributes:
        version: 0 if there is none.
        time_ms: server time at which it was compared; 0 if there is none that can be compared with.
        mismatches: what was told of configured models whose sizes are listed otherwise.
    """

    version: int = _NEVER
    time_ms: int = 0
    models: tuple[ListedModel, ...] = field(default=())
    mismatches: Mapping[str, str] = field(default_factory=dict)


async def read_listing(store: Store, domain: str, provider: str) -> Listing:
    """The last list of a provider.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    key = store.keys.listing(domain, provider)
    version, time_ms, models, told = await store.command(
        "HMGET", key, "version", "time", "models", "mismatches"
    )
    if version is None:
        return Listing()
    try:
        mismatches = _MISMATCHES.validate_json(told or b"{}")
        return Listing(int(version), int(time_ms), tuple(_MODELS.validate_json(models)), mismatches)
    except ValidationError:  # another release's: as if it were the first
        return Listing(int(version), 0)


async def keep_listing(
    store: Store,
    domain: str,
    provider: str,
    models: Sequence[ListedModel],
    *,
    token: int,
    version: int,
    time_ms: int,
    kept_s: float,
    news: Sequence[ModelNews],
    orders: Sequence[ModelOrder],
    mismatches: Mapping[str, str] = MappingProxyType({}),
) -> bool:
    """Keeps a list and tells its news, once; False if another list was kept since the one of that version.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away; the list may have been kept.
    """
    told: int = await store.run(
        "keep_listing",
        [store.keys.domain(domain)],
        [
            *(token, domain, store.keys.channel, provider, version),
            _MODELS.dump_json(list(models), exclude_defaults=True),
            round(kept_s * 1000),
            ormsgpack.packb([[*item[:4], dict(item.numbers)] for item in news]),
            ormsgpack.packb([list(order) for order in orders]),
            RETIRED,
            time_ms,
            _MISMATCHES.dump_json(dict(mismatches)),
        ],
    )
    if told < 0:
        raise FencedOffError(domain)
    return told == 1
