"""Optional packages, and what to say when one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from modelmesh.errors import MissingExtraError


def require_openai() -> None:
    """Raises MissingExtraError unless the `openai` package is installed."""
    if find_spec("openai") is None:
        raise MissingExtraError(
            "clients need the openai package: pip install 'modelmesh[openai]'", name="openai"
        )
