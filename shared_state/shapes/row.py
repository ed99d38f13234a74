"""What all shapes have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """A part of an answer. What a later release adds is passed over by an older command."""

    # built at its first use: a process uses few of the shapes, and some never
    model_config = ConfigDict(frozen=True, defer_build=True)
