"""Services of the web: what searches it, and what reads its pages. How each is spoken to stands in ``node.providers.web``.

Prices are USD per request, as documented when the entry was written; a configuration overrides them.
"""

from __future__ import annotations

from typing import Final

from shared_state.catalogue.profiles import CatalogueModel, ConnectorProfile

_SEARCH: Final = ("web-search",)
_READING: Final = ("document-parsing",)
_BOTH: Final = (*_SEARCH, *_READING)

WEB_VENDORS: Final[tuple[ConnectorProfile, ...]] = (
    ConnectorProfile(
        id="tavily.search.v1",
        provider_name="tavily",
        base_url="https://api.tavily.com",
        env_var="TAVILY_API_KEY",
        dialect="none",
        web="tavily",
        offers=_BOTH,
        models=(
            CatalogueModel("tavily-search", _SEARCH, price_per_request=0.01, zero_config=True),
            CatalogueModel("tavily-search-basic", _SEARCH, price_per_request=0.005),
            CatalogueModel("tavily-extract", _READING),
        ),
    ),
    ConnectorProfile(
        id="serper.search.v1",
        provider_name="serper",
        base_url="https://google.serper.dev",
        auth="x-api-key",
        env_var="SERPER_API_KEY",
        dialect="none",
        web="serper",
        offers=_BOTH,
        models=(
            CatalogueModel("serper-google-search", _SEARCH, price_per_request=0.001, zero_config=True),
            CatalogueModel("serper-scrape", _READING),
        ),
    ),
    ConnectorProfile(
        id="jina.ai.v1",
        provider_name="jina",
        base_url="https://api.jina.ai/v1",
        env_var="JINA_API_KEY",
        dialect="none",
        web="jina",
        offers=(*_BOTH, "text-embeddings", "image-embeddings", "multimodal-embeddings", "reranking"),
        models=(
            # What a search without its pages is billed at; one that reads them costs more.
            CatalogueModel("jina-search", _SEARCH, max_output_tokens=10_000, zero_config=True),
            CatalogueModel("jina-reader", _READING, zero_config=True),
            CatalogueModel("jina-embeddings-v3", ("text-embeddings",), zero_config=True),
            CatalogueModel("jina-reranker-v2-base-multilingual", ("reranking",), zero_config=True),
        ),
    ),
    ConnectorProfile(
        id="firecrawl.scrape.v1",
        provider_name="firecrawl",
        base_url="https://api.firecrawl.dev/v1",
        env_var="FIRECRAWL_API_KEY",
        dialect="none",
        web="firecrawl",
        offers=_BOTH,
        models=(
            CatalogueModel("firecrawl-scrape", _READING, price_per_request=0.001, zero_config=True),
            CatalogueModel("firecrawl-search", _SEARCH),
        ),
    ),
    ConnectorProfile(
        id="modelmesh.web.v1",
        provider_name="modelmesh-web",
        base_url=None,
        requires_key=False,
        dialect="none",
        web="own",
        offers=_BOTH,
    ),
)
