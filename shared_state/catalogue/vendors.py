"""Providers that this release can talk to, in the order in which zero-configuration looks for them; services of the web come last.

Prices are USD per million tokens, as documented by the vendors when the entry was written; a configuration overrides
them. A model without ``zero_config`` is only a source of defaults for configured models of that name.
"""

from __future__ import annotations

from typing import Final

from shared_state.catalogue.profiles import CatalogueModel, ConnectorProfile
from shared_state.catalogue.web_vendors import WEB_VENDORS

_CHAT: Final = ("chat-completion",)
_CODE: Final = ("chat-completion", "code-generation")
_EMBEDDINGS: Final = ("text-embeddings",)
_SPEECH_TO_TEXT: Final = ("speech-to-text",)
_IMAGES: Final = ("text-to-image",)
_GROUNDED: Final = ("grounded-generation",)

_CHAT_AND_RESPONSES: Final = frozenset({"chat", "responses"})

_TOOLS: Final = {"tool_calling": True, "json_mode": True, "system_prompt": True}
_TOOLS_AND_EYES: Final = {**_TOOLS, "vision": True}
_SCHEMAS_AND_EYES: Final = {**_TOOLS_AND_EYES, "structured_output": True, "logprobs": True}
_CLAUDES: Final = {"tool_calling": True, "vision": True, "system_prompt": True, "reasoning": True}
_TEXT_ONLY: Final = {**_TOOLS, "vision": False}

VENDORS: Final[tuple[ConnectorProfile, ...]] = (
    ConnectorProfile(
        id="openai.llm.v1",
        provider_name="openai",
        base_url="https://api.openai.com/v1",
        env_var="OPENAI_API_KEY",
        apis=_CHAT_AND_RESPONSES,
        models=(
            CatalogueModel("gpt-4o", _CHAT, 128_000, 16_384, 2.5, 10.0, _SCHEMAS_AND_EYES, zero_config=True),
            CatalogueModel(
                "gpt-4o-mini", _CHAT, 128_000, 16_384, 0.15, 0.6, _SCHEMAS_AND_EYES, zero_config=True
            ),
            CatalogueModel("gpt-4-turbo", _CHAT, 128_000, 4_096, 10.0, 30.0, _TOOLS_AND_EYES),
            CatalogueModel("gpt-3.5-turbo", _CHAT, 16_385, 4_096, 0.5, 1.5, _TEXT_ONLY),
            CatalogueModel("text-embedding-3-small", _EMBEDDINGS, 8_191, None, 0.02, 0.0, zero_config=True),
            CatalogueModel("text-embedding-3-large", _EMBEDDINGS, 8_191, None, 0.13, 0.0),
        ),
    ),
    ConnectorProfile(
        id="anthropic.claude.v1",
        provider_name="anthropic",
        base_url="https://api.anthropic.com/v1",
        auth="x-api-key",
        env_var="ANTHROPIC_API_KEY",
        dialect="anthropic",
        apis=frozenset({"messages"}),
        models=(
            CatalogueModel(
                "claude-sonnet-4-20250514", _CHAT, 200_000, 16_384, 3.0, 15.0, _CLAUDES, zero_config=True
            ),
            CatalogueModel(
                "claude-haiku-4-5-20251001", _CHAT, 200_000, 8_192, 0.8, 4.0, _CLAUDES, zero_config=True
            ),
        ),
    ),
    ConnectorProfile(
        id="groq.api.v1",
        provider_name="groq",
        base_url="https://api.groq.com/openai/v1",
        env_var="GROQ_API_KEY",
        dialect="groq",
        models=(
            CatalogueModel(
                "llama-3.3-70b-versatile", _CHAT, 128_000, 32_768, features=_TEXT_ONLY, zero_config=True
            ),
            CatalogueModel("llama-3.1-8b-instant", _CHAT, 128_000, features=_TEXT_ONLY),
            CatalogueModel("gemma2-9b-it", _CHAT, 8_192),
            CatalogueModel("mixtral-8x7b-32768", _CHAT, 32_768),
            CatalogueModel("whisper-large-v3-turbo", _SPEECH_TO_TEXT),
        ),
    ),
    ConnectorProfile(
        id="mistral.api.v1",
        provider_name="mistral",
        base_url="https://api.mistral.ai/v1",
        env_var="MISTRAL_API_KEY",
        dialect="mistral",
        models=(
            CatalogueModel("mistral-large-latest", _CHAT, 128_000, 8_192, features=_TOOLS, zero_config=True),
            CatalogueModel("mistral-small-latest", _CHAT, 128_000, 8_192, features=_TOOLS, zero_config=True),
            CatalogueModel("codestral-latest", _CODE, 32_000, features=_TEXT_ONLY),
            CatalogueModel("mistral-embed", _EMBEDDINGS, 8_192, zero_config=True),
        ),
    ),
    ConnectorProfile(
        id="together.api.v1",
        provider_name="together",
        base_url="https://api.together.xyz/v1",
        env_var="TOGETHER_API_KEY",
        dialect="together",
        models=(
            CatalogueModel("meta-llama/Llama-3.3-70B-Instruct-Turbo", _CHAT),
            CatalogueModel("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", _CHAT, zero_config=True),
            CatalogueModel("Qwen/Qwen2.5-72B-Instruct-Turbo", _CHAT),
            CatalogueModel("deepseek-ai/DeepSeek-V3", _CHAT),
            CatalogueModel("BAAI/bge-large-en-v1.5", _EMBEDDINGS),
            CatalogueModel("stabilityai/stable-diffusion-xl-base-1.0", _IMAGES),
        ),
    ),
    ConnectorProfile(
        id="openrouter.gateway.v1",
        provider_name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        env_var="OPENROUTER_API_KEY",
        dialect="openrouter",
        extra_headers={"X-Title": "ModelMesh"},
        models=(
            CatalogueModel("openrouter/auto", _CHAT, zero_config=True),
            CatalogueModel("openai/gpt-4o", _CHAT, 128_000, 16_384, features=_SCHEMAS_AND_EYES),
            CatalogueModel("anthropic/claude-sonnet-4", _CHAT, features=_TOOLS_AND_EYES),
            CatalogueModel("google/gemini-2.0-flash-exp", _CHAT),
            CatalogueModel("meta-llama/llama-3.3-70b-instruct", _CHAT),
        ),
    ),
    ConnectorProfile(
        id="deepseek.api.v1",
        provider_name="deepseek",
        base_url="https://api.deepseek.com/v1",
        env_var="DEEPSEEK_API_KEY",
        dialect="none",
        models=(
            CatalogueModel("deepseek-chat", _CHAT, 64_000, 8_192, 0.14, 0.28, _TEXT_ONLY, zero_config=True),
            CatalogueModel("deepseek-reasoner", _CHAT, features={"reasoning": True, "vision": False}),
        ),
    ),
    ConnectorProfile(
        id="xai.grok.v1",
        provider_name="xai",
        base_url="https://api.x.ai/v1",
        env_var="XAI_API_KEY",
        apis=_CHAT_AND_RESPONSES,
        models=(
            CatalogueModel("grok-2", _CHAT, 128_000, 32_768, features=_TOOLS, zero_config=True),
            CatalogueModel("grok-2-mini", _CHAT, 128_000, 32_768, features=_TOOLS),
        ),
    ),
    ConnectorProfile(
        id="perplexity.search.v1",
        provider_name="perplexity",
        base_url="https://api.perplexity.ai",  # its documented SDK address has no version prefix
        env_var="PERPLEXITY_API_KEY",
        dialect="none",
        models=(
            CatalogueModel("sonar", _GROUNDED, 128_000, zero_config=True),
            CatalogueModel("sonar-pro", _GROUNDED, 200_000, 8_192),
            CatalogueModel("sonar-reasoning-pro", _GROUNDED, features={"reasoning": True}),
        ),
    ),
    ConnectorProfile(
        id="fireworks.api.v1",
        provider_name="fireworks",
        base_url="https://api.fireworks.ai/inference/v1",
        env_var="FIREWORKS_API_KEY",
        dialect="fireworks",
        models=(
            CatalogueModel("accounts/fireworks/models/llama-v3p3-70b-instruct", _CHAT, zero_config=True),
        ),
    ),
    ConnectorProfile(
        id="ollama.local.v1",
        provider_name="ollama",
        base_url="http://127.0.0.1:11434/v1",
        auth="none",
        requires_key=False,
        env_var="OLLAMA_HOST",
        dialect="none",
        models=(
            CatalogueModel("llama3", _CHAT, zero_config=True),
            CatalogueModel("codellama", _CODE),
            CatalogueModel("mistral", _CHAT),
            CatalogueModel("gemma2", _CHAT),
        ),
    ),
    ConnectorProfile(
        id="lmstudio.local.v1",
        provider_name="lmstudio",
        base_url="http://127.0.0.1:1234/v1",
        auth="none",
        requires_key=False,
        env_var="LMSTUDIO_HOST",
        dialect="none",
    ),
    ConnectorProfile(
        id="vllm.local.v1",
        provider_name="vllm",
        base_url="http://127.0.0.1:8000/v1",
        auth="none",
        requires_key=False,
        env_var="VLLM_HOST",
        dialect="none",
    ),
    ConnectorProfile(
        id="localai.local.v1",
        provider_name="localai",
        base_url="http://127.0.0.1:8080/v1",
        auth="none",
        requires_key=False,
        env_var="LOCALAI_HOST",
        dialect="none",
    ),
    ConnectorProfile(
        id="openai-compatible.v1",
        provider_name="openai-compatible",
        base_url=None,
        requires_key=False,
    ),
    *WEB_VENDORS,
)

UNSPOKEN: Final[dict[str, str | None]] = {
    "google.gemini.v1": "GOOGLE_API_KEY",
    "cohere.nlp.v1": "COHERE_API_KEY",
    "elevenlabs.tts.v1": "ELEVENLABS_API_KEY",
    "azure.tts.v1": None,
    "assemblyai.stt.v1": "ASSEMBLYAI_API_KEY",
    "huggingface.inference.v1": "HF_TOKEN",
    "cloudflare.workers-ai.v1": None,
    "aws.bedrock.v1": None,
    "google.cloud-ai.v1": None,
    "stability.image-gen.v1": None,
    "fal.media-gen.v1": None,
    "replicate.inference.v1": None,
    "google.search.v1": None,
    "microsoft.bing-search.v1": None,
    "unstructured.doc-parse.v1": None,
    "llamaindex.doc-parse.v1": None,
    "deepl.translation.v1": None,
    "google.moderation.v1": None,
}
"""Catalogue ids with a wire format of their own, and the variable that holds their key where one is documented."""

OTHER_SPELLINGS: Final[dict[str, str]] = {
    "openrouter.api.v1": "openrouter.gateway.v1",
    "xai.api.v1": "xai.grok.v1",
    "cohere.api.v1": "cohere.nlp.v1",
    "jina.search.v1": "jina.ai.v1",
    "firecrawl.search.v1": "firecrawl.scrape.v1",
}
"""Ids that older pages print for the same provider."""
