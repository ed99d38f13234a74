"""How many tokens a request has, without sending it: nothing is reserved, nothing is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from node.call import Call
from node.providers.connector import unary_fields
from node.routing.estimate import prompt_tokens
from node.routing.lanes import Lane
from node.routing.pipeline import Pipeline
from shared_state.errors import ModelNotFoundError, ProviderError
from shared_state.topology import ModelSpec

#: The estimate is there at once: a provider's own count is worth no long wait.
_PATIENCE_S: Final = 3.0
_MOST_BYTES: Final = 64 << 10


class Counter:
    """Counts for the models behind a name.

    Args:
        lanes: the ways to all models.
    """

    def __init__(self, pipeline: Pipeline, lanes: Mapping[str, Lane]) -> None:
        self._pipeline = pipeline
        self._lanes = lanes

    async def count(self, call: Call) -> int:
        """Tokens of the prompt: by the provider's own count where the first model's is known to have one, else as
        they would be reserved, on the model that has the most of them.

        Raises:
            ModelNotFoundError: the name means nothing, or nothing that this API can use.
            ModelNotAllowedError: it means nothing that the client key may use.
        """
        plan = self._pipeline.draft(call, call.name)
        models = [model for _, members in plan.prospect.serving for model in members]
        if not models:
            raise ModelNotFoundError(
                f"no model of {call.name!r} serves the {call.surface.name} API", param="model"
            )
        told = await self._ask(call, models[0])
        return max(prompt_tokens(call, model) for model in models) if told is None else told

    async def _ask(self, call: Call, model: ModelSpec) -> int | None:
        """The provider's count; None if it has none, or is away."""
        connector = self._lanes[model.id].connector
        known = connector.provider.connector.apis & connector.provider.apis
        if call.surface.api not in known or not self._pipeline.is_open(model):
            return None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                response = await connector.send(connector.request(call, model))
                body = await connector.read(response, most_bytes=_MOST_BYTES)
            tokens = unary_fields(body, provider=model.provider).get("input_tokens")
        except (ProviderError, TimeoutError):
            return None
        return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None
