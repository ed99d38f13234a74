"""What keeps a model from serving a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.abilities import abilities_of, floor_of, is_roomy, unfit
from node.routing.needs import NAMES, Feature, Needs
from shared_state.config import ModelConfig


def model(**settings: Any):
    return abilities_of(ModelConfig.model_validate({"provider": "alpha", **settings}))


@pytest.mark.parametrize("feature", list(Feature))
def test_only_what_is_declared_to_be_missing_is_in_the_way(feature):
    """``false`` refuses, ``true`` and silence do not."""
    name, wanted = NAMES[feature.value], Needs(wants=feature.value)

    assert unfit(model(features={name: False}), wanted) == name
    assert unfit(model(features={name: False}), Needs()) is None
    assert unfit(model(features={name: True}), wanted) is None
    assert unfit(model(), wanted) is None


def test_the_first_missing_feature_is_named():
    """One obstacle is enough; the order is fixed."""
    blind = model(features={"vision": False, "tool_calling": False})

    assert unfit(blind, Needs(wants=Feature.VISION | Feature.TOOL_CALLING)) == "tool_calling"


@pytest.mark.parametrize(
    ("constraints", "needed", "obstacle"),
    [
        ({"max_output_tokens": 100}, Needs(output=100), None),
        ({"max_output_tokens": 100}, Needs(output=101), "max_output_tokens"),
        ({"max_images": 0}, Needs(images=1), "max_images"),
        ({"max_images": 1}, Needs(images=1), None),
        ({"max_file_size": "1KB"}, Needs(file_bytes=1001), "max_file_size"),
        ({"supported_languages": ["de", "en-GB"]}, Needs(language="en"), None),
        ({"supported_languages": ["de"]}, Needs(language="fr"), "supported_languages"),
        ({"supported_languages": ["de"]}, Needs(), None),
        ({"context_window": 100}, Needs(input_least=100), None),
        ({"context_window": 100}, Needs(input_least=101), "context_window"),
        ({}, Needs(output=10**9, images=99, file_bytes=10**9, language="fr", input_least=10**9), None),
    ],
)
def test_sizes_are_compared_with_what_is_declared(constraints, needed, obstacle):
    """At the limit a model serves; beyond it the limit is named; without one everything goes."""
    assert unfit(model(constraints=constraints), needed) == obstacle


_SIZES = st.none() | st.integers(1, 5)
_ABILITIES = st.builds(
    lambda tools, window, output, images, languages: model(
        features={} if tools is None else {"tool_calling": tools},
        constraints={
            "supported_languages": languages,
            **{
                name: size
                for name, size in [
                    ("context_window", window),
                    ("max_output_tokens", output),
                    ("max_images", images),
                ]
                if size is not None
            },
        },
    ),
    st.none() | st.booleans(),
    _SIZES,
    _SIZES,
    _SIZES,
    st.lists(st.sampled_from(["de", "en", "fr"]), max_size=2),
)
_NEEDS = st.builds(
    Needs,
    wants=st.sampled_from([0, Feature.TOOL_CALLING.value]),
    input_least=st.integers(0, 6),
    output=st.integers(0, 6),
    images=st.integers(0, 6),
    language=st.sampled_from(["", "de", "en", "fr"]),
)


@given(st.lists(_ABILITIES, min_size=1, max_size=4), _NEEDS)
def test_who_needs_no_more_than_the_floor_is_served_by_everyone(models, needed):
    """The short way over the floor never lets anybody in that one of the models would refuse."""
    floor = floor_of(models)
    if unfit(floor, needed) is None:
        assert [unfit(one, needed) for one in models] == [None] * len(models)
    if len(models) == 1:
        assert unfit(floor, needed) == unfit(models[0], needed)


def test_a_request_is_roomy_if_even_a_careful_estimate_fits():
    """Input and stated output share the window."""
    small = model(constraints={"context_window": 1000})

    assert is_roomy(small, Needs(input_most=900, output=100))
    assert not is_roomy(small, Needs(input_most=901, output=100))
    assert is_roomy(model(), Needs(input_most=10**9))
