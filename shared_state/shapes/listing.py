"""What a provider lists, in one shape for all vendors."""

from __future__ import annotations

from pydantic import Field

from shared_state.shapes.row import Row


class ListedModel(Row):
    """A model as its provider lists it; what the vendor does not say is null."""

    id: str
    created: float | None = None
    owned_by: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    price_input: float | None = Field(None, description="USD per million tokens")
    price_output: float | None = Field(None, description="USD per million tokens")
    is_active: bool = Field(True, description="false where the vendor says that it does not serve")
    is_deprecated: bool = Field(False, description="the vendor has announced its end")
    retires: float | None = Field(None, description="when that is, unix seconds")


class ListingView(Row):
    """The models that a provider lists."""

    provider: str
    models: list[ListedModel]
