"""What a catalogue entry says: how a provider is reached, and what its models are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

CHAT_ONLY: Final = frozenset({"chat"})


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueModel:
    """A model that a provider is known to serve; ``None`` means that the catalogue does not know.

    Attributes:
        name: the name sent upstream.
        capabilities: short names of leaves.
        price_input: USD per million tokens.
        price_output: USD per million tokens.
        price_per_request: USD.
        features: features of `FeaturesConfig` that are known to be there, or not to be.
        zero_config: whether a key in the environment alone brings this model.
    """

    name: str
    capabilities: tuple[str, ...]
    context_window: int | None = None
    max_output_tokens: int | None = None
    price_input: float | None = None
    price_output: float | None = None
    features: Mapping[str, bool] = field(default_factory=dict)
    zero_config: bool = False
    price_per_request: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ConnectorProfile:
    """A provider: its API is the OpenAI format, Anthropic's, or that of a service of the web.

    Attributes:
        id: catalogue id.
        provider_name: the vendor's name; zero-configuration calls the provider so.
        base_url: endpoint with its version prefix; None where the configuration must say.
        auth: how a key travels, as a bearer or in ``x-api-key``; ``none`` where the server expects none.
        requires_key: whether the provider refuses calls without a key.
        env_var: variable that holds the key, or the host of a local server.
        dialect: family of the rate-limit headers in its answers.
        apis: those of its APIs for conversations that there are by several names: ``chat``, OpenAI's ``responses``, Anthropic's ``messages``.
        web: whose words it understands when pages are searched or read (``node.providers.web``); empty for our own.
        offers: short names of the only capabilities that its models can have; empty for any.
    """

    id: str
    provider_name: str
    base_url: str | None
    auth: Literal["bearer", "x-api-key", "none"] = "bearer"
    requires_key: bool = True
    env_var: str | None = None
    dialect: str = "openai"
    apis: frozenset[str] = CHAT_ONLY
    web: str = ""
    offers: tuple[str, ...] = ()
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    models: tuple[CatalogueModel, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether ``env_var`` names a host rather than a key."""
        return self.env_var is not None and self.env_var.endswith("_HOST")

    def model(self, name: str) -> CatalogueModel | None:
        """The catalogue's entry for an upstream name, if it has one."""
        return next((model for model in self.models if model.name == name), None)
