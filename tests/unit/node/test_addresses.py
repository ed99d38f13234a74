"""The address under which a node is registered is one at which others find it."""

from __future__ import annotations

import socket

import pytest

from node.app import _reachable


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "::1"])
def test_an_address_of_its_own_stays(host: str) -> None:
    """It listens there and nowhere else."""
    assert _reachable(host) == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_are_one_that_the_machines_name_stands_for(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container that is the container's; without any, only this machine can reach it."""
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "172.18.0.4")
    assert _reachable(host) == "172.18.0.4"

    def unknown(name: str) -> str:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert _reachable(host) == "127.0.0.1"
