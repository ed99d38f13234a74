"""What a request will use at most, for its reservation. The estimate errs upward; settlement corrects it by fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.call import Call
from node.providers.usage import Usage, cost_nano
from shared_state.config import LimitsConfig
from shared_state.topology import ModelSpec

#: A token of today's tokenizers covers at least two bytes of a JSON body on average, in any script.
BYTES_PER_TOKEN: Final = 2
#: Output reserved when neither the request nor the model says how much may come.
DEFAULT_OUTPUT_TOKENS: Final = 4096
#: Records in Redis keep tokens in 32 bits, and Lua counts exactly up to 2**53.
_MOST_TOKENS: Final = 2**31 - 1
_MOST_COST_NANO: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens and cost (USD 1e-9) to reserve."""

    tokens_in: int
    tokens_out: int
    cost_nano: int


def estimate(call: Call, model: ModelSpec, room: int | None) -> Estimate:
    """The reservation for a call on a model; ``room`` is its ``token_room``.

    An output bound that the caller did not state is cut to what the token windows can ever hold; else a model with a
    small window and a large output would never be admitted.
    """
    tokens_in = -(-call.body_bytes // BYTES_PER_TOKEN)
    stated = call.surface.most_output(call.fields)
    if stated is None:
        answers = call.fields.get("n") or 1
        tokens_out = (model.config.constraints.max_output_tokens or DEFAULT_OUTPUT_TOKENS) * int(answers)
        if room is not None:
            tokens_out = max(1, min(tokens_out, room - tokens_in))
    else:
        tokens_out = stated
    tokens_in, tokens_out = min(tokens_in, _MOST_TOKENS), min(tokens_out, _MOST_TOKENS)
    cost = cost_nano(Usage(tokens_in, tokens_out), model.config.pricing)
    return Estimate(tokens_in, tokens_out, min(cost, _MOST_COST_NANO))


def token_room(model: LimitsConfig, account: LimitsConfig) -> int | None:
    """The smallest token window of a model and its account; None without any."""
    windows = [
        limit
        for limits in (model, account)
        for limit in (limits.tpm, limits.tph, limits.tpd, limits.tpw, limits.tpM)
        if limit is not None
    ]
    return min(windows, default=None)
