"""The connector catalogue as data: providers, their default models, selection strategies."""

from shared_state.catalogue.lookup import (
    CatalogueError,
    connector_profile,
    selection_strategy,
    spoken_profiles,
)
from shared_state.catalogue.profiles import CatalogueModel, ConnectorProfile

__all__ = [
    "CatalogueError",
    "CatalogueModel",
    "ConnectorProfile",
    "connector_profile",
    "selection_strategy",
    "spoken_profiles",
]
