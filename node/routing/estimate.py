"""What a request will use at most, for its reservation. The estimate errs upward; settlement corrects it by fact."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from node.call import Call
from node.providers.usage import Usage, cost_nano
from node.providers.web import counts_tokens
from node.routing.strategies.base import Request
from node.routing.tokenizer import tokenizer_for
from node.routing.weight import without_media
from shared_state.config import LimitsConfig
from shared_state.config.limits import caps_of
from shared_state.topology import ModelSpec

#: For a body that nobody weighed: prose in any major language has more bytes to a token.
BYTES_PER_TOKEN: Final = 2
#: Output reserved when neither the request nor the model says how much may come.
DEFAULT_OUTPUT_TOKENS: Final = 4096
#: What is expected rather than reserved: the usual size of a token, and of an answer whose bound is not stated.
_USUAL_BYTES_PER_TOKEN: Final = 4
_USUAL_OUTPUT_TOKENS: Final = 500
#: Records in Redis keep tokens in 32 bits, and Lua counts exactly up to 2**53.
_MOST_TOKENS: Final = 2**31 - 1
_MOST_COST_NANO: Final = 2**53 - 1


class Estimate(NamedTuple):
    """Tokens and cost (USD 1e-9) to reserve."""

    tokens_in: int
    tokens_out: int
    cost_nano: int


def estimate(call: Call, model: ModelSpec, room: int | None, output_room: int | None = None) -> Estimate:
    """The reservation for a call on a model; the rooms are its ``token_room`` and ``output_room``.

    An output bound that the caller did not state is cut to what the token windows can ever hold; else a model with a
    small window and a large output would never be admitted.
    """
    tokens_in = prompt_tokens(call, model) if call.surface.is_read else 0
    stated = call.surface.most_output(call.fields)
    if stated is None:
        tokens_out = _most_of_one(call, model) * call.surface.answers(call.fields)
        if room is not None and tokens_out:
            tokens_out = max(1, min(tokens_out, room - tokens_in))
        if output_room is not None:
            tokens_out = min(tokens_out, output_room)
    else:
        tokens_out = stated
    tokens_in, tokens_out = min(tokens_in, _MOST_TOKENS), min(tokens_out, _MOST_TOKENS)
    cost = cost_nano(Usage(tokens_in, tokens_out), model.config.pricing)
    return Estimate(tokens_in, tokens_out, min(cost, _MOST_COST_NANO))


def _most_of_one(call: Call, model: ModelSpec) -> int:
    """Output of one answer, at most; of sound, images and the web only where it counts."""
    most = model.config.constraints.max_output_tokens
    surface = call.surface
    is_metered = surface.is_metered or (surface.is_web and counts_tokens(model.web))
    if most is None and not is_metered and not model.config.pricing.output:
        return 0
    return most or DEFAULT_OUTPUT_TOKENS


def prompt_tokens(call: Call, model: ModelSpec) -> int:
    """Most tokens that the prompt can have: counted where the model has a tokenizer, else as weighed at the door."""
    weight = call.prompt_tokens or -(-call.body_bytes // BYTES_PER_TOKEN)
    tokenizer = tokenizer_for(model.upstream) if model.config.tokenizer == "tiktoken" else None
    if tokenizer is None:
        return weight
    if tokenizer.name not in call.counted:
        lean, media = without_media(call.fields)
        call.counted[tokenizer.name] = media + tokenizer.count(orjson.dumps(lean))
    return call.counted[tokenizer.name]


def expect(call: Call) -> Request:
    """What a call will probably use, for comparing models with each other."""
    tokens_in = -(-call.body_bytes // _USUAL_BYTES_PER_TOKEN) if call.surface.is_read else 0
    if call.prompt_tokens:  # images are many bytes and few tokens
        tokens_in = min(tokens_in, call.prompt_tokens)
    stated = call.surface.most_output(call.fields)
    usual = (_USUAL_OUTPUT_TOKENS if call.surface.is_metered else 0) * call.surface.answers(call.fields)
    return Request(
        tokens_in=tokens_in,
        tokens_out=usual if stated is None else stated,
        tokens_known=max(0, tokens_in - _newest_tokens(call)) if call.session else 0,
        is_stream=call.is_stream,
        session=call.session,
    )


def _newest_tokens(call: Call) -> int:
    """Size of the last message of a conversation: what came before it was sent once already."""
    messages = call.fields.get("messages")
    if not isinstance(messages, list) or len(messages) < 2:
        return call.body_bytes
    last = messages[-1]
    content = last.get("content") if isinstance(last, dict) else None
    return -(-len(content) // _USUAL_BYTES_PER_TOKEN) if isinstance(content, str) else call.body_bytes


def token_room(model: LimitsConfig, account: LimitsConfig) -> int | None:
    """The smallest token window of a model and its account; None without any."""
    windows = [_smallest(model, account, ("tpm", "tph", "tpd", "tpw", "tpM"))]
    windows += [round(cap.most) for cap in caps_of(model) if cap.reason == "token_limit"]
    return min((window for window in windows if window is not None), default=None)


def output_room(model: LimitsConfig, account: LimitsConfig) -> int | None:
    """The smallest window of output tokens."""
    return _smallest(model, account, ("otpm", "otph", "otpd"))


def _smallest(model: LimitsConfig, account: LimitsConfig, names: tuple[str, ...]) -> int | None:
    windows = [getattr(limits, name) for limits in (model, account) for name in names]
    return min((window for window in windows if window is not None), default=None)
