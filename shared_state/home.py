"""Where this machine keeps ModelMesh's state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def state_folder(environ: Mapping[str, str]) -> Path:
    """MODELMESH_HOME, else `modelmesh` in the user's state folder; not created here."""
    if explicit := environ.get("MODELMESH_HOME"):
        return Path(explicit).expanduser().absolute()
    if xdg := environ.get("XDG_STATE_HOME"):
        return Path(xdg) / "modelmesh"
    return Path.home() / ".local" / "state" / "modelmesh"
