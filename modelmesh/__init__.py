"""ModelMesh: a capability-driven LLM router that runs as a cluster."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
