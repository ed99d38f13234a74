"""Tests on a Docker engine run only when they are asked for: they take minutes, and may install the engine."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves them out, unless a mark expression or a path on the command line says otherwise."""
    is_asked_for = config.option.markexpr or any("containers" in argument for argument in config.args)
    if is_asked_for:
        return
    left_out = [item for item in items if item.get_closest_marker("containers")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
