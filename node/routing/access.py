"""What a client key lets a name mean: less than it does for everybody, or nothing."""

from __future__ import annotations

from dataclasses import replace

from shared_state.client_keys import ClientKey
from shared_state.errors import ModelNotAllowedError, ModelNotFoundError
from shared_state.topology import Resolution, Topology


def resolve_for(key: ClientKey, topology: Topology, name: str) -> Resolution:
    """What the name means to the owner of a key.

    A name that is allowed means all that it does. Another name of a model needs the model to be allowed; a capability means those
    of its pools that are.

    Raises:
        ModelNotAllowedError: the key may use nothing of it.
        ModelNotFoundError: it means nothing.
    """
    try:
        meaning = topology.resolve(name)
    except ModelNotFoundError as error:
        if not key.models:
            raise
        # Near names would tell the owner of a narrow key what else there is.
        raise ModelNotFoundError("unknown model", param=error.param) from None
    if key.may_use(name):
        return meaning
    if meaning.is_exact:
        if all(key.may_use(model.id) for model in meaning.models or ()):
            return meaning
    elif pools := tuple(pool for pool in meaning.pools if key.may_use(pool.id)):
        return replace(meaning, pools=pools)
    raise ModelNotAllowedError(f"client key {key.id} may not use {name!r}", param="model")
