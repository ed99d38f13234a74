"""Peers beside nodes: what they are told, and what counts as a whole answer of theirs."""

from __future__ import annotations

import pytest

from benchmarks.driver import judge
from benchmarks.peers import PEERS, LiteLlm
from benchmarks.scenarios import ORDERS, SCENARIOS


def test_every_model_of_the_mock_is_known_to_litellm():
    models = LiteLlm(has_redis=False)._config(9)["model_list"]

    assert {entry["model_name"] for entry in models} == set(ORDERS)
    assert all(entry["litellm_params"]["api_base"] == "http://127.0.0.1:9/v1" for entry in models)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_may_put_events_together_anew(name: str):
    """A stream with fewer events than the mock has sent is whole for a peer, and a fault for a node."""
    scenario = SCENARIOS["burst"]
    body = b'data: {"x": 1}\n\n' * (scenario.chunks + 1) + b"data: [DONE]\n\n"

    assert judge(200, body, scenario, counts_events=PEERS[name]().keeps_events) is None
    assert judge(200, body, scenario) is not None


def test_a_stream_that_lost_content_is_a_fault_for_everybody():
    scenario = SCENARIOS["burst"]
    body = b'data: {"x": 1}\n\n' * (scenario.chunks - 1) + b"data: [DONE]\n\n"

    assert judge(200, body, scenario, counts_events=False) is not None
