"""Peers beside nodes: what they are told, and what counts as a whole answer of theirs."""

from __future__ import annotations

import tomllib

import orjson
import pytest

from benchmarks.driver import judge
from benchmarks.peers import PEERS, LiteLlm, tensorzero_config
from benchmarks.scenarios import BODY_BYTES, ORDERS, SCENARIOS, Target


def test_every_model_of_the_mock_is_known_to_litellm():
    models = LiteLlm(has_redis=False)._config(9)["model_list"]

    assert {entry["model_name"] for entry in models} == set(ORDERS)
    assert all(entry["litellm_params"]["api_base"] == "http://127.0.0.1:9/v1" for entry in models)


def test_every_model_of_the_mock_is_known_to_tensorzero():
    models = tomllib.loads(tensorzero_config(9))["models"]

    assert set(models) == set(ORDERS)
    assert {entry["providers"]["mock"]["api_base"] for entry in models.values()} == {"http://127.0.0.1:9/v1/"}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_asked_as_much_as_a_node(name: str):
    """Its own names of models and its paths do not make a request's body longer."""
    peer = PEERS[name]()
    scenario = SCENARIOS["unary32"]
    head, _, body = scenario.request(peer.target).partition(b"\r\n\r\n")

    assert len(body) == BODY_BYTES
    assert orjson.loads(body)["model"] == f"{peer.model_prefix}{scenario.model}"
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1")


def test_a_path_of_a_peer_comes_before_ours():
    request = SCENARIOS["unary1"].request(Target(9, path_prefix="/openai"))

    assert request.startswith(b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:9\r\n")


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
