"""ModelMesh: a capability-driven LLM router that runs as a cluster.

`ModelMesh` is the whole router inside a program, `create` a client of one without any configuration. Both are imported when they are first
asked for: `import modelmesh` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from modelmesh.errors import FrontDoorError as FrontDoorError
    from modelmesh.errors import MeshClosedError as MeshClosedError
    from modelmesh.errors import MissingExtraError as MissingExtraError
    from modelmesh.errors import NoProvidersError as NoProvidersError
    from modelmesh.errors import OpsError as OpsError
    from modelmesh.errors import StartError as StartError
    from modelmesh.errors import StoreError as StoreError
    from modelmesh.errors import WrongLoopError as WrongLoopError
    from modelmesh.mesh import ModelMesh as ModelMesh
    from modelmesh.mesh_client import MeshClient as MeshClient
    from modelmesh.zero import create as create
    from shared_state.config.root import MeshConfig as MeshConfig
    from shared_state.errors import ConfigurationError as ConfigurationError
    from shared_state.errors import ModelMeshError as ModelMeshError
    from shared_state.errors import ModelNotFoundError as ModelNotFoundError

__version__ = "0.1.0"

_PLACES: Final = {
    "ModelMesh": "modelmesh.mesh",
    "MeshClient": "modelmesh.mesh_client",
    "create": "modelmesh.zero",
    "MeshConfig": "shared_state.config.root",
    "ConfigurationError": "shared_state.errors",
    "FrontDoorError": "modelmesh.errors",
    "MeshClosedError": "modelmesh.errors",
    "MissingExtraError": "modelmesh.errors",
    "ModelMeshError": "shared_state.errors",
    "ModelNotFoundError": "shared_state.errors",
    "NoProvidersError": "modelmesh.errors",
    "OpsError": "modelmesh.errors",
    "StartError": "modelmesh.errors",
    "StoreError": "modelmesh.errors",
    "WrongLoopError": "modelmesh.errors",
}

__all__ = ["__version__", *(name for name in _PLACES if name != "MeshClient")]  # that one needs `openai`


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(place), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
