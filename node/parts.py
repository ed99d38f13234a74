"""What a node needs from elsewhere for a configuration: strategies, certificates, vocabularies. It may be missing, and takes its time."""

from __future__ import annotations

from node.routing.strategies import build_strategies
from node.routing.tokenizer import tokenizer_for
from node.upstream.dialler import shared_ssl_context
from shared_state.topology import Topology


def load_parts(topology: Topology) -> None:
    """Loads them, so that no request has to wait.

    Raises:
        ConfigurationError: a strategy cannot be loaded.
    """
    build_strategies(topology.pools.values())
    if any(provider.base_url.startswith("https:") for provider in topology.providers.values()):
        shared_ssl_context()
    for model in topology.models.values():
        if model.config.tokenizer == "tiktoken":
            tokenizer_for(model.upstream)
