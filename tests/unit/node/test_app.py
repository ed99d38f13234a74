"""Where a node listens, and behind which door."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from node.app import _listener
from node.options import parse
from shared_state.errors import ConfigurationError
from tests.unit.node.house import mesh


@pytest.mark.parametrize(
    ("sections", "words", "opens"),
    [
        ({}, [], False),
        ({"keys": {"required": True}}, [], True),
        ({"proxy": {"auth": {"tokens": ["t0ken"]}}}, [], True),
        ({}, ["--insecure"], True),
    ],
)
def test_beyond_loopback_somebody_must_stand_at_the_door(
    sections: dict[str, Any], words: list[str], opens: bool
) -> None:
    """Tokens or client keys; or the risk is taken in so many words."""
    options = parse(["-c", "mesh.yaml", "--host", "0.0.0.0", "--port", "0", *words])
    topology = mesh("alpha.m", **sections)

    if opens:
        with closing(_listener(options, topology)) as listener:
            assert listener.getsockname()[0] == "0.0.0.0"
    else:
        with pytest.raises(ConfigurationError, match=r"keys\.required"):
            _listener(options, topology)
