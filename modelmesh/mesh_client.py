"""The client that `create` makes: an OpenAI client with a mesh behind it. Importing this needs the `openai` package: see `extras`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import openai

from modelmesh.mesh import ModelMesh
from modelmesh.operator import Operator
from modelmesh.ops_client import OpsClient
from node.api.surfaces import SURFACES
from shared_state.topology import Topology

#: Parts of a client whose calls name a model: the path that they post to, and the calls.
_ASKING: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "chat.completions": ("/chat/completions", ("create", "parse", "stream")),
    "completions": ("/completions", ("create",)),
    "responses": ("/responses", ("create", "parse", "stream")),
    "embeddings": ("/embeddings", ("create",)),
    "moderations": ("/moderations", ("create",)),
    "images": ("/images/generations", ("generate", "edit", "create_variation")),
    "audio.speech": ("/audio/speech", ("create",)),
    "audio.transcriptions": ("/audio/transcriptions", ("create",)),
    "audio.translations": ("/audio/translations", ("create",)),
}


class MeshClient(Operator, openai.OpenAI):
    """An `openai.OpenAI` that knows what ``model`` means where a call leaves it out, and the mesh behind it.

    `close` ends its use of the mesh; so does leaving its context.
    """

    _mesh: ModelMesh
    _defaults: Mapping[str, str]
    _on_close: Callable[[], None]

    def attach(
        self,
        mesh: ModelMesh,
        *,
        defaults: Topology,
        names: Sequence[str],
        on_close: Callable[[], None],
    ) -> None:
        """Called once, before anybody has the client."""
        self._take(mesh, _defaults_of(names, defaults), on_close)

    @property
    def mesh(self) -> ModelMesh:
        """The mesh behind it, which other clients may share."""
        return self._mesh

    def copy(self, **options: Any) -> MeshClient:
        """Another client on the same mesh with other options, as in the OpenAI SDK."""
        twin = super().copy(**options)
        twin._take(self._mesh, self._defaults, self._on_close)
        return twin

    with_options = copy

    def close(self) -> None:
        """Let go of the mesh, which ends with its last client. May be called again."""
        super().close()
        self._on_close()

    def _ops(self) -> OpsClient:
        return self._mesh._ops()

    def _take(self, mesh: ModelMesh, defaults: Mapping[str, str], on_close: Callable[[], None]) -> None:
        self._mesh, self._defaults, self._on_close = mesh, defaults, on_close
        for part, default in defaults.items():
            asking = functools.reduce(getattr, part.split("."), self)
            for call in _ASKING[part][1]:
                if (method := getattr(asking, call, None)) is not None:
                    setattr(asking, call, _with_default(method, default))


def _defaults_of(names: Sequence[str], topology: Topology) -> dict[str, str]:
    """Which of the names each part of a client asks for: the first one whose models can answer there."""
    serves = {surface.path: surface.serves for surface in SURFACES}
    defaults = {}
    for part, (path, _) in _ASKING.items():
        for name in names:
            found = topology.resolve(name)
            models = found.models or [model for pool in found.pools for model in pool.models]
            if any(serves[path](model.capabilities) for model in models):
                defaults[part] = name
                break
    return defaults


def _with_default(method: Callable[..., Any], model: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **fields: Any) -> Any:
        given = fields.pop("model", None)
        return method(*args, **fields, model=given or model)

    return call
