"""The pools that cluster tests share one cluster with."""

from __future__ import annotations

import importlib
import pkgutil

import tests.cluster
from shared_state.config.root import MeshConfig
from shared_state.topology import build_topology
from tests.cluster.mesh import mesh, with_addresses


def test_the_shared_cluster_has_a_sound_configuration():
    """No two test modules use a name for different pools, and nodes would accept all of them together."""
    modules = [
        importlib.import_module(f"tests.cluster.{m.name}")
        for m in pkgutil.iter_modules(tests.cluster.__path__)
    ]
    pools = [pool for module in modules for pool in getattr(module, "POOLS", ())]
    urls = dict.fromkeys(("alpha", "beta", "doomed", "quiet"), "http://127.0.0.1:9/v1")
    config = with_addresses(mesh(*pools), urls)

    assert len(build_topology(MeshConfig.model_validate(config)).pools) >= len(pools)
