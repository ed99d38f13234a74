"""The Lua commands: one file each, shared pieces in ``include/``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^--#include (\w+)$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """Text of a command with its includes in place; each include once, in the order of the file.

    Raises:
        FileNotFoundError: no such command or include.
    """
    folder = files(__name__)
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda m: (folder / "include" / f"{m[1]}.lua").read_text(encoding="utf-8"), text)


def commands() -> list[str]:
    """Names of all commands."""
    return sorted(f.name.removesuffix(".lua") for f in files(__name__).iterdir() if f.name.endswith(".lua"))
