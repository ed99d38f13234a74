"""All that a node needs to use one model, built once per configuration."""

from __future__ import annotations

from dataclasses import dataclass

from node.batch import DomainBatcher
from node.leases import Allowance
from node.providers.connector import Connector
from node.routing.estimate import output_room, token_room
from node.routing.tokenizer import tokenizer_for
from shared_state.config import TimeoutsConfig
from shared_state.config.checks import spends_money
from shared_state.limits import may_refuse
from shared_state.topology import ModelSpec, ProviderSpec

#: How much longer than the longest call a reservation lives: time to settle.
_SETTLE_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Lane:
    """The way to one model.

    Attributes:
        allowance: what may be admitted without Redis.
        token_room: smallest token window of model and account, None without any.
        output_room: the same of the windows of output tokens.
        is_limited: whether anything is limited on the model or its account.
        spends_money: whether money is.
        lease_ms: how long a reservation lives without settlement.
    """

    connector: Connector
    batcher: DomainBatcher
    allowance: Allowance
    clocks: TimeoutsConfig
    token_room: int | None
    output_room: int | None
    is_limited: bool
    spends_money: bool
    lease_ms: int


def build_lane(
    model: ModelSpec,
    provider: ProviderSpec,
    connector: Connector,
    batcher: DomainBatcher,
    allowance: Allowance,
) -> Lane:
    """The lane of a model on its provider."""
    if model.config.tokenizer == "tiktoken":
        tokenizer_for(model.upstream)  # reads its vocabulary now, not in the first request
    limits, account, clocks = model.config.limits, provider.config.limits, provider.config.timeouts
    return Lane(
        connector=connector,
        batcher=batcher,
        allowance=allowance,
        clocks=clocks,
        token_room=token_room(limits, account),
        output_room=output_room(limits, account),
        is_limited=may_refuse(limits) or may_refuse(account),
        spends_money=spends_money(limits) or spends_money(account),
        lease_ms=round((clocks.connect + clocks.total + _SETTLE_GRACE_S) * 1000),
    )
